"""What must hold after every event of a federation, whatever was cut, killed, wiped or repeated.

`Rules` applies the agreed log to a catalog of its own, the truth, and hears of each change of every registry,
copy, view and watch. Digests are sums over rows, so that a check costs what the change costs.
"""

import contextlib
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from discovery.core.catalog import Catalog
from discovery.core.commands import Command, PublishEndpoints, RemoveCluster, SweepRemoved, decode_command
from discovery.core.kinds import decode_spec
from discovery.core.model import (
    FEDERATION_SCOPE,
    Change,
    Endpoint,
    EndpointKey,
    Resource,
    ResourceKey,
    ServiceKey,
    unpack_endpoint,
    unpack_resource,
)
from discovery.core.publishing import publish_lease
from discovery.core.specs import MemberSpec, ObservationSpec
from discovery.core.tables import Tables
from federation.api.registry import ClusterRegistry
from federation.replication.followed_view import FollowedView
from federation.replication.state import FollowerState, Update
from federation.replication.wire import shown
from tests.simulation.checks import ViolationError
from tests.simulation.federation.lifecycle_rules import LifecycleRules
from tests.simulation.federation.move_rules import MoveRules
from tests.simulation.federation.outside import unhealthy, wrongly_held
from tests.simulation.federation.parts import Parts

if TYPE_CHECKING:
    from tests.simulation.federation.agents import SimAgent

OWNER = "a row is changed by its owner's controllers only"
FENCE = "only the newest holder of its lease publishes for a cluster"
NEWER = "a row is replaced by a newer one only"
REASON = "nothing is removed without a reason"
GROWS = "revisions only grow"
WATCH = "a watch delivers each change once, in order"
COPY = "a copy is what the catalog was at its revision"
VIEW = "equal revision and local table, equal view"
HELD = "what was acknowledged is held, and seen at home"
EQUAL = "equal logs, equal catalogs"
PRESERVED = "nobody withdraws what he lost all at once"
VERDICT = "no cluster is found dead by one observer"
OUTSIDE = "no address outside is held to be lost by one checker, or by those who are lost themselves"
GLOBAL = "what was acknowledged as global had been committed"
CONVERGED = "everything converges"

LOG = "the log"

_encoder = msgspec.msgpack.Encoder()


def hashed(*parts: object) -> int:
    """Return a number for the sums that stand for sets."""
    return int.from_bytes(hashlib.blake2b(_encoder.encode(parts), digest_size=8).digest(), "big")


class RowSum:
    """The digest of a set of rows, kept as they change."""

    def __init__(self) -> None:
        self.value = 0
        self._rows: dict[tuple[str, bytes], int] = {}

    def take(self, changes: Iterable[Change]) -> None:
        """Go on by changes of rows."""
        for change in changes:
            key = (change.table, change.key)
            self.value ^= self._rows.pop(key, 0)
            if change.value is not None:
                self._rows[key] = hashed(change.table, change.key, change.value)
                self.value ^= self._rows[key]


class Rules:
    """The judge of one run."""

    def __init__(self, parts: Parts, now_s: Callable[[], float]) -> None:
        self.truth = parts.catalog()
        self.truth.on_change(lambda revision, changes: self._news.append((revision, changes)))
        self.violation: ViolationError | None = None
        self.agents: dict[str, SimAgent] = {}
        self.expired: dict[bytes, tuple[int, int]] = {}
        self.checked = 0
        self.dead = 0  # Verdicts.
        self.unhealthy = 0  # Addresses outside that were held to be so, counted with each change.
        self._now_s = now_s
        self._news: list[tuple[int, tuple[Change, ...]]] = []
        self._revisions: list[int] = []
        self._changes: list[tuple[Change, ...]] = []
        self._sum = RowSum()
        self.sums: dict[int, int] = {0: 0}  # Of what followers get, by revision.
        self._views: dict[tuple[str, int, int], tuple[int, str]] = {}
        self._heard_s: dict[tuple[str, str], dict[str, float]] = {}
        self._committed: dict[bytes, tuple[int, int]] = {}  # The newest version that ever was in the log,
        self._journalled: dict[bytes, tuple[int, int]] = {}  # and in a controller's journal.
        self._tables: dict[tuple[str, str], WatchedRegistry] = {}  # Of the newest lives of controllers.
        self.sweeping: tuple[str, str] | None = None
        self.lifecycle = LifecycleRules(self, now_s)
        self.moves = MoveRules(self)

    def fail(self, rule: str, what: str) -> ViolationError:
        """Note a violation; the first one is the run's outcome."""
        error = ViolationError(rule, f"{what} (at {self._now_s():.3f} s)")
        self.violation = self.violation or error
        return error

    # -- the log -----------------------------------------------------------------------------------

    def committed(self, index: int, command: bytes) -> None:
        """Apply an entry of the agreed log and judge what it changed."""
        before = self.truth.tables
        self.truth.apply(index, command)
        for revision, changes in self._news:
            self.checked += 1
            if self._revisions and revision <= self._revisions[-1]:
                self.fail(GROWS, f"{revision} after {self._revisions[-1]}")
            self._revisions.append(revision)
            self._changes.append(changes)
            self._sum.take(shown(changes))
            self.sums[revision] = self._sum.value
            self._judge(decode_command(command), before, changes)
        self._news.clear()

    def _judge(self, command: Command, before: Tables, changes: tuple[Change, ...]) -> None:
        body = command.body
        self.lifecycle.judge(command, before, changes)
        for wrong in wrongly_held(self.truth.tables) if any(map(_concerns_outside, changes)) else ():
            self.fail(OUTSIDE, wrong)
        self.moves.judge(command, before, changes, self._now_s())
        if isinstance(body, PublishEndpoints):
            lease = self.truth.lease(publish_lease(body.cluster))
            if lease is None or lease.fence != body.fence:
                self.fail(
                    FENCE, f"{command.proposer} published for {body.cluster} with {body.fence}: {lease}"
                )
        for change in changes:
            owner, what = _owner(change, before)
            homes = _homes(before, owner) or _homes(self.truth.tables, owner)
            # What a removal may take, `lifecycle` judges.
            is_removal = isinstance(body, RemoveCluster | SweepRemoved)
            if owner and command.proposer not in (owner, *homes) and not is_removal:
                self.fail(OWNER, f"{command.proposer} changed {what}")
            if change.table == "resources" and change.value is not None:
                self.unhealthy += unhealthy(unpack_resource(change.value))
            if what.startswith("Verdict/") and change.value is not None:
                self._judge_verdict(unpack_resource(change.value))
            if change.table == "endpoints":
                there = before.endpoints.get(change.key)
                self.row_changed(LOG, change, None if there is None else unpack_endpoint(there))

    def _judge_verdict(self, verdict: Resource) -> None:
        """A verdict changed: a dead cluster is missed in a plane by two, and by somebody in the other."""
        subject = verdict.key.name
        if decode_spec("Verdict", verdict.spec, where=subject).state != "dead":  # type: ignore[union-attr]
            return
        missing = {"control": set[str](), "data": set[str]()}
        for observer in self.truth.tables.list_resources(FEDERATION_SCOPE, "Cluster"):
            row = self.truth.tables.resource(ResourceKey(observer.key.name, "Observation", "", subject))
            spec = None if row is None else decode_spec("Observation", row.spec, where=subject)
            counts = observer.key.name != subject and not _is_blind(self.truth.tables, observer.key.name)
            if isinstance(spec, ObservationSpec) and counts:
                missing["control"] |= {observer.key.name} if spec.control_lost else set()
                missing["data"] |= {observer.key.name} if spec.data_lost else set()
        self.dead += 1
        if len(missing["data"]) < 2:
            self.fail(VERDICT, f"{subject} is dead, and missed by {missing}")

    def restored(self, name: str, catalog: Catalog) -> None:
        """A controller took a snapshot of the truth."""
        if catalog.revision != self.truth.revision or catalog.digest() != self.truth.digest():
            self.fail(EQUAL, f"{name} restored revision {catalog.revision} of {self.truth.revision}")

    def watched(self, name: str, position: int, revision: int, changes: tuple[Change, ...]) -> None:
        """A watch that had got everything up to `position` got this."""
        self.checked += 1
        at = bisect_right(self._revisions, position)
        if at >= len(self._revisions) or (self._revisions[at], self._changes[at]) != (revision, changes):
            self.fail(WATCH, f"{name} got revision {revision} after {position}")

    # -- rows --------------------------------------------------------------------------------------

    def row_changed(self, where: str, change: Change, there: Endpoint | None) -> None:
        """An endpoint's row was set or removed somewhere."""
        self.checked += 1
        if where == LOG and change.value is not None:
            version = unpack_endpoint(change.value).version
            self._committed[change.key] = max(version, self._committed.get(change.key, version))
        if there is None:
            return
        if change.value is None:
            if not self._has_reason(there):
                self.fail(REASON, f"{where}: {there.key} of {there.agent} at {there.version}")
        elif (now := unpack_endpoint(change.value)).agent == there.agent and now.version < there.version:
            self.fail(NEWER, f"{where}: {there.key} at {now.version} after {there.version}")

    def acknowledged(self, row: Endpoint) -> None:
        """An agent was told that a row is global."""
        self.checked += 1
        if self._committed.get(row.key.encode(), (-1, -1)) < row.version:
            self.fail(GLOBAL, f"{row.key} of {row.agent} at {row.version}")

    def _has_reason(self, row: Endpoint) -> bool:
        if self.lifecycle.is_over(row):
            return True
        agent = self.agents.get(row.agent)
        if agent is None or row.version < agent.withdrawn.get(row.key, (-1, -1)):
            return True
        return row.version <= self.expired.get(row.key.encode(), (-1, -1))

    def journalled(self, rows: Iterable[Endpoint]) -> None:
        """A controller has these rows on its disk, beyond what the log has."""
        for row in rows:
            key = row.key.encode()
            self._journalled[key] = max(row.version, self._journalled.get(key, row.version))

    def serves(self, name: str, cluster: str, table: "WatchedRegistry") -> None:
        """A controller, started anew or not, has this table of a cluster from now on."""
        self._tables[name, cluster] = table

    def died_untold(self, row: Endpoint) -> bool:
        """True for what only controllers knew that died before the log or a journal held it, and its agent says no more.

        So its agent fell silent in the moment in which they died: nobody is left who could say it again.
        """
        key = row.key.encode()
        if row.version <= max(self._committed.get(key, (-1, -1)), self._journalled.get(key, (-1, -1))):
            return False
        agent = self.agents.get(row.agent)
        declared = None if agent is None else agent.declared
        said = None if declared is None else declared.rows.get(row.key)
        if said is not None and said.version >= row.version:
            return False
        return not any(table.knew(key, row.version) for table in self._tables.values())

    def gave_up(self, name: str, cluster: str, row: Endpoint) -> None:
        """A controller removes a row: because its lease has ended, if that is what it looks for now."""
        if self.sweeping == (name, cluster):
            key = row.key.encode()
            self.expired[key] = max(self.expired.get(key, (-1, -1)), row.version)

    @contextlib.contextmanager
    def expiring(self, name: str, cluster: str, registry: ClusterRegistry, now_s: float) -> Iterator[None]:
        """While a controller looks for leases that ended: what goes now went for that."""
        phases = registry.agents()
        by_others = {
            agent for agent in phases if registry._table.is_heard(agent)
        }  # Here, or by the word of another.
        self.sweeping = (name, cluster)
        try:
            yield
        finally:
            self.sweeping = None
        ended = [
            agent
            for agent, phase in registry.agents().items()
            if phase == "ended" and phases.get(agent) not in ("ended", None)
        ]
        lease_s = registry.lease_ms / 1000
        heard = self._heard_s[name, cluster]
        for agent in ended:
            silent_s = now_s - heard.get(agent, heard[""])
            if silent_s < lease_s:
                self.fail(REASON, f"{name} ended the lease of {agent}, silent for {silent_s:.3f} s")
        others = [agent for agent, phase in phases.items() if phase != "ended" and agent not in ended]
        if (
            ended
            and sum(phase != "ended" for phase in phases.values()) > 1
            and not any(now_s - heard.get(one, heard[""]) < lease_s or one in by_others for one in others)
        ):
            self.fail(PRESERVED, f"{name} gave up {ended} of {cluster} and heard nobody else")

    def hears(self, name: str, cluster: str, registry: ClusterRegistry, now_s: Callable[[], float]) -> None:
        """Note when a controller, by its own clock, hears which agent; "" stands for its beginning."""
        heard = self._heard_s[name, cluster] = {"": now_s()}
        real = registry.heard

        def hear(agent: str) -> None:
            heard[agent] = now_s()
            real(agent)

        registry.heard = hear  # type: ignore[method-assign]

    # -- copies and views --------------------------------------------------------------------------

    def copied(self, name: str, revision: int, total: int) -> None:
        """A copy arrived at a revision."""
        self.checked += 1
        if self.sums.get(revision) != total:
            self.fail(COPY, f"{name} at revision {revision}")

    def viewed(self, name: str, cluster: str, revision: int, own: int, view: int) -> None:
        """A view was computed from a revision and a local table."""
        self.checked += 1
        known, by = self._views.setdefault((cluster, revision, own), (view, name))
        if known != view:
            self.fail(VIEW, f"{name} and {by} see {cluster}'s revision {revision} unlike each other")


class WatchedRegistry:
    """The local table of one cluster at one controller, judged as it changes."""

    def __init__(self, name: str, cluster: str, rules: Rules, *, lives: Callable[[], bool]) -> None:
        self._name = name
        self._cluster = cluster
        self._rules = rules
        self._lives = lives  # Whether the process of then still does.
        self._rows: dict[bytes, Endpoint] = {}
        self._newest: dict[bytes, tuple[int, int]] = {}  # Version of each row that it ever had.

    def began(self, registry: ClusterRegistry) -> None:
        """The controller begins to serve the cluster, with what its catalog and its journal have."""
        self._rows = {key: unpack_endpoint(value) for key, value in registry.rows()}
        self._newest = {key: row.version for key, row in self._rows.items()}
        self._rules.serves(self._name, self._cluster, self)

    def knew(self, key: bytes, version: tuple[int, int]) -> bool:
        """True when this process lives, and ever had the row at this version or a later one."""
        return self._lives() and self._newest.get(key, (-1, -1)) >= version

    def told(self, changes: tuple[Change, ...]) -> None:
        """Rows changed."""
        for change in changes:
            there = self._rows.pop(change.key, None)
            if there is not None and change.value is None:
                self._rules.gave_up(self._name, self._cluster, there)
            self._rules.row_changed(f"{self._name}'s table", change, there)
            if change.value is not None:
                row = self._rows[change.key] = unpack_endpoint(change.value)
                self._newest[change.key] = max(row.version, self._newest.get(change.key, row.version))


class WatchedCopy:
    """A follower's copy and view, judged as they change."""

    def __init__(self, name: str, state: FollowerState, rules: Rules) -> None:
        self.name = name
        self.state = state
        self.followed = FollowedView(state)
        self._rules = rules
        self.excused: Callable[[], bool] = lambda: False
        self._rows = RowSum()
        self._own = RowSum()
        self._own_rows: dict[bytes, Endpoint] = {}
        self._view = 0
        self._services: dict[ServiceKey, int] = {}

    @property
    def digest(self) -> tuple[int, int]:
        """Of the copy and of the view."""
        return self._rows.value, self._view

    def holds(self, row: Endpoint) -> bool:
        """True when the view's own cluster shows the row at this version or a later one."""
        held = self._own_rows.get(row.key.encode())
        return held is not None and held.version >= row.version

    def took(self, update: Update) -> None:
        """Go on by one update."""
        if not self.state.complete:
            return
        self._rows.take(update.changes)
        self._own.take(update.own)
        for change in update.own:
            there = self._own_rows.pop(change.key, None)
            # A controller that has just started again gives out the list that its catalog and its journal have, until
            # its agents have come back; what it had not written down goes for good if they died with it.
            if not self.excused() and not (there is not None and self._rules.died_untold(there)):
                self._rules.row_changed(self.name, change, there)
            if change.value is not None:
                self._own_rows[change.key] = unpack_endpoint(change.value)
        if update.empty and self._services:
            return
        self._rules.copied(self.name, self.state.revision, self._rows.value)
        view = self.followed.view
        for key in self.followed.take(update):
            self._view ^= self._services.pop(key, 0)
            service = view.service(key)
            if service is not None:
                own = (view.admission(key), sorted(view.consumers(key))) if service.owners[0].local else ()
                self._services[key] = hashed(service, own)
                self._view ^= self._services[key]
        self._rules.viewed(self.name, self.state.cluster, self.state.revision, self._own.value, self._view)


def _concerns_outside(change: Change) -> bool:
    kinds = ("Cluster", "ExternalObservation", "ExternalService", "Observation")
    return change.table == "resources" and ResourceKey.decode(change.key).kind in kinds


def _owner(change: Change, before: Tables) -> tuple[str, str]:
    """Return the cluster that owns a row, "" where several may write it, and what people call the row."""
    if change.table == "endpoints":
        key = EndpointKey.decode(change.key)
        return key.cluster, f"endpoint {key}"
    resource = ResourceKey.decode(change.key)
    there = before.resources.get(change.key)
    is_outside = resource.kind == "ExternalService"
    if (resource.scope and not is_outside) or there is None or change.value is None:
        return resource.scope, str(resource)
    # What follows from others' observations stands in its status; its spec is its own.
    old, new = unpack_resource(there), unpack_resource(change.value)
    return ("" if old.spec == new.spec else old.owner), str(resource)


def _is_blind(tables: Tables, cluster: str) -> bool:
    """True for a cluster whose member was removed: it observes nobody."""
    row = tables.resource(ResourceKey(FEDERATION_SCOPE, "Member", "", cluster))
    spec = None if row is None else decode_spec("Member", row.spec, where=cluster)
    return isinstance(spec, MemberSpec) and spec.standing == "removed"


def _homes(tables: Tables, cluster: str) -> tuple[str, ...]:
    spec = tables.cluster(cluster) if cluster else None
    return () if spec is None else spec.homes

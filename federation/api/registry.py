"""What the agents of one cluster have declared to this controller, and how long it believes the silent ones."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol, runtime_checkable

import structlog

from discovery.core.canary import is_doubtful
from discovery.core.declarations import NOTHING, Declaration, Declared, Difference, Withdrawn, Word
from discovery.core.local import LocalTable, Phase
from discovery.core.model import Change, Endpoint, EndpointKey, unpack_endpoint, unpack_origin
from discovery.core.poison import controller_places
from discovery.core.quotas import BUILT_IN, Quota, quota_of
from discovery.core.room import Room, Takes
from discovery.core.served import ServedAddresses
from discovery.core.tables import Table, Tables
from federation.api.directory import cluster_spec
from federation.api.heard import HEARD_ROWS_MAX, AgentHeard, Fellows, HeardFeed
from federation.api.reading import CatalogReader
from federation.api.unpublished import UNPUBLISHED_TOLD_MAX, Told, Unpublishable, Unpublished
from federation.kernel.errors import LimitExceededError

_log = structlog.get_logger("registry")

# The share of a lease within which a healthy agent is heard: it speaks three times in one. What falls silent at one moment
# was last heard within a third of a lease, so the first lease ends when nobody has been heard for two thirds.
HEARD_LEASE_SHARE = 1 / 2
UNPUBLISHED_LOGGED_MAX = 20  # Of one agent, each time that they are others.


@runtime_checkable
class Lister(Protocol):
    """A session whose agent can be asked for its whole list."""

    def list_again(self) -> None:
        """End the stream: an agent begins the next one with its list."""


@runtime_checkable
class Guest(Protocol):
    """A session of a proven identity, which can be told to go elsewhere."""

    @property
    def trust_domain(self) -> str:
        """Of that identity."""

    def dismiss(self) -> None:
        """End the stream: the cluster is served here no longer."""


LocalChanged = Callable[[str, tuple[Change, ...]], None]


class ClusterRegistry:
    """The local table of one cluster, with the leases of its agents. Lives on the event loop.

    A lease runs on this process's monotonic clock and is kept by hearing the agent, here or, by the word of
    another controller of the cluster, there; only its outcome, the removal of endpoints, enters the log.
    """

    def __init__(
        self,
        cluster: str,
        *,
        catalog: CatalogReader,
        lease_ms: int,
        clock: Callable[[], float],
        changed: LocalChanged,
    ) -> None:
        self.cluster = cluster
        self.lease_ms = lease_ms
        self.version = 0  # Counts declarations and changes.
        self.published_version = 0  # The log's quorum holds everything up to this version...
        self.held: frozenset[str] = (
            frozenset()
        )  # ... but of these agents, whose rows wait for room or their pace...
        self.published_revision = 0  # ... and this is the newest revision that said so.
        self.dirty = asyncio.Event()  # There may be something to publish.
        self.retired = False  # The cluster was removed, or is another one's to publish for.
        self._published = asyncio.Event()
        self._catalog = catalog
        self._clock = clock
        self._changed = changed
        self._table = LocalTable(cluster)
        self._learnt: Table | None = None
        self._quota = BUILT_IN
        self.delayed_s = 0.0  # In all, by the rate of its quota.
        self.limited = ""  # Why some endpoints are not published, "" while all are...
        self._room: Room | None = None  # ... and for which there is room.
        self.unpublished = Unpublished()  # Accepted once, and refused by the rules of now.
        self._ends_s: dict[str, float] = {}
        self._heard_s = float("-inf")  # When the last of them gave a sign of life.
        self._sessions: dict[str, object] = {}
        # What other controllers of the cluster follow.
        self.heard_here = HeardFeed(self._list_of, is_live=self._table.is_live)
        self.fellows = Fellows()  # Those controllers.
        self._contested: set[str] = set()  # Agents that somebody hears, as the catalog shows, and we do not.
        self._doubted_s: dict[str, float] = {}  # Since when an agent's list is doubted.
        self._expired: deque[tuple[float, int]] = (
            deque()
        )  # When leases ended of late, with how many endpoints.
        self._due: frozenset[str] = frozenset()  # Agents whose end waits for a second look.
        self._seed()
        self._served = self._rules(catalog.tables)
        self.unpublished.judge(self.rows(), self._served)

    def recall(self, rows: Iterable[Endpoint], withdrawn: Iterable[Withdrawn]) -> None:
        """Begin with what a journal of this controller holds beyond the catalog, too; before anybody is served."""
        tables = self._catalog.tables
        spec = cluster_spec(tables, self.cluster)
        self._learn(tables)
        try:
            self._table.recall(rows, withdrawn, spec)
        except LimitExceededError as error:
            _log.error("not_recalled", cluster=self.cluster, reason=error.message)
        self.dirty.set()

    def unsettled(self, key: bytes, theirs: bytes | None) -> bytes | Withdrawn | None:
        """Return what a journal has to hold of a row that the catalog has as `theirs`."""
        return self._table.unsettled(key, theirs)

    def retire(self) -> None:
        """The cluster was removed, or has another home: whoever publishes for it, or is registered here, ends."""
        self.retired = True
        self.dirty.set()
        for session in self._sessions.values():
            if isinstance(session, Guest):
                session.dismiss()

    def rows(self) -> Iterable[tuple[bytes, bytes]]:
        """The merged rows of now."""
        return self._table.endpoints().items()

    def agents(self) -> dict[str, str]:
        """Every known agent and its phase."""
        return {name: phase.value for name, phase in self._table.agents().items()}

    def connected(self) -> frozenset[str]:
        """Return the agents that have a stream here."""
        return frozenset(self._sessions)

    def connected_otherwise(self, trust_domain: str) -> list[str]:
        """Return the agents whose streams were opened by an identity of another trust domain, sorted."""
        return sorted(
            agent
            for agent, session in self._sessions.items()
            if isinstance(session, Guest) and session.trust_domain != trust_domain
        )

    def open(self, agent: str, incarnation: int, session: object) -> None:
        """A stream of `agent` begins; an older one of the same agent no longer speaks for it.

        Raises StaleRevisionError for an earlier start of the agent, LimitExceededError for too many.
        """
        self._table.hello(agent, incarnation)
        self._sessions[agent] = session
        self.heard(agent)

    def heard(self, agent: str) -> None:
        """The agent gave a sign of life."""
        self._heard_s = self._clock()
        if self._due:
            self._due -= {agent}
        self._ends_s[agent] = self._heard_s + self.lease_ms / 1000

    def declare(self, declaration: Declaration, session: object) -> Declared:
        """Merge one message of an agent; a stream that was replaced changes nothing."""
        if self._sessions.get(declaration.agent) is not session:
            return Declared()
        self.heard(declaration.agent)
        tables = self._catalog.tables
        spec = cluster_spec(tables, self.cluster)
        self._learn(tables)
        declared = self._table.declare(declaration, spec)
        self._contested.discard(declaration.agent)
        self.heard_here.changed(declaration.agent)
        self._took(declared.changes)
        return declared

    def hear(self, controller: str, heard: AgentHeard) -> None:
        """Take what another controller of the cluster says of an agent: what it told it, or that it fell silent."""
        if not heard.live:
            self._table.unhear(controller, heard.agent)
            return
        tables = self._catalog.tables
        spec = cluster_spec(tables, self.cluster)
        self._learn(tables)
        word = Word((heard.incarnation, heard.sequence), heard.rows, heard.refused)
        try:
            changes = self._table.hear(controller, heard.agent, word, spec)
        except LimitExceededError as error:
            # It lives all the same, and what else that controller hears must not be lost for it.
            _log.warning("heard_too_much", controller=controller, agent=heard.agent, reason=error.message)
            changes = self._table.hear(controller, heard.agent, NOTHING, spec)
        self._contested.discard(heard.agent)
        if changes:
            self._took(changes)

    def forget(self, controller: str) -> None:
        """Another controller of the cluster is not heard itself any more: its agents have one lease from now."""
        self._table.forget(controller)

    def withheld(self) -> dict[str, int]:
        """Agents whose newest lists left out too much at once, with how many endpoints stay for now."""
        return {agent: len(doubt.missing) for agent, doubt in self._table.doubted().items()}

    def confirm(self, agent: str) -> int:
        """An operator believes an agent's newest list; return how many endpoints go. Raises NotFoundError."""
        changes = self._table.confirm(agent)
        self._took(changes)
        return len(changes)

    def _ask_again(self, now_s: float) -> None:
        """Let those whose lists are doubted for a lease already list again: what is missing then is gone."""
        doubted = self._table.doubted()
        self._doubted_s = {agent: self._doubted_s.get(agent, now_s) for agent in doubted}
        for agent, since_s in self._doubted_s.items():
            if doubted[agent].ripe or now_s - since_s < self.lease_ms / 1000:
                continue
            self._table.ripen(agent)
            session = self._sessions.get(agent)
            if isinstance(session, Lister):
                session.list_again()

    def close(self, agent: str, session: object) -> None:
        """A stream of `agent` ended: its endpoints stay until its lease does."""
        if self._sessions.get(agent) is session:
            del self._sessions[agent]
            self._table.agent_lost(agent)
            self.heard_here.changed(agent)

    def sweep(self) -> None:
        """End the leases that ran out; called every second or so."""
        now = self._clock()
        self._ask_again(now)
        if self._all_silent(now):
            # Whoever returns first must not be the end of those who need a moment longer.
            for agent in self._table.agents():
                self._ends_s[agent] = now + self.lease_ms / 1000
            return
        due = []
        for agent, phase in self._table.agents().items():
            if phase in (Phase.ENDED, Phase.LIVE):
                continue  # A live one has a stream, whose reader notices silence.
            if self._table.is_heard(agent) or (agent in self._contested and self.fellows.missing):
                self._ends_s[agent] = now + self.lease_ms / 1000
                continue  # One controller's silence is an opinion: another one hears it.
            if now >= self._ends_s.setdefault(agent, now + self.lease_ms / 1000):
                due.append(agent)
        if due and not self._too_many(due, now):
            for agent in due:
                self._expire(agent, now)

    def _expire(self, agent: str, now_s: float) -> None:
        changes = self._table.expire(agent)
        # Its rows may come back through the catalog, from a controller that hears it: a new lease then.
        del self._ends_s[agent]
        self._expired.append((now_s, len(changes)))
        _log.warning("agent_lease_ended", cluster=self.cluster, agent=agent, endpoints=len(changes))
        self._took(changes)

    def _too_many(self, due: list[str], now_s: float) -> bool:
        """True when, with these, most of the cluster would go within a lease: they get one more, and no third."""
        lease_s = self.lease_ms / 1000
        while self._expired and now_s - self._expired[0][0] >= lease_s:
            self._expired.popleft()
        gone = sum(count for _, count in self._expired)
        going = sum(self._table.rows_of(agent) for agent in due)
        if not is_doubtful(gone + going, gone + len(self._table.endpoints())) or self._due.issuperset(due):
            self._due -= frozenset(due)
            return False
        _log.warning("agent_leases_extended", cluster=self.cluster, agents=len(due), endpoints=going)
        self._due |= frozenset(due)
        for agent in due:
            self._ends_s[agent] = now_s + lease_s
        return True

    def _all_silent(self, now_s: float) -> bool:
        """True when several agents are known and none was heard of late: then it is this controller that is cut off.

        Self-preservation: what one observer lost all at once, it does not withdraw. An open stream is no sign of life: behind
        a broken link it stays open until its reader notices, for some later than for others.
        """
        agents = {name: phase for name, phase in self._table.agents().items() if phase is not Phase.ENDED}
        heard_of_late = now_s - self._heard_s <= HEARD_LEASE_SHARE * self.lease_ms / 1000
        if Phase.LIVE in agents.values() and heard_of_late:
            return False
        if any(phase is not Phase.LIVE and self._table.is_heard(name) for name, phase in agents.items()):
            return False
        # One agent alone may well have died; not if the other controllers are not heard either.
        return len(agents) > 1 or (len(agents) == 1 and self.fellows.all_missing)

    def absorb(self, changes: tuple[Change, ...]) -> None:
        """Follow what the catalog says of this cluster, from whichever controller it came."""
        rows = (one.value for one in changes if one.table == "endpoints" and one.value is not None)
        told = {unpack_origin(row).agent for row in rows}
        ended = {agent for agent in told if self._table.has_ended(agent)}
        ours = self._table.absorb(changes)
        self._contested |= {agent for agent in ended if not self._table.has_ended(agent)}
        if ours:
            self._changed(self.cluster, ours)
            # A row that was good when it was published may be absorbed after the rules of now are known.
            self._tell_again(self.unpublished.follow(ours, self._served))
        self.dirty.set()

    @property
    def quota(self) -> Quota:
        """What is in force for this cluster now."""
        self._learn(self._catalog.tables)
        return self._quota

    def room(self) -> Room | None:
        """For what there is room in the next batch; None while no limit stands against the whole."""
        if self._room is not None:
            self._room.begin()
        return self._room

    def difference(self, takes: Takes | None = None) -> Difference:
        """The next batch to publish, of what may go with it; all may, where nobody says what."""
        tables = self._catalog.tables
        self._learn(tables)
        return self._table.difference(tables, takes)

    def limit(self, reason: str) -> bool:
        """The log refused a batch for its size; return False when there is no smaller one to try."""
        if self._room is None:
            self.limited = reason
            self._room = Room(self.quota, self._table.published(self._catalog.tables.endpoints))
            return True
        was_open, self._room.open = self._room.open, False
        return was_open

    def unlimit(self) -> None:
        """Try everything again."""
        self.limited, self._room = "", None

    def rules_changed(self) -> None:
        """What rows are judged by changed: those that were refused may be published now."""
        if len(self.unpublished):
            self.dirty.set()

    def judge(self) -> None:
        """The ranges of the cluster, or the places of controllers, may have changed: find the rows to which nobody is sent now."""
        before, self._served = self._served, self._rules(self._catalog.tables)
        if (before.ranges, before.places) != (self._served.ranges, self._served.places):
            self._tell_again(self.unpublished.judge(self.rows(), self._served))

    def published(
        self,
        version: int,
        revision: int,
        refused: Iterable[tuple[EndpointKey, str]] = (),
        held: frozenset[str] = frozenset(),
    ) -> None:
        """The log holds everything up to `version` but what the catalog would refuse, with the reasons, and but of agents `held`."""
        rows = self._table.endpoints()
        found = (
            Unpublishable(key, unpack_endpoint(row).agent, reason)
            for key, reason in refused
            if (row := rows.get(key.encode())) is not None
        )
        self._tell_again(self.unpublished.replace(found))
        self.held = held
        self.published_version = max(self.published_version, version)
        self.published_revision = max(self.published_revision, revision)
        self._published.set()
        self._published = asyncio.Event()

    async def wait_published(self, version: int, agent: str) -> int:
        """Return the revision at which the log held everything of `agent` up to `version`."""
        while self.published_version < version or agent in self.held:
            await self._published.wait()
        return self.published_revision

    def _tell_again(self, agents: Iterable[str]) -> None:
        """What these agents may not publish, or nobody is sent to, is not what they heard last."""
        for agent in sorted(agents):  # A set has another order in each process.
            found = self.unpublished.of(agent)
            for key, reason in islice(found.items(), UNPUBLISHED_LOGGED_MAX):
                _log.warning("endpoint_not_published", endpoint=str(key), agent=agent, reason=reason)
            session = self._sessions.get(agent)
            if len(found) > UNPUBLISHED_TOLD_MAX and isinstance(session, Lister):
                session.list_again()  # Then they are refused one by one.
            elif isinstance(session, Told):
                session.acknowledge_again()

    def _rules(self, tables: Tables) -> ServedAddresses:
        """By which rows of the cluster are served now."""
        spec = tables.cluster(self.cluster)
        return ServedAddresses({} if spec is None else {self.cluster: spec}, controller_places(tables))

    def _learn(self, tables: Tables) -> None:
        """Take over from the catalog what rows are judged by, if any of it may have changed."""
        if tables.resources is not self._learnt:
            self._learnt = tables.resources
            self._table.places = controller_places(tables).of(self.cluster)
            self._table.quota = self._quota = quota_of(tables, self.cluster)

    def _list_of(self, agent: str) -> AgentHeard:
        """What the others are told of an agent."""
        held = self._table.heard_here(agent)
        if held is None:
            return AgentHeard(agent=agent)
        (incarnation, sequence), rows, refused = held
        if len(rows) + len(refused) > HEARD_ROWS_MAX:
            return AgentHeard(agent=agent, live=True)  # The rows come by the log.
        return AgentHeard(
            agent=agent, live=True, incarnation=incarnation, sequence=sequence, rows=rows, refused=refused
        )

    def _seed(self) -> None:
        """Begin with what the catalog holds of this cluster: its agents have one lease to come back."""
        tables = self._catalog.tables
        mine = (
            unpack_endpoint(value)
            for key, value in tables.endpoints.items()
            if EndpointKey.decode(key).cluster == self.cluster
        )
        self._table.seed(mine)

    def _took(self, changes: tuple[Change, ...]) -> None:
        self.version += 1
        if changes:
            self._changed(self.cluster, changes)
            if self.unpublished.withholds:
                self.unpublished.follow(changes, self._served)
        self.dirty.set()

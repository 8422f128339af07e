"""What must hold of drains and removals after every entry of the log, and of who is called in every view."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from discovery.core.commands import Command, Put, RemoveCluster, SweepRemoved, Write
from discovery.core.drain_reports import fails_too_often, is_watched
from discovery.core.drains import counted_out
from discovery.core.kinds import decode_spec
from discovery.core.model import (
    FEDERATION_SCOPE,
    Change,
    Endpoint,
    EndpointKey,
    Resource,
    ResourceKey,
    unpack_endpoint,
)
from discovery.core.ownership import cluster_key
from discovery.core.specs import DrainReportSpec, DrainSpec, JoinTokenSpec
from discovery.core.tables import Tables
from discovery.core.views import ViewIndex
from federation.api.lifecycle import drains
from gateways.core.handover import orphans
from tests.simulation.federation.plan import CLUSTERS

if TYPE_CHECKING:
    from tests.simulation.federation.rules import Rules

DRAIN = "a drain goes down by its steps, in its time, or back up for a reason"
ALONE = "nobody hands over what he alone serves"
FAILING = "a drain under which too much fails is given up, and no other"
REMOVAL = "a removal takes what its cluster had, and nothing else"
RETURN = "what was removed does not come back"
EPOCH = "a name is taken again by the next epoch only, and by that one it is"
LAST = "who is drained is called after all others"

# As long as a step that was decided before may be under way, and be taken late.
ALONE_MAX_S = 15.0
BY_CALLERS = "for callers in cluster "


class LifecycleRules:
    """The judge of drains and removals; `Rules` tells it of every entry."""

    def __init__(self, rules: "Rules", now_s: Callable[[], float]) -> None:
        self.on_removed: Callable[[str], None] = lambda _cluster: None
        self._rules = rules
        self._now_s = now_s
        self._epochs: dict[str, int] = {}  # Of clusters that were removed: the newest.
        self._over: dict[str, int] = {}  # Agents of removed clusters: the newest incarnation of then.
        self._views: dict[str, ViewIndex] = {}  # Of the truth, by caller.
        self._alone_s: dict[
            str, float
        ] = {}  # Since when a cluster alone serves something, at every entry since.

    @property
    def removed(self) -> list[str]:
        """The clusters that ever were removed."""
        return sorted(self._epochs)

    def epoch(self, cluster: str) -> int:
        """Of the newest removed cluster of this name; 0 when none was."""
        return self._epochs.get(cluster, 0)

    def is_over(self, row: Endpoint) -> bool:
        """True for what a removed cluster had, also when another one has its name by now."""
        if cluster_key(row.key.cluster).encode() not in self._rules.truth.tables.resources:
            return True
        return row.incarnation <= self._over.get(row.agent, -1)

    # -- entries of the log ------------------------------------------------------------------------

    def judge(self, command: Command, before: Tables, changes: tuple[Change, ...]) -> None:
        """An entry changed these rows."""
        if isinstance(command.body, RemoveCluster):
            self._removed(command.body.cluster, before)
        for change in changes:
            if isinstance(command.body, RemoveCluster | SweepRemoved):
                self._judge_removal(command.body.cluster, change, before)
            elif change.value is not None:
                self._judge_return(change)
            key = None if change.table == "endpoints" else ResourceKey.decode(change.key)
            if key is None or key.scope:
                continue
            if key.kind == "Drain":
                self._judge_drain(key.name, command, before)
            elif key.kind == "Cluster" and before.resource(key) is None:
                self._judge_epoch(key)
        self._judge_reports(command, before, changes)
        self._follow(changes)
        if changes and self._alone_s:
            self._forget_accompanied()

    def _removed(self, cluster: str, before: Tables) -> None:
        spec = before.cluster(cluster)
        if spec is None or self._rules.truth.tables.cluster(cluster) is not None:
            return
        self._epochs[cluster] = spec.epoch
        for agent in self._rules.agents.values():
            if agent.cluster == cluster:
                self._over[agent.name] = agent.incarnation
        self._views.pop(cluster, None)
        self.on_removed(cluster)

    def _judge_removal(self, cluster: str, change: Change, before: Tables) -> None:
        if change.table == "endpoints":
            mine = EndpointKey.decode(change.key).cluster == cluster
        else:
            key = ResourceKey.decode(change.key)
            row = before.resource(key)
            # What others observed of it goes with it, and all that follows from observations is asked anew.
            mine = cluster in (key.scope, key.name) or key.kind in ("Verdict", "ExternalService")
            mine = mine or (row is not None and not key.scope and row.owner == cluster)
            mine = mine or (row is not None and _is_token_for(cluster, row))  # Whoever made it.
        if not mine:
            self._rules.fail(REMOVAL, f"of {cluster}: {change.key!r}")

    def _judge_return(self, change: Change) -> None:
        if change.table == "endpoints":
            row = unpack_endpoint(change.value or b"")
            if self.is_over(row):
                self._rules.fail(RETURN, f"{row.key} of {row.agent} at {row.version}")
            return
        key = ResourceKey.decode(change.key)
        if key.scope and self._rules.truth.tables.cluster(key.scope) is None:
            self._rules.fail(RETURN, str(key))

    def _judge_epoch(self, key: ResourceKey) -> None:
        spec = self._rules.truth.tables.cluster(key.name)
        if spec is not None and spec.epoch != self.epoch(key.name) + 1:
            self._rules.fail(EPOCH, f"{key.name} at {spec.epoch} after {self.epoch(key.name)}")

    # -- drains ------------------------------------------------------------------------------------

    def _judge_drain(self, cluster: str, command: Command, before: Tables) -> None:
        old, new = _drain(before, cluster), _drain(self._rules.truth.tables, cluster)
        if new is None or old == new:
            return  # An operator gave it back, or its cluster was removed.
        wrong = ""
        if old is None or (old.rolled_back and not new.rolled_back):
            wrong = "" if new.share_percent == 100 and not new.rolled_back else "it does not begin whole"
            self._check_alone(cluster, new)
        elif old.rolled_back or (old.started_ms, old.forced) != (new.started_ms, new.forced):
            wrong = "it was given up"
        elif new.rolled_back:
            wrong = self._wrong_end(old, new, command)
        elif new.share_percent >= old.share_percent:
            wrong = "it goes up"
        else:
            if old.share_percent - new.share_percent > old.step_percent:
                wrong = "it goes too far at once"
            elif not old.stepped_ms + old.every_ms <= new.stepped_ms <= self._rules.truth.now_ms:
                wrong = f"it steps at {new.stepped_ms}, now is {self._rules.truth.now_ms}"
            self._check_alone(cluster, new)
        if wrong:
            self._rules.fail(DRAIN, f"{cluster}: {wrong}: {old} then {new}")

    def _wrong_end(self, old: DrainSpec, new: DrainSpec, command: Command) -> str:
        if old.forced or new.share_percent != 100:
            return "it is given up as it must not be"
        if not new.rolled_back.startswith(BY_CALLERS):
            return "" if old.share_percent else "it was drained"
        caller = new.rolled_back.removeprefix(BY_CALLERS).partition(" ")[0]
        said = any(report.key.scope == caller for report in _reports(command))
        return (
            ""
            if said and is_watched(old, now_ms=self._rules.truth.now_ms)
            else "nobody said that too much fails"
        )

    def _judge_reports(self, command: Command, before: Tables, changes: tuple[Change, ...]) -> None:
        changed = {change.key for change in changes}
        for report in _reports(command):
            row = self._rules.truth.tables.resource(report.key)
            old = _drain(before, report.key.name)
            if row is None or old is None or report.key.encode() not in changed:
                continue
            self._rules.checked += 1
            said = decode_spec("DrainReport", row.spec, where="rules")
            assert isinstance(said, DrainReportSpec)
            counts = said.started_ms == old.started_ms and is_watched(old, now_ms=self._rules.truth.now_ms)
            failing = any(fails_too_often(one, old.errors_per_million_max) for one in said.failing)
            new = _drain(self._rules.truth.tables, report.key.name)
            if (new is not None and bool(new.rolled_back)) != (bool(old.rolled_back) or (counts and failing)):
                self._rules.fail(FAILING, f"{said} of {old}")

    def _check_alone(self, cluster: str, drain: DrainSpec) -> None:
        since_s = self._alone_s.get(cluster)
        if not drain.forced and since_s is not None and self._now_s() - since_s > ALONE_MAX_S:
            self._rules.fail(ALONE, f"{cluster} since {since_s:.3f} s, and goes to {drain.share_percent}%")

    # -- views -------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at who is called by whom now, and who alone serves something."""
        handed_over = drains(self._rules.truth.tables)
        for cluster in CLUSTERS:
            if cluster not in self._alone_s and self._is_alone(cluster, handed_over):
                self._alone_s[cluster] = self._now_s()
        for caller, view in self._views.items():
            for key in view.services() if handed_over else ():
                service = view.service(key)
                shares = [
                    owner.share_percent > 0
                    for owner in (service.owners if service else ())
                    if owner.cluster not in view.policies.dead
                ]
                self._rules.checked += 1
                if shares != sorted(shares, reverse=True):
                    self._rules.fail(LAST, f"{key} for callers in {caller}: {service}")

    def _forget_accompanied(self) -> None:
        """Where others serve it all too, be it for one entry of the log: whoever looked then was right to go on."""
        handed_over = drains(self._rules.truth.tables)
        for cluster in [one for one in self._alone_s if not self._is_alone(one, handed_over)]:
            del self._alone_s[cluster]

    def _is_alone(self, cluster: str, handed_over: Mapping[str, DrainSpec]) -> bool:
        return any(self._orphans(cluster, counted_out(cluster, handed_over)))

    def _orphans(self, cluster: str, gone: frozenset[str]) -> Iterator[object]:
        for caller, view in self._views.items():
            dead = frozenset(view.policies.dead) - {caller}
            for key in view.owned_by(cluster):
                if (service := view.service(key)) is not None:
                    yield from orphans(service, caller, cluster, gone | dead)

    def _follow(self, changes: tuple[Change, ...]) -> None:
        tables = self._rules.truth.tables
        for cluster in CLUSTERS:
            if cluster in self._views:
                self._views[cluster].update(tables, changes)
            elif tables.cluster(cluster) is not None:
                self._views[cluster] = ViewIndex(cluster)
                self._views[cluster].reset(tables)


def _is_token_for(cluster: str, row: Resource) -> bool:
    spec = decode_spec("JoinToken", row.spec, where="rules") if row.key.kind == "JoinToken" else None
    return isinstance(spec, JoinTokenSpec) and spec.cluster == cluster


def _drain(tables: Tables, cluster: str) -> DrainSpec | None:
    row = tables.resource(ResourceKey(FEDERATION_SCOPE, "Drain", "", cluster))
    spec = None if row is None else decode_spec("Drain", row.spec, where=cluster)
    assert spec is None or isinstance(spec, DrainSpec)
    return spec


def _reports(command: Command) -> list[Put]:
    if not isinstance(command.body, Write):
        return []
    return [
        operation
        for operation in command.body.operations
        if isinstance(operation, Put) and operation.key.kind == "DrainReport"
    ]

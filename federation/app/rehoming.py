"""Moving remote clusters to another home: what operators ask for, and the steps that follow.

The row of the Cluster says how far a move is (`discovery.core.rehoming`). The controllers of both homes look at it: the
home proposes the step that is due, and where it does not, the other one. So a move outlives whoever began it. Callers come
first: no process changes its identity before the proxies of all controllers that answer have taken both.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from discovery.core.catalog import Catalog
from discovery.core.commands import AdvanceRehoming, BeginRehoming, ResumeRehoming, ReturnRehoming
from discovery.core.model import unpack_endpoint, unpack_origin
from discovery.core.ownership import cluster_key
from discovery.core.rehome_forecast import RehomeForecast, foresee
from discovery.core.rehoming import has_changed, is_missed, is_overdue, is_under_way, shows
from discovery.core.specs import ClusterSpec, ControllerSpec, Rehoming
from discovery.core.tables import Table, endpoint_prefix
from discovery.core.verdicts import read_verdicts
from federation.api.cluster_requests import RehomeRequest
from federation.api.directory import cluster_spec, resource, resources
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.api.rehomings import Progress
from federation.api.tracing import ControllerTrace
from federation.kernel.errors import IsthmusError, PreconditionError
from federation.kernel.names import check_label

TURN_S = 0.5
# Callers get at least the first, and whoever does not say that it has taken a move holds it up for the second at most.
ANNOUNCE_MS, ANNOUNCE_MS_MAX = 1_000, 15_000
# So long the other home leaves each step to the one that the cluster has.
OTHER_WAITS_MS = 20_000
# On a way that is not the first one, processes may have changed the other way a moment ago: they get at least the first to say
# so, and whose agents are not connected here the second, which is longer than the lease that they lose meanwhile.
SETTLE_MS, SETTLE_MS_MAX = 1_000, 20_000
# One look at the endpoints of a service each; then the loop serves others.
SERVICES_PER_SLICE = 200
ROWS_PER_SLICE = 1_000
NAMED_MAX = 10

_log = structlog.get_logger("rehome")


class _Count(msgspec.Struct):
    """What shows another trust domain than it should."""

    endpoints: int = 0  # Of the cluster, its gateways among them...
    late: int = 0  # ... and of these.
    agents: set[str] = set()  # That have endpoints.
    names: list[str] = []  # Mirrors and the first endpoints; empty: nothing is late.


class RehomeDesk:
    """Begins and takes back moves for operators, and takes the steps of those between whose homes this cluster is."""

    def __init__(
        self,
        *,
        cluster: str,
        proposer: Proposer,
        catalog: Catalog,
        registries: Mapping[str, ClusterRegistry],
        trace: Callable[[int], Awaitable[tuple[ControllerTrace, ...]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._proposer = proposer
        self._catalog = catalog
        self._registries = registries
        self._trace = trace
        self._clock = clock
        self._turned: dict[str, tuple[Rehoming | None, float]] = {}  # By cluster: what is seen since when.
        self._without_moves: Table | None = None  # Resources of which it is known that no cluster moves.

    async def forecast(self, cluster: str, to: str) -> RehomeForecast:
        """Return what a move of `cluster` to home `to` would change. Raises as `foresee`."""
        check_label(cluster, "cluster")
        check_label(to, "to")
        await self._proposer.barrier()
        return foresee(self._catalog.tables, cluster, to)

    async def begin(self, cluster: str, request: RehomeRequest, operator: str) -> Progress:
        """Begin to move `cluster`, and return at once; one that is on its way there already goes on.

        One that returns from there goes on as well, asked at that home while the other one is missed, or forced: it let the
        cluster go already. Raises NotFoundError for a cluster that has not joined; PreconditionError where it cannot move there and,
        unless forced, while somebody would see or call less than before; NotAllowedError for a token that is not one of
        the new home for this cluster.
        """
        found = await self.progress(cluster)
        if found.state in ("announced", "moving") and found.other_home == request.to:
            return found
        if found.state == "returning" and found.other_home == request.to == self._cluster:
            return await self._resume(cluster, operator, forced=request.force)
        forecast = await self.forecast(cluster, request.to)
        if self._cluster != forecast.home:
            raise PreconditionError(
                f"cluster {cluster} is let go by its home {forecast.home}: ask a controller there"
            )
        if forecast.losses and not request.force:
            raise PreconditionError(
                f"cluster {cluster}: {'; '.join(forecast.losses[:NAMED_MAX])}: add the Grants first, or use --force"
            )
        await self._proposer.propose(
            BeginRehoming(
                cluster=cluster,
                to=request.to,
                secret_sha256=request.secret_sha256,
                started_by=operator,
                within_ms=request.within_ms,
            )
        )
        _log.info("rehoming_began", cluster=cluster, to=request.to, operator=operator, forced=request.force)
        return await self.progress(cluster)

    async def _resume(self, cluster: str, operator: str, *, forced: bool) -> Progress:
        reason = f"{operator} asked for it"
        await self._proposer.propose(ResumeRehoming(cluster=cluster, reason=reason, forced=forced))
        _log.warning("rehoming_resumed", cluster=cluster, operator=operator, forced=forced)
        return await self.progress(cluster)

    async def abort(self, cluster: str, operator: str) -> Progress:
        """Take a move back: what has changed changes back. Raises PreconditionError where none is under way."""
        check_label(cluster, "cluster")
        await self._proposer.barrier()
        cluster_spec(self._catalog.tables, cluster)
        await self._proposer.propose(ReturnRehoming(cluster=cluster, reason=f"{operator} asked for it"))
        _log.info("rehoming_returns", cluster=cluster, operator=operator)
        return await self.progress(cluster)

    async def progress(self, cluster: str) -> Progress:
        """Return how far a move of `cluster` is. Raises NotFoundError for a cluster that has not joined."""
        check_label(cluster, "cluster")
        await self._proposer.barrier()
        spec = cluster_spec(self._catalog.tables, cluster)
        found = Progress(cluster=cluster, home=spec.home, trust_domain=spec.trust_domain)
        move = spec.rehoming
        if move is None:
            return found
        counted = await self._late(cluster, spec)
        return Progress(
            cluster=cluster,
            home=spec.home,
            trust_domain=spec.trust_domain,
            state=move.state,
            other_home=move.home,
            other_trust_domain=move.trust_domain,
            endpoints=counted.endpoints,
            changed=counted.endpoints - counted.late,
            late=tuple(counted.names),
            agents=tuple(self._late_agents(cluster, spec)[:NAMED_MAX]),
            changed_unix_ms=move.changed_ms,
            within_ms=move.within_ms,
            started_by=move.started_by,
            reason=move.reason,
        )

    async def run(self) -> None:
        """Take the steps that are due until cancelled."""
        while True:
            await asyncio.sleep(TURN_S)
            try:
                await self._turn()
            except IsthmusError as error:
                _log.info("rehoming_postponed", reason=error.message)

    async def _turn(self) -> None:
        """Look once at every move between this cluster and another one; costs nothing while there is none."""
        tables = self._catalog.tables
        if tables.resources is self._without_moves:
            return
        moves = [
            (row.key.name, spec)
            for row, spec in resources(tables, "Cluster")
            if isinstance(spec, ClusterSpec)
            and is_under_way(spec)
            and spec.rehoming is not None
            and self._cluster in (spec.home, spec.rehoming.home)
        ]
        self._without_moves = None if moves else tables.resources
        self._turned = {name: seen for name, seen in self._turned.items() if name in dict(moves)}
        for cluster, spec in moves:
            try:
                await self._step(cluster, spec)
            except IsthmusError as error:  # No other move waits for this one.
                _log.info("rehoming_postponed", cluster=cluster, reason=error.message)

    async def _step(self, cluster: str, spec: ClusterSpec) -> None:
        assert spec.rehoming is not None
        state = spec.rehoming.state
        if state == "announced":
            due = await self._callers_know(cluster, self._catalog.now_ms - spec.rehoming.changed_ms)
        else:
            found = await self._late(cluster, spec)
            due = self._has_settled(cluster, spec.rehoming, found.agents)
            if found.names or self._late_agents(cluster, spec):
                due = False
                if is_overdue(spec, self._catalog.now_ms):
                    await self._turn_round(cluster, spec, found)
        if due and self._is_turn(spec):
            await self._proposer.propose(AdvanceRehoming(cluster=cluster, state=state))
            _log.info("rehoming_advanced", cluster=cluster, after=state)

    async def _turn_round(self, cluster: str, spec: ClusterSpec, found: "_Count") -> None:
        """Lead a cluster that does not arrive the other way, if that is to this home, which therefore lives.

        To its own home always; to the other one only while its own is missed: what cannot change there should stay.
        """
        assert spec.rehoming is not None
        reason = f"not finished within {spec.rehoming.within_ms} ms: {_some(found)}"
        if spec.rehoming.state == "moving":
            if self._cluster == spec.home:
                await self._proposer.propose(ReturnRehoming(cluster=cluster, reason=reason))
                _log.warning("rehoming_returns", cluster=cluster, reason=reason)
            return
        verdict = read_verdicts(self._catalog.tables).get(spec.home)
        if self._cluster == spec.rehoming.home and is_missed(
            None if verdict is None else verdict.spec, by=self._cluster
        ):
            reason = f"{spec.home} is missed, return {reason}"
            await self._proposer.propose(ResumeRehoming(cluster=cluster, reason=reason))
            _log.warning("rehoming_resumed", cluster=cluster, reason=reason)

    def _is_turn(self, spec: ClusterSpec) -> bool:
        """The home goes first: it has known the cluster's agents for longer."""
        assert spec.rehoming is not None
        waited_ms = self._catalog.now_ms - spec.rehoming.changed_ms
        return self._cluster == spec.home or waited_ms >= OTHER_WAITS_MS

    def _has_settled(self, cluster: str, move: Rehoming, agents: set[str]) -> bool:
        """Whether it is known what the processes of these agents show: no row says what one did a moment ago.

        By the own clock, which nobody sets.
        """
        if move.state == "moving" and not move.reason:
            return True  # The first way: nobody can have changed back.
        seen, since_s = self._turned.get(cluster, (None, 0.0))
        if seen != move:
            since_s = self._clock()
            self._turned[cluster] = (move, since_s)
        passed_ms = round((self._clock() - since_s) * 1000)
        if passed_ms < SETTLE_MS or passed_ms >= SETTLE_MS_MAX:
            return passed_ms >= SETTLE_MS_MAX
        registry = self._registries.get(cluster)
        return registry is not None and agents <= registry.connected()

    async def _callers_know(self, cluster: str, since_ms: int) -> bool:
        """Whether all proxies that are to be seen have taken what the row of the Cluster says now."""
        if since_ms < ANNOUNCE_MS:
            return False
        if since_ms >= ANNOUNCE_MS_MAX:
            return True  # Who is away comes back with both in its first configuration.
        revision = resource(self._catalog.tables, cluster_key(cluster)).revision
        return all(_has_taken(one) for one in await self._trace(revision))

    async def _late(self, cluster: str, spec: ClusterSpec) -> "_Count":
        """Count what shows another trust domain than it should. Cost: a look at each endpoint of the cluster, in slices."""
        tables, found = self._catalog.tables, _Count()
        for row, mirror in resources(tables, "Controller"):
            if (
                isinstance(mirror, ControllerSpec)
                and mirror.cluster == cluster
                and not shows(mirror.identity, spec)
            ):
                found.names.append(f"controller {row.key.name}")
        for number, service in enumerate(tables.list_services(), start=1):
            for _, value in tables.endpoints.items(endpoint_prefix(service, cluster)):
                endpoint = unpack_endpoint(value)
                found.endpoints += 1
                found.agents.add(endpoint.agent)
                if not has_changed(endpoint, spec):
                    found.late += 1
                    if len(found.names) < NAMED_MAX:
                        found.names.append(f"{endpoint.key.service_key}/{endpoint.key.name}")
            if number % SERVICES_PER_SLICE == 0:
                await asyncio.sleep(0)
        await self._late_here(cluster, spec, found)
        return found

    async def _late_here(self, cluster: str, spec: ClusterSpec, found: "_Count") -> None:
        """Name what agents told this controller and the log does not have yet, where that is late."""
        registry, known = self._registries.get(cluster), self._catalog.tables.endpoints
        for number, (key, value) in enumerate(() if registry is None else registry.rows(), start=1):
            there = known.get(key)
            if there != value and len(found.names) < NAMED_MAX:
                endpoint = unpack_endpoint(value)
                name = f"{endpoint.key.service_key}/{endpoint.key.name}"
                is_news = there is None or unpack_origin(there).version < endpoint.version
                if is_news and not has_changed(endpoint, spec) and name not in found.names:
                    found.names.append(name)
            if number % ROWS_PER_SLICE == 0:
                await asyncio.sleep(0)

    def _late_agents(self, cluster: str, spec: ClusterSpec) -> list[str]:
        """Agents, also those without endpoints, that are connected here by another trust domain than they should be."""
        registry = self._registries.get(cluster)
        return [] if registry is None else registry.connected_otherwise(spec.shown_trust_domain)


def _has_taken(found: ControllerTrace) -> bool:
    if found.trace is None:
        return found.state == "forgotten"  # So many writes later it has.
    return not any(way.waiting for way in found.trace.proxies)


def _some(found: _Count) -> str:
    """Name some of what is late; where nothing is, it is an agent without endpoints."""
    more = found.late - sum("/" in name for name in found.names)
    return ", ".join(found.names) + (f" and {more} more" if more > 0 else "") or "agents are late"

"""Draining clusters: what operators ask for, and the steps that follow.

A drain is a row of the catalog. Every controller that sees the federation's services looks at the rows; the holder of the
lease `drain` takes the steps that are due, by federation time, and gives a drain up when nobody else can serve any longer.
So a drain outlives whoever began it. Each step names the revision that it saw: a holder that was replaced changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
import structlog

from discovery.core.catalog import Catalog
from discovery.core.commands import AcquireLease, Delete, Operation, Put
from discovery.core.drains import is_under_way, roll_back, start, step
from discovery.core.kinds import decode_spec
from discovery.core.model import ResourceKey
from discovery.core.specs import DrainSpec
from federation.api.capacity import find_orphans, name_orphans
from federation.api.cluster_requests import PER_PERCENT, DrainRequest
from federation.api.directory import cluster_spec, resource
from federation.api.health import Facts
from federation.api.proposer import Proposer
from federation.api.understanding import ServedViews
from federation.kernel.errors import IsthmusError, NotFoundError, PreconditionError
from federation.kernel.names import check_label
from gateways.core.whatif import lose_quorum

LEASE = "drain"
LEASE_TTL_MS = 5_000
TURN_S = 0.5
# A probe that fails once, or an agent that starts again, is no reason to give up: as many turns in a row are.
TURNS_ALONE_MAX = 6

_log = structlog.get_logger("drain")


class _Alone(NamedTuple):
    """Turns in a row in which some service would have had nobody else; times are the federation's."""

    started_ms: int  # Of the drain.
    turns: int
    seen_ms: int  # The last of them.


class DrainDesk:
    """Begins and ends drains for operators, and takes their steps while this controller holds the lease."""

    def __init__(
        self,
        *,
        holder: str,
        proposer: Proposer,
        catalog: Catalog,
        views: ServedViews,
        facts: Callable[[], Awaitable[Facts]],
    ) -> None:
        self._holder = holder
        self._proposer = proposer
        self._catalog = catalog
        self._views = views
        self._facts = facts
        self._alone: dict[str, _Alone] = {}  # Of each drain under which some service had nobody else.

    async def drain(self, cluster: str, request: DrainRequest, operator: str) -> DrainSpec:
        """Begin to drain `cluster`, and return at once; one that is under way or done stays as it is.

        Raises NotFoundError for a cluster that has not joined; PreconditionError, unless forced, when a service
        would be left without a ready endpoint elsewhere, or the log without a majority if the cluster went away.
        """
        check_label(cluster, "cluster")
        await self._proposer.barrier()
        cluster_spec(self._catalog.tables, cluster)
        row = self._catalog.tables.resource(_key(cluster))
        operations: list[Operation] = []
        after_ms = -1
        if row is not None:
            known = _decode(row.spec)
            if not known.rolled_back:
                return known
            operations.append(Delete(key=row.key, expected_revision=row.revision))
            after_ms = known.started_ms
        if not request.force:
            await self._check_capacity(cluster, request.min_capacity)
            await self._check_quorum(cluster)
        begun = start(
            step_percent=request.step_percent,
            every_ms=request.every_ms,
            forced=request.force,
            started_by=operator,
            now_ms=self._catalog.now_ms,
            after_ms=after_ms,
            capacity_percent_min=request.min_capacity,
            errors_per_million_max=round(request.max_error_rate * PER_PERCENT),
        )
        put = Put(key=_key(cluster), spec=msgspec.json.encode(begun), expected_revision=0)
        await self._proposer.write(*operations, put)
        _log.info("drain_began", cluster=cluster, operator=operator, forced=request.force)
        return begun

    async def undrain(self, cluster: str, operator: str) -> None:
        """Give `cluster` its whole share back at once. Raises NotFoundError if nobody drained it."""
        check_label(cluster, "cluster")
        await self._proposer.barrier()
        cluster_spec(self._catalog.tables, cluster)
        if self._catalog.tables.resource(_key(cluster)) is None:
            raise NotFoundError(f"cluster {cluster} is not drained")
        await self._proposer.write(Delete(key=_key(cluster)))
        _log.info("drain_ended", cluster=cluster, operator=operator)

    async def state(self, cluster: str) -> DrainSpec:
        """Return how far the drain of `cluster` is now; raises NotFoundError if nobody drains it.

        A controller that is behind would tell of an earlier one, or of none: UnavailableError until it is not.
        """
        check_label(cluster, "cluster")
        await self._proposer.barrier()
        try:
            return _decode(resource(self._catalog.tables, _key(cluster)).spec)
        except NotFoundError as error:
            raise NotFoundError(f"cluster {cluster} is not drained") from error

    async def run(self) -> None:
        """Take the steps that are due until cancelled."""
        while True:
            await asyncio.sleep(TURN_S)
            try:
                await self._turn()
            except IsthmusError as error:
                _log.info("drain_postponed", reason=error.message)

    async def _turn(self) -> None:
        """Look once at every drain that is under way; costs a look at the rows where there is none."""
        rows = [
            (row.key.name, row.revision, drain)
            for row in self._catalog.tables.list_resources("", "Drain")
            if is_under_way(drain := _decode(row.spec))
        ]
        for ended in self._alone.keys() - {cluster for cluster, _, _ in rows}:
            del self._alone[ended]
        if not rows:
            return
        outcome = await self._proposer.propose(
            AcquireLease(name=LEASE, holder=self._holder, ttl_ms=LEASE_TTL_MS)
        )
        if outcome.lease is None or not outcome.lease.granted:
            return
        for cluster, revision, drain in rows:
            changed = await self._next(cluster, drain)
            if changed != drain:
                spec = msgspec.json.encode(changed)
                await self._proposer.write(Put(key=_key(cluster), spec=spec, expected_revision=revision))
                _log.info(
                    "drain_stepped",
                    cluster=cluster,
                    share_percent=changed.share_percent,
                    rolled_back=changed.rolled_back,
                )

    async def _next(self, cluster: str, drain: DrainSpec) -> DrainSpec:
        """Return the drain as it should be now: a step further, as it is, or given up."""
        now_ms = self._catalog.now_ms
        if drain.forced:
            return step(drain, now_ms=now_ms)
        alone = await find_orphans(
            self._catalog.tables, self._views, cluster, percent_min=drain.capacity_percent_min
        )
        if not alone:
            self._alone.pop(cluster, None)
            return step(drain, now_ms=now_ms)
        if self._count_alone(cluster, drain) < TURNS_ALONE_MAX:
            return drain
        what = "no other ready endpoint"
        if all(one.weight_left for one in alone):
            what = f"less than {drain.capacity_percent_min}% of the ready weight"
        return roll_back(drain, f"{what} was left of {name_orphans(alone)}", now_ms=now_ms)

    def _count_alone(self, cluster: str, drain: DrainSpec) -> int:
        """Return how many turns in a row it was so: of this drain, and while the lease was held all the time."""
        now_ms, before = self._catalog.now_ms, self._alone.get(cluster)
        turns = 1
        if before is not None and before.started_ms == drain.started_ms:
            turns += before.turns if now_ms - before.seen_ms < LEASE_TTL_MS else 0
        self._alone[cluster] = _Alone(drain.started_ms, turns, now_ms)
        return turns

    async def _check_capacity(self, cluster: str, percent_min: int) -> None:
        short = await find_orphans(self._catalog.tables, self._views, cluster, percent_min=percent_min)
        alone = [one for one in short if not one.weight_left]
        if alone:
            raise PreconditionError(
                f"cluster {cluster} alone has a ready endpoint of {name_orphans(alone)}:"
                " start it elsewhere, export and grant it there, or use --force, and it stays here as the last resort"
            )
        if short:
            raise PreconditionError(
                f"without cluster {cluster} less than {percent_min}% of the ready weight would be left of"
                f" {name_orphans(short)}: start more of it elsewhere, or ask for less with --min-capacity"
            )

    async def _check_quorum(self, cluster: str) -> None:
        facts = await self._facts()
        if cluster not in facts.voters:
            return
        heard = [voter for voter in facts.voters if facts.is_heard(voter)]
        loss = lose_quorum(facts.voters, heard, {cluster})
        if not loss.survives:
            raise PreconditionError(
                f"without cluster {cluster} the log would stop: {loss.answering} of {len(loss.voters)} members would"
                f" answer, {loss.needed} are needed: add one (docs/how-to/grow-1-3-5.md), or use --force"
            )


def _key(cluster: str) -> ResourceKey:
    return ResourceKey("", "Drain", "", cluster)


def _decode(spec: bytes) -> DrainSpec:
    drain = decode_spec("Drain", spec, where="drain")
    assert isinstance(drain, DrainSpec)
    return drain

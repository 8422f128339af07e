"""What the leader does for everybody: federation time, votes for members that joined, old tokens."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from consensus.core.contract import Consensus, MemberAddress
from discovery.core.catalog import Catalog
from discovery.core.commands import Delete, SweepRemoved, Tick
from discovery.core.kinds import decode_spec
from discovery.core.specs import RemovedClusterSpec, Standing
from discovery.core.tables import Tables
from federation.api.doctor import CLOCK_SKEW_MS_MAX
from federation.api.proposer import Proposer
from federation.api.tokens import collectable
from federation.app.federation_time import FederationClock, confirmed_ms
from federation.kernel.errors import IsthmusError

# Leases and tokens live for seconds at least; a finer clock would only fill the log.
TICK_S = 0.5
COLLECT_EVERY_MS = 60_000
# One entry of the log deletes so many rows of a removed cluster; a turn has time for other things too.
SWEEP_ROWS = 500
SWEEPS_PER_TURN_MAX = 10
# Time stands still meanwhile: one that has not caught up yet is tried again at the next turn.
_CHANGE_TIMEOUT_MS = 1_000

_log = structlog.get_logger("duties")


class LeaderDuties:
    """Runs on every member and acts only while this one leads."""

    def __init__(
        self,
        consensus: Consensus,
        proposer: Proposer,
        *,
        catalog: Catalog,
        members: Callable[[], tuple[MemberAddress, ...]],
        standings: Callable[[], Mapping[str, Standing]],
    ) -> None:
        self._consensus = consensus
        self._proposer = proposer
        self._catalog = catalog
        self._members = members
        self._standings = standings
        self._collected_ms = 0
        self._time = FederationClock(time.monotonic)
        self._is_clock_off = False

    async def run(self) -> None:
        """Act every half second until cancelled."""
        while True:
            if self._consensus.status().role == "leader":
                try:
                    await self._tick()
                    await self._change_member()
                    await self._collect_tokens()
                    await self._sweep_removed()
                except IsthmusError as error:
                    _log.info("duty_postponed", reason=error.message)
            await asyncio.sleep(TICK_S)

    async def _tick(self) -> None:
        status, clocks = self._consensus.status(), self._consensus.clocks()
        self._look_at_clock(clocks[status.id], confirmed_ms(clocks, status.members))
        now_ms = self._time.next_ms(self._catalog.now_ms, clocks, status.members)
        await self._proposer.propose(Tick(now_ms=now_ms), timeout_ms=2_000)

    def _look_at_clock(self, own_ms: int, middle_ms: int | None) -> None:
        """Say so once when the clock of this machine is not what a majority's show."""
        is_off = middle_ms is not None and abs(own_ms - middle_ms) > CLOCK_SKEW_MS_MAX
        if is_off and not self._is_clock_off:
            _log.warning("clock_is_off", own_unix_ms=own_ms, majority_unix_ms=middle_ms)
        self._is_clock_off = is_off

    async def _change_member(self) -> None:
        """Take one step from the members of now to those that are wanted.

        A controller that joined gets its vote once it is connected and has caught up, unless an operator
        said otherwise: what he began and could not finish is finished here.
        """
        status = self._consensus.status()
        standings = self._standings()
        for member in self._members():
            if member.id in status.members:
                continue
            if standings.get(member.id) == "learner":
                if member.id not in status.learners:
                    await self._consensus.add_learner(member, timeout_ms=_CHANGE_TIMEOUT_MS)
                    _log.info("learner_added", member=member.id)
                    return
            elif member.id in status.connected:
                await self._consensus.add_member(member, timeout_ms=_CHANGE_TIMEOUT_MS)
                _log.info("member_added", member=member.id)
                return
        for member_id in (*status.members, *status.learners):
            if standings.get(member_id) == "removed":
                await self._consensus.remove_member(member_id, timeout_ms=_CHANGE_TIMEOUT_MS)
                _log.info("member_removed", member=member_id)
                return

    async def _collect_tokens(self) -> None:
        """Delete what nobody can use any more: it would count against the federation's size for ever."""
        now_ms = self._catalog.now_ms
        if now_ms - self._collected_ms < COLLECT_EVERY_MS:
            return
        self._collected_ms = now_ms
        expired = collectable(self._catalog.tables, now_ms)
        if expired:
            await self._proposer.write(*(Delete(key=key) for key in expired))
            _log.info("tokens_collected", count=len(expired))

    async def _sweep_removed(self) -> None:
        """Delete what removed clusters left, some of it at each turn."""
        for cluster in unswept(self._catalog.tables):
            for _ in range(SWEEPS_PER_TURN_MAX):
                await self._proposer.propose(SweepRemoved(cluster=cluster, rows_max=SWEEP_ROWS))
                if cluster not in unswept(self._catalog.tables):
                    _log.info("removed_cluster_swept", cluster=cluster)
                    break


def unswept(tables: Tables) -> list[str]:
    """Return the removed clusters of which rows are left."""
    found = []
    for row in tables.list_resources("", "RemovedCluster"):
        spec = decode_spec("RemovedCluster", row.spec, where=str(row.key))
        if isinstance(spec, RemovedClusterSpec) and not spec.swept:
            found.append(row.key.name)
    return found

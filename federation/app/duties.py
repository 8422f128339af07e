"""What the leader does for everybody: federation time, and votes for members that joined."""

import asyncio
from collections.abc import Callable

import structlog

from certs.runtime.clock import utc_now
from consensus.core.contract import Consensus, MemberAddress
from discovery.core.commands import Tick
from federation.api.proposer import Proposer
from federation.kernel.errors import IsthmusError

# Leases and tokens live for seconds at least; a finer clock would only fill the log.
TICK_S = 0.5
_ADD_TIMEOUT_MS = 10_000

_log = structlog.get_logger("duties")


class LeaderDuties:
    """Runs on every member and acts only while this one leads."""

    def __init__(
        self,
        consensus: Consensus,
        proposer: Proposer,
        *,
        members: Callable[[], tuple[MemberAddress, ...]],
    ) -> None:
        self._consensus = consensus
        self._proposer = proposer
        self._members = members

    async def run(self) -> None:
        """Act every half second until cancelled."""
        while True:
            if self._consensus.status().role == "leader":
                try:
                    await self._proposer.propose(
                        Tick(now_ms=int(utc_now().timestamp() * 1000)), timeout_ms=2_000
                    )
                    await self._add_member()
                except IsthmusError as error:
                    _log.info("duty_postponed", reason=error.message)
            await asyncio.sleep(TICK_S)

    async def _add_member(self) -> None:
        """Give the next joined controller its vote, once it is connected and has caught up."""
        status = self._consensus.status()
        for member in self._members():
            if member.id not in status.members and member.id in status.connected:
                await self._consensus.add_member(member, timeout_ms=_ADD_TIMEOUT_MS)
                _log.info("member_added", member=member.id)
                return

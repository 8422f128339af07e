"""A dead connection that the kernel reports as a timeout is dead, not merely silent."""

import asyncio
import errno

import pytest

from consensus.core.contract import MemberAddress
from consensus.core.timing import Timing
from consensus.runtime.transport import Transport

PEER = MemberAddress(
    id="beta", address="127.0.0.1:1", identity="spiffe://beta.example/isthmus/beta/controller/c1"
)


class _BlackholedReader:
    """What asyncio's reader does after the kernel gave up on a connection: the same error, again and again."""

    async def read(self, _count: int) -> bytes:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")


def test_the_kernels_timeout_ends_a_connection() -> None:
    transport = Transport.__new__(Transport)  # The loop under test needs its timing only.
    transport._timing = Timing(round_trip_ms=10)

    with pytest.raises(TimeoutError):
        asyncio.run(transport._ping_until_closed(PEER, _BlackholedReader()))  # type: ignore[arg-type]

"""What a connection has left in this process when its successor is there comes to nobody."""

import asyncio
from typing import Any

import pytest

from consensus.core.contract import Counters
from consensus.core.messages import Appended, Hello, Message, encode_frame
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK
from consensus.runtime.clocks import PeerClocks
from consensus.runtime.frames import Frames
from consensus.runtime.transport import Transport
from tests.unit.consensus.builders import ALPHA, BETA

HELLO = Hello(federation="", version=1, member=BETA.id)
OLD, NEW = Appended(term=1, next_index=2), Appended(term=1, next_index=3)


class _Connection(asyncio.Transport):
    """Nobody at the other end."""

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    def resume_reading(self) -> None:
        """As above."""


def test_frames_of_a_connection_that_was_replaced_are_not_delivered() -> None:
    delivered: list[tuple[str, Message]] = []
    security: Any = None  # Nobody connects.
    transport = Transport(
        ALPHA,
        listen=ALPHA.address,
        federation="",
        security=security,
        timing=Timing(),
        counters=Counters(),
        clocks=PeerClocks(ALPHA.id, SYSTEM_CLOCK),
        deliver=lambda sender, message: delivered.append((sender, message)),
        changed=lambda _peer, _connected: None,
    )

    async def receive() -> None:
        former, present = _Connection(), _Connection()
        for connection, message in ((present, NEW), (former, OLD)):
            transport._incoming[BETA.id] = present
            frames = Frames()
            frames.connection_made(connection)
            frames.data_received(encode_frame(HELLO) + encode_frame(message))
            assert await frames.greeting() == HELLO
            asyncio.get_running_loop().call_soon(frames.eof_received)
            with pytest.raises(EOFError):
                await transport._receive(BETA, frames, connection)

    asyncio.run(receive())
    assert delivered == [(BETA.id, NEW)]

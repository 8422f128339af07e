"""What a connection has left in this process when its successor is there comes to nobody."""

import asyncio
from typing import Any

from consensus.core.contract import Counters
from consensus.core.messages import Appended, Message, encode_frame
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK
from consensus.runtime.clocks import PeerClocks
from consensus.runtime.transport import Transport
from tests.unit.consensus.builders import ALPHA, BETA

OLD, NEW = Appended(term=1, next_index=2), Appended(term=1, next_index=3)


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
        former, present = object(), object()
        for writer, message in ((present, NEW), (former, OLD)):
            transport._incoming[BETA.id] = present  # type: ignore[assignment] # only told apart
            reader = asyncio.StreamReader()
            reader.feed_data(encode_frame(message))
            reader.feed_eof()
            try:
                await transport._receive(BETA, reader, writer)  # type: ignore[arg-type] # as above
            except EOFError:
                continue

    asyncio.run(receive())
    assert delivered == [(BETA.id, NEW)]

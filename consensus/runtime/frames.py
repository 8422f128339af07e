"""Cuts what a connection brings into messages and hands each on at once, without a task that waits for it.

asyncio's StreamReader wakes a task for each frame, twice, and arms a timer: more than half of what
receiving a frame cost.
"""

import asyncio
from collections.abc import Callable

from consensus.core.messages import HELLO_BYTES_MAX, LENGTH, Message, decode_payload
from federation.kernel.errors import InvalidInputError, IsthmusError
from federation.kernel.limits import FRAME_BYTES_MAX


class Frames(asyncio.Protocol):
    """One accepted connection: `greeting` returns the first message, `receive` hands on the rest.

    Nothing is read between the two, and afterwards at most what the loop reads in one go is kept
    besides one frame of FRAME_BYTES_MAX.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._bytes_max = HELLO_BYTES_MAX
        self._take: Callable[[Message], None] | None = None
        self._greeting: Message | None = None
        self._changed = asyncio.Event()  # The greeting is there, or the end.
        self._error: Exception | None = None
        self._heard_s = 0.0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._heard_s = self._loop.time()
        self._buffer += data
        self._cut()

    def eof_received(self) -> bool:
        """See asyncio.Protocol."""
        self._end(EOFError("the peer closed the connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end(exc or EOFError("the peer closed the connection"))

    # What the transport calls.

    async def greeting(self) -> Message:
        """Return the first message; raises InvalidInputError, OSError, EOFError. What follows waits."""
        await self._changed.wait()
        if self._greeting is None:
            assert self._error is not None
            raise self._error
        return self._greeting

    async def receive(self, take: Callable[[Message], None], *, silent_s: float) -> None:
        """Hand each message to `take`, which may raise, until the connection ends, which raises.

        TimeoutError: nothing came for `silent_s`.
        """
        self._take, self._bytes_max = take, FRAME_BYTES_MAX
        self._heard_s = self._loop.time()
        if self._error is None:
            self._changed.clear()
            assert self._transport is not None
            self._transport.resume_reading()
            self._cut()
        while self._error is None:
            try:
                async with asyncio.timeout_at(self._heard_s + silent_s):
                    await self._changed.wait()
            except TimeoutError:
                if self._loop.time() >= self._heard_s + silent_s:
                    raise
        raise self._error

    def _cut(self) -> None:
        """Hand on every message that is complete."""
        buffer, begin = self._buffer, 0
        try:
            while self._error is None and len(buffer) - begin >= LENGTH.size:
                if self._greeting is not None and self._take is None:
                    break
                (length,) = LENGTH.unpack_from(buffer, begin)
                if length > self._bytes_max:
                    raise InvalidInputError(f"frame of {length} bytes, expected at most {self._bytes_max}")
                end = begin + LENGTH.size + length
                if end > len(buffer):
                    break
                message = decode_payload(bytes(buffer[begin + LENGTH.size : end]))
                begin = end
                self._hand_on(message)
        except (IsthmusError, OSError, EOFError) as error:
            self._end(error)
        del buffer[:begin]

    def _hand_on(self, message: Message) -> None:
        if self._take is not None:
            self._take(message)
            return
        assert self._transport is not None
        self._transport.pause_reading()
        self._greeting = message
        self._changed.set()

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._changed.set()

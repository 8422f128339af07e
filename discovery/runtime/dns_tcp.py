"""Answers DNS over TCP (RFC 7766): frames with a length of two bytes, as many on a connection as its caller likes."""

import asyncio
import errno
import functools
import socket
from collections import OrderedDict
from collections.abc import Callable

from discovery.core.dns_answer import answer
from discovery.core.dns_zone import CompiledZone
from discovery.runtime.dns_sockets import Tally
from federation.kernel.errors import UnavailableError

LENGTH_BYTES = 2

# RFC 7766 section 6.2.3 leaves the limit to us. It counts from the last whole query, so that a caller that
# sends byte by byte, or does not read its answers, holds a connection no longer than an idle one.
IDLE_S = 10.0

# Of one listening address. The one that was silent longest makes room for a newcomer.
TCP_CONNECTIONS_MAX = 256

RECEIVE_BYTES = 16 * 1024
# Replies are sent when there are that many bytes of them; the caller's next queries wait meanwhile.
REPLY_BATCH_BYTES = 64 * 1024

# How long accepting rests when the process has no descriptor or the kernel no memory for a connection.
ACCEPT_PAUSE_S = 0.1
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LISTENER_BROKEN = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})


class TcpResponder:
    """One listening socket and its connections; `run` ends by cancellation, and closes the connections."""

    def __init__(self, listener: socket.socket, zone_provider: Callable[[], CompiledZone | None]) -> None:
        self.tally = Tally()
        self.accepted = 0
        self.evicted = 0
        self._listener = listener
        self._zone_provider = zone_provider
        # The one that asked last is last.
        self._open: OrderedDict[socket.socket, asyncio.Task[None]] = OrderedDict()

    @property
    def open_count(self) -> int:
        """Connections open now."""
        return len(self._open)

    async def run(self) -> None:
        """Accept and serve. Raises `UnavailableError` if the listening socket breaks."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                connection = await self._accept()
                self.accepted += 1
                if len(self._open) >= TCP_CONNECTIONS_MAX:
                    self._evict()
                task = tasks.create_task(self._serve(connection), name="dns-tcp-connection")
                self._open[connection] = task
                # Not inside the task: one that is cancelled before its first step runs no line of its own.
                task.add_done_callback(functools.partial(self._close, connection))

    async def _accept(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in _LISTENER_BROKEN:
                    raise UnavailableError(f"dns over tcp no longer accepts connections: {error}") from error
                if error.errno in _OUT_OF_RESOURCES:
                    self._evict()
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                # Anything else befell one caller before we met it, such as a reset.
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection

    def _evict(self) -> None:
        if self._open:
            _, task = self._open.popitem(last=False)
            task.cancel()
            self.evicted += 1

    def _close(self, connection: socket.socket, _task: asyncio.Task[None]) -> None:
        self._open.pop(connection, None)
        connection.close()

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._converse(connection)
        except (OSError, TimeoutError):
            return  # The caller went away or fell silent: the ordinary end of a connection.

    async def _converse(self, connection: socket.socket) -> None:
        """Answer until the caller closes, is silent too long, or sends what deserves no reply.

        Who sends such a thing does not speak DNS; what came before it is still answered.
        """
        loop = asyncio.get_running_loop()
        buffer = bytearray()  # At most one frame of 64 KiB and one receive.
        deadline_s = loop.time() + IDLE_S
        speaks_dns = True
        while speaks_dns:
            async with asyncio.timeout_at(deadline_s):
                chunk = await loop.sock_recv(connection, RECEIVE_BYTES)
                if not chunk:
                    return
                buffer += chunk
                packets = _take_packets(buffer)
                speaks_dns = await self._answer_all(connection, packets)
                # A caller whose next bytes are always there already would never let the loop go.
                await asyncio.sleep(0)
            if packets:
                deadline_s = loop.time() + IDLE_S
                if connection in self._open:
                    self._open.move_to_end(connection)

    async def _answer_all(self, connection: socket.socket, packets: list[bytes]) -> bool:
        """Send the replies; stop and return False at a packet that gets none."""
        replies = bytearray()
        answered_all = True
        for packet in packets:
            reply = answer(packet, self._zone_provider(), transport="tcp")
            if reply is None:
                self.tally.dropped += 1
                answered_all = False
                break
            self.tally.replies[reply[3] & 0x0F] += 1
            replies += len(reply).to_bytes(LENGTH_BYTES, "big") + reply
            if len(replies) >= REPLY_BATCH_BYTES:
                await asyncio.get_running_loop().sock_sendall(connection, replies)
                replies = bytearray()
        if replies:
            await asyncio.get_running_loop().sock_sendall(connection, replies)
        return answered_all


def _take_packets(buffer: bytearray) -> list[bytes]:
    """Remove the whole frames from the start of `buffer` and return what they carry."""
    packets: list[bytes] = []
    start = 0
    while len(buffer) - start >= LENGTH_BYTES:
        end = start + LENGTH_BYTES + int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
        if end > len(buffer):
            break
        packets.append(bytes(buffer[start + LENGTH_BYTES : end]))
        start = end
    del buffer[:start]
    return packets

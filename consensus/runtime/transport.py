"""Frames between members over mutual TLS 1.3.

Each member dials every peer it knows and sends on that connection; what it accepts it only reads.
So no two connections compete for one role, and frames of one sender arrive in order. A peer is who
its certificate says, looked up among the known members, never who it claims to be.
"""

import _ssl
import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import structlog

from consensus.core.contract import Counters, MemberAddress
from consensus.core.messages import (
    HELLO_BYTES_MAX,
    LENGTH,
    Hello,
    Message,
    Ping,
    decode_payload,
    encode_frame,
)
from consensus.core.timing import Timing
from consensus.runtime.clocks import PeerClocks
from consensus.runtime.frames import Frames
from federation.kernel.errors import BadIdentityError, InvalidInputError, IsthmusError, UnavailableError
from federation.kernel.versions import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, speaks

SEND_QUEUE_BYTES_MAX = 16 * 1024 * 1024
HANDSHAKES_MAX = 32  # Accepted connections that have not said who they are.
REFUSALS_LOGGED_PER_S = 2

_log = structlog.get_logger(__name__)


class TransportSecurity(Protocol):
    """Certificates and trust, asked anew for each connection so that they can rotate."""

    def server_context(self) -> ssl.SSLContext:
        """Return a context that requires a client certificate and TLS 1.3."""
        ...

    def client_context(self) -> ssl.SSLContext:
        """Return a context that requires a server certificate and TLS 1.3; host names are not looked at."""
        ...

    def verify(self, peer_chain_der: Sequence[bytes]) -> str:
        """Return the SPIFFE id of a chain, leaf first; raises BadIdentityError."""
        ...


def peer_chain_der(ssl_object: ssl.SSLObject) -> list[bytes]:
    """Return the certificates that the peer sent, leaf first; Python 3.11 has no public call for it."""
    connection: Any = ssl_object._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 # as said above
    return [
        certificate.public_bytes(_ssl.ENCODING_DER) for certificate in connection.get_unverified_chain() or ()
    ]


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`; raises InvalidInputError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InvalidInputError(f"member address {address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Transport:
    """All connections of one member; every method belongs to the loop that runs `run`."""

    def __init__(
        self,
        me: MemberAddress,
        *,
        listen: str,
        federation: str,
        security: TransportSecurity,
        timing: Timing,
        counters: Counters,
        clocks: PeerClocks,
        deliver: Callable[[str, Message], None],
        changed: Callable[[str, bool], None],
    ) -> None:
        self.listening = asyncio.Event()
        self._me = me
        self._listen = listen
        self._security = security
        self._timing = timing
        self._counters = counters
        self._clocks = clocks
        self._deliver = deliver
        self._changed = changed
        self._hello = Hello(federation=federation, version=PROTOCOL_VERSION, member=me.id)
        self._peers: dict[str, MemberAddress] = {}
        self._dialers: dict[str, tuple[MemberAddress, asyncio.Task[None]]] = {}
        self._outgoing: dict[str, asyncio.StreamWriter] = {}
        self._encoded: tuple[Message | None, bytes] = (None, b"")  # What was sent last.
        self._connected: tuple[str, ...] = ()  # Their ids, asked for in each turn.
        self._incoming: dict[str, asyncio.WriteTransport] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._handshakes = asyncio.Semaphore(HANDSHAKES_MAX)
        self._refusals_logged = (0, 0)  # Second, lines in it.

    async def run(self) -> None:
        """Listen and dial until cancelled; raises UnavailableError when the address cannot be bound."""
        listener = self._bind()
        with listener:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._reconcile()
                self.listening.set()
                await self._accept(listener, tasks)

    def set_peers(self, members: Iterable[MemberAddress]) -> None:
        """Dial these and accept these; connections of others are closed."""
        self._peers = {member.id: member for member in members if member.id != self._me.id}
        self._reconcile()

    def connected(self) -> tuple[str, ...]:
        """Return the ids of peers that can be sent to."""
        return self._connected

    def is_connected(self, member_id: str) -> bool:
        """True while the member can be sent to."""
        return member_id in self._outgoing

    def backlog_bytes(self, member_id: str) -> int:
        """Return what waits in this process to be sent to the member."""
        writer = self._outgoing.get(member_id)
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    def send(self, member_id: str, message: Message) -> bool:
        """Queue one frame; False when the member is not connected or does not take what it gets."""
        writer = self._outgoing.get(member_id)
        if writer is None or writer.is_closing():
            return False
        if writer.transport.get_write_buffer_size() > SEND_QUEUE_BYTES_MAX:
            self._counters.connections_dropped += 1
            _log.warning(
                "peer takes nothing, connection dropped", peer=member_id, queued_max=SEND_QUEUE_BYTES_MAX
            )
            writer.transport.abort()
            return False
        if message is not self._encoded[0]:  # Followers that lack the same get the same message.
            self._encoded = (message, encode_frame(message))
        writer.write(self._encoded[1])
        self._counters.frames_out += 1
        return True

    def _bind(self) -> socket.socket:
        host, port = split_address(self._listen)
        try:
            listener = socket.create_server((host, port), family=_family(host), backlog=128)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen for members on {self._listen}: {error.strerror or error}"
            ) from error
        listener.setblocking(False)
        return listener

    def _reconcile(self) -> None:
        if self._tasks is None:
            return
        for peer_id, (member, task) in list(self._dialers.items()):
            if self._peers.get(peer_id) != member:
                task.cancel()
                del self._dialers[peer_id]
        for peer_id, transport in list(self._incoming.items()):
            if peer_id not in self._peers:
                transport.abort()
        for peer_id, member in self._peers.items():
            if peer_id not in self._dialers:
                task = self._tasks.create_task(self._dial(member), name=f"raft-dial/{peer_id}")
                self._dialers[peer_id] = (member, task)

    async def _dial(self, peer: MemberAddress) -> None:
        reason = ""
        while True:
            try:
                await self._hold(peer)
            except (OSError, EOFError, TimeoutError, IsthmusError) as error:
                if str(error) != reason:
                    reason = str(error)
                    _log.info("no connection to peer", peer=peer.id, address=peer.address, reason=reason)
            await asyncio.sleep(self._timing.redial_ms / 1000)

    async def _hold(self, peer: MemberAddress) -> None:
        """Connect to `peer` and keep the connection until it breaks, which is an OSError or EOFError."""
        host, port = split_address(peer.address)
        context = _checked(self._security.client_context())
        async with asyncio.timeout(self._timing.connect_ms / 1000):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            async with asyncio.timeout(self._timing.connect_ms / 1000):
                self._prepare(writer.transport)
                member = self._authenticate(writer.transport)
                if member.id != peer.id:
                    raise BadIdentityError(f"{peer.address} is member {member.id}, expected {peer.id}")
                writer.write(encode_frame(self._hello))
                self._check_hello(await _read_hello(reader), member)
            self._outgoing[peer.id] = writer
            self._tell_change(peer.id, is_connected=True)
            self._ping(peer)
            await self._ping_until_closed(peer, reader)
        finally:
            writer.transport.abort()
            if self._outgoing.get(peer.id) is writer:
                del self._outgoing[peer.id]
                self._tell_change(peer.id, is_connected=False)

    def _tell_change(self, peer_id: str, *, is_connected: bool) -> None:
        self._connected = tuple(sorted(self._outgoing))
        self._changed(peer_id, is_connected)

    async def _ping_until_closed(self, peer: MemberAddress, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                async with asyncio.timeout(self._timing.connection_silent_ms / 3000) as pause:
                    data = await reader.read(1)
            except TimeoutError:
                if not pause.expired():
                    raise  # The kernel's ETIMEDOUT is a TimeoutError too: the connection is dead.
                self._ping(peer)
                continue
            if data:
                raise InvalidInputError(f"peer {peer.id} sent data on a connection that it only reads")
            raise EOFError(f"peer {peer.id} closed the connection")

    def _ping(self, peer: MemberAddress) -> None:
        self.send(peer.id, Ping(self._clocks.own_unix_ms()))

    async def _accept(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._handshakes.acquire()
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:  # Out of descriptors, most likely: those that exist must live on.
                self._handshakes.release()
                self._refuse("accept", error)
                await asyncio.sleep(self._timing.redial_ms / 1000)
                continue
            tasks.create_task(self._serve(connection, str(address[0])), name=f"raft-peer/{address[0]}")

    async def _serve(self, connection: socket.socket, address: str) -> None:
        transport: asyncio.WriteTransport | None = None
        member: MemberAddress | None = None
        try:
            try:
                frames, transport, member = await self._greet(connection)
            finally:
                self._handshakes.release()
            old, self._incoming[member.id] = self._incoming.get(member.id), transport
            if old is not None:
                old.abort()
            await self._receive(member, frames, transport)
        except (OSError, EOFError, TimeoutError) as error:
            if member is None:
                self._refuse(address, error)
        except IsthmusError as error:
            self._refuse(address, error)
        finally:
            if member is not None and self._incoming.get(member.id) is transport:
                del self._incoming[member.id]
                self._clocks.forget(member.id)
            if transport is not None:
                transport.abort()
            connection.close()

    async def _greet(self, connection: socket.socket) -> tuple[Frames, asyncio.WriteTransport, MemberAddress]:
        loop = asyncio.get_running_loop()
        frames = Frames()
        context = _checked(self._security.server_context())
        async with asyncio.timeout(self._timing.connect_ms / 1000):
            transport, _ = await loop.connect_accepted_socket(lambda: frames, connection, ssl=context)
            try:
                self._prepare(transport)
                member = self._authenticate(transport)
                self._check_hello(await frames.greeting(), member)
                transport.write(encode_frame(self._hello))
            except BaseException:
                transport.abort()
                raise
        return frames, transport, member

    async def _receive(
        self, member: MemberAddress, frames: Frames, transport: asyncio.WriteTransport
    ) -> None:
        def take(message: Message) -> None:
            if self._incoming.get(member.id) is not transport:
                # Of a former process perhaps: its successor has spoken already.
                raise EOFError(f"another connection of {member.id} took its place")
            self._counters.frames_in += 1
            if isinstance(message, Hello):
                raise InvalidInputError(f"peer {member.id} sent a second hello")
            if isinstance(message, Ping):
                self._clocks.told(member.id, message.unix_ms)
            else:
                self._deliver(member.id, message)

        await frames.receive(take, silent_s=self._timing.connection_silent_ms / 1000)

    def _prepare(self, transport: asyncio.WriteTransport) -> None:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that vanished without a word is noticed by unacknowledged data, at the latest a ping.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._timing.connection_silent_ms)

    def _authenticate(self, transport: asyncio.WriteTransport) -> MemberAddress:
        chain = peer_chain_der(transport.get_extra_info("ssl_object"))
        try:
            identity = self._security.verify(chain)
        except IsthmusError:
            raise
        except Exception as error:  # whatever a stranger's certificate does to the verifier
            raise BadIdentityError(f"certificate of the peer cannot be verified: {error}") from error
        for member in self._peers.values():
            if member.identity == identity:
                return member
        raise BadIdentityError(f"{identity} is not a member that {self._me.id} knows")

    def _check_hello(self, hello: Message, member: MemberAddress) -> None:
        if not isinstance(hello, Hello):
            raise InvalidInputError(f"first frame of {member.id} is {type(hello).__name__}, expected Hello")
        if hello.member != member.id:
            raise BadIdentityError(
                f"{member.identity} says that it is member {hello.member}, it is {member.id}"
            )
        if hello.federation != self._hello.federation:
            raise InvalidInputError(
                f"peer {member.id} belongs to federation {hello.federation!r}, not {self._hello.federation!r}"
            )
        if not speaks(hello.version):
            raise InvalidInputError(
                f"peer {member.id} speaks protocol {hello.version}, expected {PROTOCOL_VERSION_MIN} or newer"
            )

    def _refuse(self, address: str, error: Exception) -> None:
        self._counters.connections_refused += 1
        second, lines = self._refusals_logged
        now = int(time.monotonic())
        self._refusals_logged = (now, lines + 1 if now == second else 1)
        if self._refusals_logged[1] <= REFUSALS_LOGGED_PER_S:
            _log.warning("connection refused", address=address, reason=str(error) or type(error).__name__)


async def _read_hello(reader: asyncio.StreamReader) -> Message:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > HELLO_BYTES_MAX:
        raise InvalidInputError(f"frame of {length} bytes, expected at most {HELLO_BYTES_MAX}")
    return decode_payload(await reader.readexactly(length))


def _checked(context: ssl.SSLContext) -> ssl.SSLContext:
    if context.minimum_version < ssl.TLSVersion.TLSv1_3 or context.verify_mode is not ssl.CERT_REQUIRED:
        raise InvalidInputError(
            "transport security gave a context that does not require TLS 1.3 and a certificate"
        )
    return context


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET

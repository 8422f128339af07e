"""A controller as agents see it: Control over real gRPC with mutual TLS, and a record of what was said.

It accepts like the real one (identity from the certificate, acknowledgements by message) and does as the
test tells it: refuse an endpoint, name a short lease, send a directory, go away.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

import grpc
import msgspec

from certs.core.bundle import TrustBundle
from certs.core.spiffe import parse
from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.grpc_security import VerifyingInterceptor, peer_identity, server_credentials
from certs.runtime.identity import LeafIdentity
from discovery.core.model import Endpoint, EndpointKey
from discovery.core.specs import ControllerSpec
from federation.api.messages import (
    CONTROL_SERVICE,
    AgentHeartbeat,
    AgentHello,
    AgentMessage,
    Declare,
    DeclareAck,
    DeclareRefused,
    Directory,
    DirectoryUpdate,
    NamedController,
    Sightings,
    SignReply,
    SignRequest,
    TrafficReport,
    Welcome,
)
from tests.support.pki import TestDomain

CONTROL_PORT = 7444

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_sign_decoder = msgspec.msgpack.Decoder(SignRequest)


class FakeController:
    """One controller of `cluster` at `host`; a context manager, startable again after `stop`."""

    def __init__(self, domain: TestDomain, cluster: str, host: str, *, id: str = "c1") -> None:  # noqa: A002 - the design's word
        self.domain = domain
        self.cluster = cluster
        self.host = host
        self.identity: LeafIdentity = domain.controller(cluster, id)
        self.named = NamedController(
            name=f"{cluster}-{id}",
            spec=ControllerSpec(
                cluster=cluster,
                role="member",
                identity=str(self.identity.spiffe_id),
                control=f"{host}:{CONTROL_PORT}",
            ),
        )
        self.bundles: Callable[[], Mapping[str, TrustBundle]] = lambda: domain.bundles
        self.lease_ms = 15_000
        self.ack_level = "global"
        self.acks = True
        self.refuse: dict[EndpointKey, str] = {}
        self.sign_error: tuple[grpc.StatusCode, str] | None = None
        self.directory: Directory | None = None
        self.serves = True  # False: it tells the caller who does, if it has a directory, and refuses.
        # What was heard.
        self.callers: list[str] = []
        self.hellos: list[AgentHello] = []
        self.declared: list[Declare] = []
        self.reports: list[TrafficReport] = []
        self.heartbeats = 0
        self.sightings: list[Sightings] = []
        self.signed: list[str] = []
        self.rows: dict[EndpointKey, Endpoint] = {}
        self.complete = False
        self.history: list[tuple[EndpointKey, bool]] = []
        self.handlers: list[grpc.GenericRpcHandler] = []
        self.on_rows: Callable[[], None] = lambda: None
        self._server: grpc.aio.Server | None = None
        self._outboxes: set[asyncio.Queue[Any]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    async def start(self) -> None:
        verifier = Verifier(self.bundles, clock=utc_now)
        self._server = grpc.aio.server(
            interceptors=[VerifyingInterceptor(verifier)], options=[("grpc.so_reuseport", 0)]
        )
        handlers = {
            "Register": grpc.stream_stream_rpc_method_handler(self._register),
            "Sign": grpc.unary_unary_rpc_method_handler(self._sign),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(CONTROL_SERVICE, handlers),)
        )
        self._server.add_generic_rpc_handlers(tuple(self.handlers))
        port = self._server.add_secure_port(
            self.named.spec.control, server_credentials(self.identity, self.bundles)
        )
        assert port == CONTROL_PORT, f"{self.named.spec.control} is taken"
        await self._server.start()

    async def stop(self) -> None:
        """Close every stream at once."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def say(self, message: Any) -> None:
        """Send a message on every open stream."""
        for outbox in self._outboxes:
            outbox.put_nowait(message)

    async def _register(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self.callers.append(str(peer_identity()))
        if not self.serves:
            if self.directory is not None:
                await context.write(_encoder.encode(DirectoryUpdate(directory=self.directory)))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the cluster is not served here")
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._outboxes.add(outbox)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(outbox, context))
                async for raw in requests:
                    self._hear(_decoder.decode(raw), outbox)
                writer.cancel()
        finally:
            self._outboxes.discard(outbox)

    async def _write(self, outbox: asyncio.Queue[Any], context: Any) -> None:
        while True:
            await context.write(_encoder.encode(await outbox.get()))

    def _hear(self, message: AgentMessage, outbox: asyncio.Queue[Any]) -> None:
        match message:
            case AgentHello():
                self.hellos.append(message)
                outbox.put_nowait(Welcome(controller=self.named.name, lease_ms=self.lease_ms))
                if self.directory is not None:
                    outbox.put_nowait(DirectoryUpdate(directory=self.directory))
            case AgentHeartbeat():
                self.heartbeats += 1
            case Sightings():
                self.sightings.append(message)
            case Declare():
                self._declared(message, outbox)
            case TrafficReport():
                self.reports.append(message)

    def _declared(self, message: Declare, outbox: asyncio.Queue[Any]) -> None:
        self.declared.append(message)
        for row in message.put:
            if row.key in self.refuse:
                refusal = DeclareRefused(
                    number=message.number, key=row.key, code=7, message=self.refuse[row.key]
                )
                outbox.put_nowait(refusal)
                continue
            held = self.rows.get(row.key)
            assert held is None or held.version <= row.version
            self.rows[row.key] = row
            self.history.append((row.key, row.ready))
        for key, incarnation, sequence in message.remove:
            held = self.rows.get(key)
            if held is not None and held.version < (incarnation, sequence):
                del self.rows[key]
        self.complete = self.complete or message.complete
        self.on_rows()
        if self.acks:
            outbox.put_nowait(DeclareAck(number=message.number, level="local"))
            if self.ack_level == "global":
                outbox.put_nowait(
                    DeclareAck(number=message.number, level="global", revision=len(self.declared))
                )

    async def _sign(self, raw: bytes, context: Any) -> bytes:
        if self.sign_error is not None:
            await context.abort(*self.sign_error)
        request = _sign_decoder.decode(raw)
        self.signed.append(request.identity)
        issued = self.domain.authority.sign_leaf(request.csr, parse(request.identity))
        return _encoder.encode(
            SignReply(chain=tuple(issued.chain_der), not_after_ms=int(issued.not_after.timestamp() * 1000))
        )


def directory_of(
    *controllers: FakeController, revision: int = 1, homes: dict[str, str] | None = None
) -> Directory:
    """Return the directory that names these controllers and their trust domains."""
    return Directory(
        revision=revision,
        federation="f1",
        controllers=tuple(controller.named for controller in controllers),
        bundles={
            controller.domain.trust_domain: (controller.domain.bundle.pem().decode(),)
            for controller in controllers
        },
        homes=homes or {},
    )

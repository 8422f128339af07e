"""The Control service of a controller: agents register what they run, everybody renews certificates."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Protocol

import grpc
import msgspec
import structlog

from certs.core.spiffe import SpiffeId, SystemIdentity, system_identity
from certs.runtime.grpc_security import peer_identity
from discovery.core.rehoming import was_of
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Tables
from federation.api.admission import agent_key, read_agent
from federation.api.agent_stream import AgentRules, AgentStream, Context, DrainWatcher, receive, send_targets
from federation.api.audit import AuditTrail
from federation.api.gateway_eyes import GatewayEyes
from federation.api.health import check_asker
from federation.api.messages import (
    CONTROL_SERVICE,
    PROTOCOL_QUESTIONS,
    AgentHello,
    Directory,
    DirectoryUpdate,
    Message,
    SignReply,
    SignRequest,
    Welcome,
)
from federation.api.reading import CatalogReader
from federation.api.registry import ClusterRegistry
from federation.api.removals import next_epoch
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    InvalidInputError,
    IsthmusError,
    NotAllowedError,
    PreconditionError,
    UnavailableError,
    cause_of,
)
from federation.kernel.places import Places
from federation.kernel.versions import PROTOCOL_VERSION, speaks

HELLO_TIMEOUT_S = 10.0
STREAMS_MAX = 10_000

_encoder = msgspec.msgpack.Encoder()
_log = structlog.get_logger("control")


class SignsFor(Protocol):
    """Where certificates come from: a member's own authority, or the members that a mirror asks."""

    async def sign_asked(
        self, peer: SpiffeId, csr: bytes, identity: str, asked_by: str
    ) -> tuple[tuple[bytes, ...], int]:
        """Return a new chain for `identity` and its end (Unix ms), or raise why not."""
        ...


class ControlService:
    """Handlers of CONTROL_SERVICE. The peer was verified by the interceptor before anything here runs."""

    def __init__(
        self,
        *,
        name: str,
        catalog: CatalogReader,
        signer: SignsFor,
        registry: Callable[[str], ClusterRegistry | None],
        directories: Callable[[], AsyncGenerator[Directory]],
        health: Callable[[], Awaitable[Message]],
        trace: Callable[[bytes], bytes],
        audit: AuditTrail,
        drains: DrainWatcher,
        eyes: GatewayEyes | None = None,
    ) -> None:
        self._name = name
        self._eyes = eyes  # None: nobody here makes an opinion of what gateways see.
        self._catalog = catalog
        self._signer = signer
        self._registry = registry
        self._directories = directories
        self._health = health
        self._trace = trace
        self._audit = audit
        self._drains = drains
        self._streams = 0
        self._places = Places()
        self._by_record: dict[bytes, set[AgentStream]] = {}  # Of each Agent record, by its key.

    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        return grpc.method_handlers_generic_handler(
            CONTROL_SERVICE,
            {
                "Sign": grpc.unary_unary_rpc_method_handler(self._sign),
                "Health": grpc.unary_unary_rpc_method_handler(self._say_health),
                "Trace": grpc.unary_unary_rpc_method_handler(self._say_trace),
                "Alive": grpc.unary_unary_rpc_method_handler(self._say_alive),
                "Register": grpc.stream_stream_rpc_method_handler(self._register),
            },
        )

    def evict(self, record: bytes) -> None:
        """End the streams of the agent whose Agent record, of this key, was deleted. Call it on the loop."""
        for stream in self._by_record.get(record, ()):
            stream.evict()

    def evict_missing(self) -> None:
        """End the streams of all agents that have no Agent record; for when the whole catalog was replaced."""
        for record in self._by_record:
            if record not in self._catalog.tables.resources:
                self.evict(record)

    async def _sign(self, request: bytes, context: Context) -> bytes:
        try:
            wanted = _decode_sign(request)
            chain, not_after_ms = await self._signer.sign_asked(
                peer_identity(), wanted.csr, wanted.identity, wanted.caller
            )
        except IsthmusError as error:
            return await _abort(context, error)
        return _encoder.encode(SignReply(chain=chain, not_after_ms=not_after_ms))

    async def _say_health(self, _request: bytes, context: Context) -> bytes:
        try:
            check_asker(peer_identity(), self._catalog.tables)
        except IsthmusError as error:
            return await _abort(context, error)
        return _encoder.encode(await self._health())

    async def _say_trace(self, request: bytes, context: Context) -> bytes:
        try:
            check_asker(peer_identity(), self._catalog.tables)
            return self._trace(request)
        except IsthmusError as error:
            return await _abort(context, error)

    async def _say_alive(self, _request: bytes, context: Context) -> bytes:
        """Answer controllers of other clusters: that is all they want to know, once a second."""
        try:
            check_asker(peer_identity(), self._catalog.tables)
        except IsthmusError as error:
            return await _abort(context, error)
        return b""

    async def _register(self, requests: AsyncIterator[bytes], context: Context) -> None:
        peer = peer_identity()
        try:
            if self._streams >= STREAMS_MAX:
                raise UnavailableError(f"{STREAMS_MAX} agents are connected here: use another controller")
            self._streams += 1
            try:
                with self._places.hold(str(peer)):
                    await self._serve(peer, requests, context)
            finally:
                self._streams -= 1
        except IsthmusError as error:
            _log.info("agent_stream_ended", peer=str(peer), reason=error.message)
            await _abort(context, error)

    async def _serve(self, peer: SpiffeId, requests: AsyncIterator[bytes], context: Context) -> None:
        system = system_identity(peer)
        if system is None or system.role not in ("agent", "gateway"):
            raise NotAllowedError(f"{peer} may not register endpoints: expected an agent or a gateway")
        registry = self._registry(system.cluster)
        spec = self._catalog.tables.cluster(system.cluster)
        if registry is None or spec is None or peer.trust_domain not in spec.trust_domains:
            await self._redirect(peer, system, spec, context)
            raise NotAllowedError(_why_unserved(self._catalog.tables, peer, system.cluster))
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await receive(requests)
        except TimeoutError as error:
            raise UnavailableError(f"{peer} said no hello within {HELLO_TIMEOUT_S:g} s") from error
        if not isinstance(hello, AgentHello):
            raise InvalidInputError("the first message of a registration must be a hello")
        if not speaks(hello.protocol):
            raise PreconditionError(
                f"the agent speaks protocol {hello.protocol}, this controller {PROTOCOL_VERSION}"
            )
        record = agent_key(system.cluster, system.role, system.id).encode()
        rules = self._rules(peer, system, record)
        stream = AgentStream(rules, registry, hello, context, self._audit, self._drains)
        if system.role == "gateway" and hello.protocol >= PROTOCOL_QUESTIONS:
            stream.eyes = self._eyes if self._eyes and self._eyes.cluster == system.cluster else None
        registry.open(stream.agent, hello.incarnation, stream)
        streams = self._by_record.setdefault(record, set())
        streams.add(stream)
        try:
            await stream.put(Welcome(controller=self._name, lease_ms=registry.lease_ms))
            await self._converse(stream, requests)
        except ExceptionGroup as group:  # Not `except*`: before Python 3.11.4 it wraps what is raised in it.
            raise cause_of(group) from None
        finally:
            registry.close(stream.agent, stream)
            if stream.eyes is not None:
                stream.eyes.ended(stream)
            streams.discard(stream)
            if not streams:
                self._by_record.pop(record, None)

    async def _converse(self, stream: "AgentStream", requests: AsyncIterator[bytes]) -> None:
        failure: IsthmusError | None = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stream.write(), name=f"agent-write/{stream.agent}")
            helpers = (
                tasks.create_task(stream.acknowledge(), name=f"agent-acknowledge/{stream.agent}"),
                tasks.create_task(self._send_directories(stream), name=f"agent-directory/{stream.agent}"),
                tasks.create_task(send_targets(stream), name=f"agent-targets/{stream.agent}"),
                tasks.create_task(stream.say_drains(), name=f"agent-drains/{stream.agent}"),
            )
            try:
                await stream.read(requests)
            except IsthmusError as error:
                failure = error  # Raised here it would cancel the writer: see `finish`.
            for helper in helpers:
                helper.cancel()
            stream.finish()
        if failure is not None:
            raise failure

    async def _send_directories(self, stream: "AgentStream") -> None:
        async for directory in self._directories():
            await stream.put(DirectoryUpdate(directory=directory))

    async def _redirect(
        self, peer: SpiffeId, system: SystemIdentity, spec: ClusterSpec | None, context: Context
    ) -> None:
        """Tell an agent whose cluster has moved to another home meanwhile where its controllers are now."""
        record = agent_key(system.cluster, system.role, system.id).encode()
        known = record in self._catalog.tables.resources
        if spec is None or not known or not was_of(spec, peer.trust_domain):
            return
        async with contextlib.aclosing(self._directories()) as directories:
            directory = await anext(directories)
        await context.write(_encoder.encode(DirectoryUpdate(directory=directory)))

    def _rules(self, peer: SpiffeId, system: SystemIdentity, record: bytes) -> "AgentRules":
        value = self._catalog.tables.resources.get(record)
        if value is None:
            raise NotAllowedError(f"{peer} is not enrolled, or was evicted")
        return AgentRules(peer, system, read_agent(value), lambda: self._domains(system.cluster))

    def _domains(self, cluster: str) -> tuple[str, ...]:
        """The trust domains of a cluster's identities: two while it moves from one home to another."""
        spec = self._catalog.tables.cluster(cluster)
        return () if spec is None else spec.trust_domains


def _why_unserved(tables: Tables, peer: SpiffeId, cluster: str) -> str:
    spec = tables.cluster(cluster)
    if spec is None and next_epoch(tables, cluster) > 1:
        return f"cluster {cluster} was removed from the federation: stop what runs there"
    if spec is not None and peer.trust_domain not in spec.trust_domains:
        return f"{peer}: the trust domain of its cluster is {' or '.join(spec.trust_domains)}"
    return f"cluster {cluster} is not served here: register with its own controllers"


def _decode_sign(request: bytes) -> SignRequest:
    try:
        return msgspec.msgpack.decode(request, type=SignRequest)
    except MALFORMED as error:
        raise InvalidInputError(f"sign request cannot be read: {error}") from error


async def _abort(context: Context, error: IsthmusError) -> bytes:
    status = next(status for status in grpc.StatusCode if status.value[0] == int(error.code))
    await context.abort(status, error.message)
    return b""  # Never reached: abort raises.

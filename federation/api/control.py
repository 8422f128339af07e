"""The Control service of a controller: agents register what they run, everybody renews certificates."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeAlias

import grpc
import msgspec
import structlog

from certs.core.spiffe import SpiffeId, SystemIdentity, system_identity, workload_id
from certs.runtime.grpc_security import peer_identity
from discovery.core.declarations import Declaration
from discovery.core.model import GATEWAY_SERVICE, SYSTEM_NAMESPACE, Endpoint, EndpointKey, ResourceKey
from discovery.core.specs import AgentSpec
from discovery.core.tables import Tables
from federation.api.admission import agent_key, read_agent
from federation.api.audit import AuditTrail
from federation.api.gateway_eyes import GatewayEyes
from federation.api.health import check_asker
from federation.api.messages import (
    CONTROL_SERVICE,
    PROTOCOL_PROBES,
    AgentHello,
    AgentMessage,
    ControllerMessage,
    Declare,
    DeclareAck,
    DeclareRefused,
    Directory,
    DirectoryUpdate,
    Message,
    Sightings,
    SignReply,
    SignRequest,
    Welcome,
)
from federation.api.reading import CatalogReader
from federation.api.registry import ClusterRegistry
from federation.api.removals import next_epoch
from federation.api.unpublished import UNPUBLISHED_TOLD_MAX
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    Code,
    InvalidInputError,
    IsthmusError,
    NotAllowedError,
    PreconditionError,
    UnavailableError,
    cause_of,
)
from federation.kernel.versions import PROTOCOL_VERSION, speaks

HELLO_TIMEOUT_S = 10.0
STALLED_MAX_S = 30.0
ANSWERS_QUEUED_MAX = 256
STREAMS_MAX = 10_000

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
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
        directories: Callable[[], AsyncIterator[Directory]],
        health: Callable[[], Awaitable[Message]],
        trace: Callable[[bytes], bytes],
        audit: AuditTrail,
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
        self._streams = 0
        self._by_record: dict[bytes, set[_AgentStream]] = {}  # Of each Agent record, by its key.

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
        if registry is None:
            raise NotAllowedError(_why_unserved(self._catalog.tables, system.cluster))
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await _receive(requests)
        except TimeoutError as error:
            raise UnavailableError(f"{peer} said no hello within {HELLO_TIMEOUT_S:g} s") from error
        if not isinstance(hello, AgentHello):
            raise InvalidInputError("the first message of a registration must be a hello")
        if not speaks(hello.protocol):
            raise PreconditionError(
                f"the agent speaks protocol {hello.protocol}, this controller {PROTOCOL_VERSION}"
            )
        record = agent_key(system.cluster, system.role, system.id).encode()
        stream = _AgentStream(
            self._rules(peer, system, record), registry, hello.incarnation, context, self._audit
        )
        if system.role == "gateway" and hello.protocol >= PROTOCOL_PROBES:
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

    async def _converse(self, stream: "_AgentStream", requests: AsyncIterator[bytes]) -> None:
        failure: IsthmusError | None = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stream.write(), name=f"agent-write/{stream.agent}")
            helpers = (
                tasks.create_task(stream.acknowledge(), name=f"agent-acknowledge/{stream.agent}"),
                tasks.create_task(self._send_directories(stream), name=f"agent-directory/{stream.agent}"),
                tasks.create_task(_send_targets(stream), name=f"agent-targets/{stream.agent}"),
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

    async def _send_directories(self, stream: "_AgentStream") -> None:
        async for directory in self._directories():
            await stream.put(DirectoryUpdate(directory=directory))

    def _rules(self, peer: SpiffeId, system: SystemIdentity, record: bytes) -> "AgentRules":
        value = self._catalog.tables.resources.get(record)
        if value is None:
            raise NotAllowedError(f"{peer} is not enrolled, or was evicted")
        return AgentRules(peer, system, read_agent(value))


class AgentRules:
    """Which endpoints one agent may declare: its own, under the identity that its enrollment gave."""

    def __init__(self, peer: SpiffeId, system: SystemIdentity, spec: AgentSpec) -> None:
        self.agent = agent_name(system.role, system.id)
        self._cluster = system.cluster
        if system.role == "gateway":
            self._namespace, self._identity = SYSTEM_NAMESPACE, str(peer)
        else:
            self._namespace = spec.namespace
            self._identity = str(workload_id(peer.trust_domain, spec.namespace, spec.service_account))
        self._gateway = system.role == "gateway"

    def refusal(self, endpoint: Endpoint) -> str:
        """Return why the endpoint is not this agent's to declare, or an empty text."""
        key = endpoint.key
        where = f"endpoint {key.name} of {key.service_key}"
        if key.cluster != self._cluster:
            return f"{where} is of cluster {key.cluster}, the agent is of {self._cluster}"
        if key.namespace != self._namespace or (key.service == GATEWAY_SERVICE) != self._gateway:
            expected = (
                f"{SYSTEM_NAMESPACE}/{GATEWAY_SERVICE}" if self._gateway else f"namespace {self._namespace}"
            )
            return f"{where}: the agent was enrolled for {expected}"
        if endpoint.identity != self._identity:
            return f"{where} has identity {endpoint.identity}, the agent's workloads have {self._identity}"
        if endpoint.agent != self.agent:
            return f"{where} names agent {endpoint.agent}, expected {self.agent}"
        return ""


def agent_name(role: str, agent: str) -> str:
    """What an agent is called in its endpoints: a gateway may have the name of an agent."""
    return agent if role == "agent" else f"{role}.{agent}"


class _AgentStream:
    """One registration stream, from its hello on."""

    def __init__(
        self,
        rules: AgentRules,
        registry: ClusterRegistry,
        incarnation: int,
        context: Context,
        audit: AuditTrail,
    ) -> None:
        self.agent = rules.agent
        self._rules = rules
        self._registry = registry
        self._incarnation = incarnation
        self._context = context
        self._audit = audit
        self._sequence = 0
        self._answers: asyncio.Queue[ControllerMessage | None] = asyncio.Queue(ANSWERS_QUEUED_MAX)
        self._to_acknowledge: asyncio.Queue[tuple[int, int]] = asyncio.Queue(ANSWERS_QUEUED_MAX)
        self._acknowledged = 0  # The newest message of which it was said that it is global.
        self._reading: asyncio.Timeout | None = None
        self._why: IsthmusError = UnavailableError("the stream was ended")
        self.eyes: GatewayEyes | None = None  # What takes the sightings of a gateway.

    async def put(self, message: ControllerMessage) -> None:
        """Queue an answer; a full queue makes the agent wait."""
        await self._answers.put(message)

    def evict(self) -> None:
        """The agent was removed: end `read`, wherever it waits."""
        self._end(NotAllowedError(f"{self.agent} was evicted: its Agent record was deleted"))

    def list_again(self) -> None:
        """End `read`, so that the agent comes back with its whole list."""
        self._end(UnavailableError(f"{self.agent} left out most of what it had: list again"))

    def _end(self, why: IsthmusError) -> None:
        self._why = why
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.reschedule(asyncio.get_running_loop().time())

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Take messages until the agent closes the stream; raises when it is silent or was evicted."""
        try:
            async with asyncio.timeout(None) as self._reading:
                try:
                    await self._read(requests)
                finally:
                    self._reading = None
        except TimeoutError as error:
            raise self._why from error

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        """Take messages until the agent closes the stream or is silent for its lease."""
        while True:
            try:
                async with asyncio.timeout(self._registry.lease_ms / 1000):
                    message = await _receive(requests)
            except TimeoutError as error:
                raise UnavailableError(f"{self.agent} was silent for {self._registry.lease_ms} ms") from error
            if message is None:
                return
            if isinstance(message, Declare):
                await self._declare(message)
            if self.eyes is not None:
                self.eyes.heard(self)
                if isinstance(message, Sightings):
                    self.eyes.told(self, message)
            self._registry.heard(self.agent)

    async def _declare(self, message: Declare) -> None:
        accepted = []
        for endpoint in message.put:
            if reason := self._rules.refusal(endpoint):
                await self._refuse(message.number, endpoint.key, reason)
            else:
                accepted.append(endpoint)
        self._sequence = max(
            [
                self._sequence,
                *(one.sequence for one in message.put),
                *(number for _, _, number in message.remove),
            ]
        )
        declared = self._registry.declare(
            Declaration(
                agent=self.agent,
                incarnation=self._incarnation,
                sequence=self._sequence,
                put=tuple(accepted),
                remove=tuple(key for key, _, _ in message.remove),
                complete=message.complete,
            ),
            self,
        )
        for key, reason in declared.refused:
            await self._refuse(message.number, key, reason)
        await self.put(DeclareAck(number=message.number, level="local"))
        await self._to_acknowledge.put((message.number, self._registry.version))

    async def _refuse(self, number: int, key: EndpointKey, reason: str) -> None:
        _log.warning("endpoint_refused", agent=self.agent, reason=reason)
        actor = f"{self._registry.cluster}/{self.agent}"
        self._audit.refuse(
            "agent", "declare", Code.PERMISSION_DENIED, reason, actor=actor, what="/".join(key)
        )
        await self.put(
            DeclareRefused(number=number, key=key, code=int(Code.PERMISSION_DENIED), message=reason)
        )

    async def acknowledge(self) -> None:
        """Tell the agent what has become global."""
        while True:
            number, version = await self._to_acknowledge.get()
            revision = await self._registry.wait_published(version)
            self._acknowledged = number
            unpublished = tuple(self._registry.unpublished.of(self.agent).items())
            if len(unpublished) > UNPUBLISHED_TOLD_MAX:
                continue  # Better no answer than one that leaves something out.
            await self.put(
                DeclareAck(number=number, level="global", revision=revision, unpublished=unpublished)
            )

    def acknowledge_again(self) -> None:
        """Say anew what is global; nothing to do where an answer is due anyway."""
        if self._acknowledged and self._to_acknowledge.empty():
            self._to_acknowledge.put_nowait((self._acknowledged, self._registry.published_version))

    def finish(self) -> None:
        """Let the writer end after the message that it is sending; what is still queued is dropped.

        It must not be cancelled: gRPC would refuse to send a status while it holds half a write, and the
        agent would wait for an answer until its connection breaks.
        """
        while not self._answers.empty():
            self._answers.get_nowait()
        self._answers.put_nowait(None)

    async def write(self) -> None:
        """Send what is queued until `finish`; an agent that takes nothing for long is gone."""
        while (message := await self._answers.get()) is not None:
            try:
                async with asyncio.timeout(STALLED_MAX_S):
                    await self._context.write(_encoder.encode(message))
            except TimeoutError as error:
                raise UnavailableError(f"{self.agent} took nothing for {STALLED_MAX_S:g} s") from error


async def _send_targets(stream: _AgentStream) -> None:
    if stream.eyes is not None:
        async for targets in stream.eyes.targets():
            await stream.put(targets)


def _why_unserved(tables: Tables, cluster: str) -> str:
    key = ResourceKey("", "Cluster", "", cluster)
    if tables.resource(key) is None and next_epoch(tables, cluster) > 1:
        return f"cluster {cluster} was removed from the federation: stop what runs there"
    return f"cluster {cluster} is not served here: register with its own controllers"


async def _receive(requests: AsyncIterator[bytes]) -> AgentMessage | None:
    async for raw in requests:
        try:
            return _decoder.decode(raw)
        except MALFORMED as error:
            raise InvalidInputError(f"registration message cannot be read: {error}") from error
    return None


def _decode_sign(request: bytes) -> SignRequest:
    try:
        return msgspec.msgpack.decode(request, type=SignRequest)
    except MALFORMED as error:
        raise InvalidInputError(f"sign request cannot be read: {error}") from error


async def _abort(context: Context, error: IsthmusError) -> bytes:
    status = next(status for status in grpc.StatusCode if status.value[0] == int(error.code))
    await context.abort(status, error.message)
    return b""  # Never reached: abort raises.

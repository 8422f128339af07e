"""One registration stream of an agent, and what an agent may declare on it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeAlias

import grpc
import msgspec
import structlog

from certs.core.spiffe import SpiffeId, SystemIdentity, workload_id
from discovery.core.declarations import Declaration
from discovery.core.model import GATEWAY_SERVICE, SYSTEM_NAMESPACE, Endpoint, EndpointKey
from discovery.core.specs import AgentSpec
from federation.api.audit import AuditTrail
from federation.api.gateway_eyes import GatewayEyes
from federation.api.messages import (
    PROTOCOL_QUESTIONS,
    AgentHello,
    AgentMessage,
    ControllerMessage,
    Declare,
    DeclareAck,
    DeclareRefused,
    Sightings,
    TrafficReport,
    WatchDrains,
    WatchedDrain,
)
from federation.api.registry import ClusterRegistry
from federation.api.unpublished import UNPUBLISHED_TOLD_MAX
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    Code,
    InvalidInputError,
    IsthmusError,
    NotAllowedError,
    UnavailableError,
)

STALLED_MAX_S = 30.0
ANSWERS_QUEUED_MAX = 256

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_encoder = msgspec.msgpack.Encoder()
_log = structlog.get_logger("control")


class DrainWatcher(Protocol):
    """Who wants to know what fails while clusters are drained; `federation.app.drain_watch` does."""

    def watched(self) -> AsyncIterator[tuple[WatchedDrain, ...]]:
        """Yield the drains that are looked at now, and again whenever they change."""
        ...

    def take(self, cluster: str, report: TrafficReport) -> None:
        """Take what an agent of `cluster` counted; raises InvalidInputError for what no Envoy can have counted."""
        ...


class AgentRules:
    """Which endpoints one agent may declare: its own, under the identity that its enrollment gave."""

    def __init__(
        self,
        peer: SpiffeId,
        system: SystemIdentity,
        spec: AgentSpec,
        domains: Callable[[], tuple[str, ...]],
    ) -> None:
        """`domains` are the trust domains of the cluster's identities, as of each call."""
        self.agent = agent_name(system.role, system.id)
        self.trust_domain = peer.trust_domain
        self._cluster = system.cluster
        if system.role == "gateway":
            self._namespace, self._identity = SYSTEM_NAMESPACE, peer
        else:
            self._namespace = spec.namespace
            self._identity = workload_id(peer.trust_domain, spec.namespace, spec.service_account)
        self._domains = domains
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
        identities = [
            str(msgspec.structs.replace(self._identity, trust_domain=domain)) for domain in self._domains()
        ]
        if endpoint.identity not in identities:
            return f"{where} has identity {endpoint.identity}, the agent's workloads have {' or '.join(identities)}"
        if endpoint.agent != self.agent:
            return f"{where} names agent {endpoint.agent}, expected {self.agent}"
        return ""


def agent_name(role: str, agent: str) -> str:
    """What an agent is called in its endpoints: a gateway may have the name of an agent."""
    return agent if role == "agent" else f"{role}.{agent}"


class AgentStream:
    """One registration stream, from its hello on."""

    def __init__(
        self,
        rules: AgentRules,
        registry: ClusterRegistry,
        hello: AgentHello,
        context: Context,
        audit: AuditTrail,
        drains: DrainWatcher,
    ) -> None:
        self.agent = rules.agent
        self.trust_domain = rules.trust_domain  # Of the identity that it proved.
        self._rules = rules
        self._registry = registry
        self._incarnation = hello.incarnation
        self._drains = drains if hello.protocol >= PROTOCOL_QUESTIONS else None
        self._context = context
        self._audit = audit
        self._sequence = 0
        self._answers: asyncio.Queue[ControllerMessage | None] = asyncio.Queue(ANSWERS_QUEUED_MAX)
        # The newest message, and its version: one answer says of all before it that they are global. No queue: without a
        # quorum nothing becomes global for hours, and the agent is to be heard all the same.
        self._newest = (0, 0)
        self._is_due = asyncio.Event()
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
        self._end(
            UnavailableError(
                f"{self.agent}: it left out most of what it had, or has much that is refused now: list again"
            )
        )

    def dismiss(self) -> None:
        """End `read`: the cluster is served here no longer."""
        self._end(
            UnavailableError(f"{self.agent}: cluster {self._registry.cluster} is served here no longer")
        )

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
                    message = await receive(requests)
            except TimeoutError as error:
                raise UnavailableError(f"{self.agent} was silent for {self._registry.lease_ms} ms") from error
            if message is None:
                return
            if isinstance(message, Declare):
                await self._declare(message)
            elif isinstance(message, TrafficReport):
                self._report(message)
            if self.eyes is not None:
                self.eyes.heard(self)
                if isinstance(message, Sightings):
                    self.eyes.told(self, message)
            self._registry.heard(self.agent)

    async def _declare(self, message: Declare) -> None:
        accepted, refused = [], []
        for endpoint in message.put:
            if reason := self._rules.refusal(endpoint):
                refused.append(endpoint.key)
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
                refused=tuple(refused),
            ),
            self,
        )
        for key, reason in declared.refused:
            await self._refuse(message.number, key, reason)
        await self.put(DeclareAck(number=message.number, level="local"))
        self._newest = (message.number, self._registry.version)
        self._is_due.set()

    def _report(self, report: TrafficReport) -> None:
        if self._drains is None:
            return
        try:
            self._drains.take(self._registry.cluster, report)
        except InvalidInputError as error:
            _log.warning("traffic_refused", agent=self.agent, reason=error.message)
            actor = f"{self._registry.cluster}/{self.agent}"
            self._audit.refuse(
                "agent", "report", error.code, error.message, actor=actor, what=report.drained[:80]
            )

    async def say_drains(self) -> None:
        """Tell the agent which drains it shall watch, for as long as it understands that."""
        if self._drains is not None:
            async for drains in self._drains.watched():
                await self.put(WatchDrains(drains=drains))

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
            await self._is_due.wait()
            self._is_due.clear()
            number, version = self._newest
            revision = await self._registry.wait_published(version, self.agent)
            self._acknowledged = number
            unpublished = tuple(self._registry.unpublished.of(self.agent).items())
            if len(unpublished) > UNPUBLISHED_TOLD_MAX:
                continue  # Better no answer than one that leaves something out.
            await self.put(
                DeclareAck(number=number, level="global", revision=revision, unpublished=unpublished)
            )

    def acknowledge_again(self) -> None:
        """Say anew what is global, as soon as all is."""
        if self._acknowledged:
            self._is_due.set()

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


async def send_targets(stream: AgentStream) -> None:
    """Tell a gateway whom to look at, for as long as it understands that."""
    if stream.eyes is not None:
        async for targets in stream.eyes.targets():
            await stream.put(targets)


async def receive(requests: AsyncIterator[bytes]) -> AgentMessage | None:
    """Return the next message, None at the end of the stream; raises `InvalidInputError` for what is none."""
    async for raw in requests:
        try:
            return _decoder.decode(raw)
        except MALFORMED as error:
            raise InvalidInputError(f"registration message cannot be read: {error}") from error
    return None

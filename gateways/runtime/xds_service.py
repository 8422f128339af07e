"""The aggregated discovery service (delta) on grpc.aio, over any source of resources."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc
import msgspec
import structlog
from envoy.service.discovery.v3 import discovery_pb2

from federation.kernel.errors import InvalidInputError, IsthmusError, LimitExceededError
from federation.kernel.places import Places
from gateways.core.ads import AdsStream, TypeStatus
from gateways.core.proxy import METADATA_FIELD, NODE_ID_CHARACTERS_MAX
from gateways.core.wire import LISTENER, SHORT_NAMES
from gateways.runtime.source import NodeInfo, Progress, ResourceSource, Subscription

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"
PATH = f"/{SERVICE}/{METHOD}"

# One Python process pushes to about 5,000 streams a second; more proxies need more processes.
STREAMS_MAX = 5_000
FIRST_REQUEST_TIMEOUT_S = 10.0
LISTENER_RETRY_S = 5.0
# Updates whose answer is awaited of one proxy; the oldest are forgotten.
AWAITED_MAX = 1_000

# For the server that the service is added to: gRPC otherwise answers a client's third ping with GOAWAY.
SERVER_OPTIONS = (
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_log = structlog.get_logger(__name__)
_STATUS_BY_CODE = {status.value[0]: status for status in grpc.StatusCode}


class ProxyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One connected proxy, for `proxy status`."""

    id: str
    cluster: str
    peer: str
    user_agent: str
    types: tuple[TypeStatus, ...]


class _Stream:
    """What is known about one open stream."""

    def __init__(self, node: NodeInfo, peer: str, subscription: Subscription) -> None:
        self.node = node
        self.peer = peer
        self.subscription = subscription
        self.machine = AdsStream(subscription)
        self.wake = asyncio.Event()
        self._awaited: deque[Progress] = deque()

    def follow(self) -> None:
        """Take over what changed."""
        self.machine.on_change(self.subscription.take_dirty())
        self._awaited.extend(self.subscription.take_progress())
        while len(self._awaited) > AWAITED_MAX:
            self._awaited.popleft().gone(self.node.cluster)

    def report(self) -> None:
        """Tell who waits for it that the proxy has answered to everything."""
        if self.machine.current:
            while self._awaited:
                self._awaited.popleft().answered(self.node.cluster)

    def close(self) -> None:
        """The proxy is gone."""
        self.subscription.close()
        while self._awaited:
            self._awaited.popleft().gone(self.node.cluster)


class _StreamEndedError(Exception):
    """The proxy closed its side: ends the stream's other tasks."""


class XdsService:
    """Serves every stream from one source; `handler` plugs it into a grpc.aio server.

    `peer_of` returns the proven identity of a call's peer, or an empty string where none is asked for (an
    agent's own socket).
    """

    def __init__(self, source: ResourceSource, *, peer_of: Callable[[Context], str]) -> None:
        self._source = source
        self._peer_of = peer_of
        self._streams: set[_Stream] = set()
        self._places = Places()
        self._calls = 0  # Streams, those that have not said who they are, and those that are being refused.

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """The handler of the service, for `server.add_generic_rpc_handlers`."""
        # Responses are put together from shared bytes (`Response.encode`), so they need no serializer.
        method = grpc.stream_stream_rpc_method_handler(
            self._delta, request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    def status(self) -> tuple[ProxyStatus, ...]:
        """Every connected proxy, by id."""
        found = (
            ProxyStatus(
                id=stream.node.id,
                cluster=stream.node.cluster,
                peer=stream.peer,
                user_agent=stream.node.user_agent,
                types=stream.machine.status(),
            )
            for stream in self._streams
        )
        return tuple(sorted(found, key=lambda proxy: (proxy.cluster, proxy.id)))

    async def _delta(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Serve one call. It counts until its status is sent, and with it all that was written before.

        To a peer that takes nothing that lasts as long as its connection; gRPC offers no way to drop the call.
        """
        self._calls += 1
        try:
            await self._serve_or_refuse(requests, context)
        finally:
            self._calls -= 1

    async def _serve_or_refuse(self, requests: AsyncIterator[Any], context: Context) -> None:
        refusal: IsthmusError | None = None
        try:
            await self._serve(requests, context)
        except* IsthmusError as group:
            refusal = _first(group)
        if refusal is not None:  # Not inside `except*`, which would wrap what `abort` raises.
            _log.warning("xds stream refused", peer=context.peer(), reason=refusal.message)
            await context.abort(_STATUS_BY_CODE[int(refusal.code)], refusal.message)

    async def _serve(self, requests: AsyncIterator[Any], context: Context) -> None:
        if self._calls > STREAMS_MAX:
            raise LimitExceededError(f"{STREAMS_MAX} proxies are connected here already")
        peer = self._peer_of(context)
        with self._places.hold(peer):
            await self._serve_peer(peer, requests, context)

    async def _serve_peer(self, peer: str, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            async with asyncio.timeout(FIRST_REQUEST_TIMEOUT_S):
                first = await anext(aiter(requests), None)
        except TimeoutError as error:
            raise InvalidInputError(f"no xds request within {FIRST_REQUEST_TIMEOUT_S:g} s") from error
        if first is None:
            return
        node = _node(first)
        stream = _Stream(node, peer, self._source.open(node, peer))
        self._streams.add(stream)
        _log.info("xds stream opened", proxy=node.id, cluster=node.cluster, peer=peer or context.peer())
        try:
            self._take_in(stream, first)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(stream, requests), name=f"xds-read/{node.id}")
                tasks.create_task(_follow(stream), name=f"xds-follow/{node.id}")
                tasks.create_task(_write(stream, context), name=f"xds-write/{node.id}")
                tasks.create_task(_retry_listeners(stream), name=f"xds-retry/{node.id}")
        except* _StreamEndedError:
            _log.info("xds stream closed", proxy=node.id, cluster=node.cluster)
        finally:
            self._streams.discard(stream)
            stream.close()

    async def _read(self, stream: _Stream, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            self._take_in(stream, request)
        raise _StreamEndedError

    def _take_in(self, stream: _Stream, request: Any) -> None:
        ack = stream.machine.on_request(request)
        stream.wake.set()
        stream.report()
        if ack is None:
            return
        stream.subscription.on_ack(ack)
        if ack.error:
            _log.warning(
                "proxy rejected configuration",
                proxy=stream.node.id,
                cluster=stream.node.cluster,
                type=SHORT_NAMES.get(ack.type_url, ack.type_url),
                resources=ack.rejected,
                reason=ack.error,
            )


async def _follow(stream: _Stream) -> None:
    while True:
        await stream.subscription.wait()
        stream.follow()
        stream.wake.set()


async def _write(stream: _Stream, context: Context) -> None:
    while True:
        await stream.wake.wait()
        stream.wake.clear()
        for response in stream.machine.take():
            await context.write(response.encode())
        stream.report()


async def _retry_listeners(stream: _Stream) -> None:
    """Whether Envoy can take a listener depends on the port too, which somebody else may give back."""
    while True:
        await asyncio.sleep(LISTENER_RETRY_S)
        stream.machine.retry(LISTENER)
        stream.wake.set()


def _node(request: Any) -> NodeInfo:
    node = request.node
    fields = node.metadata.fields
    return NodeInfo(
        id=node.id[:NODE_ID_CHARACTERS_MAX],
        cluster=node.cluster[:NODE_ID_CHARACTERS_MAX],
        description=fields[METADATA_FIELD].string_value if METADATA_FIELD in fields else "",
        user_agent=f"{node.user_agent_name} {_version(node)}".strip(),
    )


def _version(node: Any) -> str:
    number = node.user_agent_build_version.version
    return f"{number.major_number}.{number.minor_number}.{number.patch}" if number.major_number else ""


def _first(group: BaseExceptionGroup[IsthmusError]) -> IsthmusError:
    return next(iter(_leaves(group)))


def _leaves(group: BaseExceptionGroup[IsthmusError]) -> list[IsthmusError]:
    found: list[IsthmusError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found

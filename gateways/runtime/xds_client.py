"""The agent's side of xDS: follows one controller at a time into a relay store."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2

from federation.kernel.errors import IsthmusError
from gateways.core.proxy import METADATA_FIELD, Proxy, encode_proxy
from gateways.core.wire import ORDER, SHORT_NAMES, XdsResource, serialize
from gateways.runtime.relay_store import RelayStore
from gateways.runtime.together import run_together
from gateways.runtime.xds_service import PATH

BACKOFF_S = 0.1
BACKOFF_MAX_S = 2.0
# A stream that lived this long was a good one: the next failure starts from the shortest pause.
STREAM_GOOD_S = 10.0
# Answers to the controller that are not yet written: an ACK per response in flight and a verdict per type.
REQUESTS_QUEUED_MAX = 64
# Options of the channels that `next_channel` returns. A route configuration is one message, however many
# services there are; pings find a controller that vanished without a word.
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
)
_REJECTED = grpc.StatusCode.INVALID_ARGUMENT.value[0]

_log = structlog.get_logger(__name__)


class XdsClient:
    """Follows all types of the proxy's resources; `run` reconnects until it is cancelled.

    `next_channel` returns the channel to try next, in the caller's order of preference; the client closes
    it. A response is acknowledged once it is in the store. What the local Envoy says against it later is
    passed on as a rejection of the type's last response, and taken back when the Envoy is content.
    """

    def __init__(
        self, proxy: Proxy, store: RelayStore, *, next_channel: Callable[[], Awaitable[grpc.aio.Channel]]
    ) -> None:
        self._proxy = proxy
        self._store = store
        self._next_channel = next_channel
        self.connected = asyncio.Event()
        self.last_error = ""

    async def run(self) -> None:
        """Follow one controller after another."""
        pause_s = BACKOFF_S
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                await self._follow_one()
            except (IsthmusError, grpc.RpcError, OSError) as error:
                self.last_error = _reason(error)
                _log.warning(
                    "xds stream to the controller ended", proxy=self._proxy.id, reason=self.last_error
                )
            finally:
                self.connected.clear()
            if loop.time() - began_s > STREAM_GOOD_S:
                pause_s = BACKOFF_S
            # Jitter: a controller that returns must not meet all its proxies in one moment.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)

    async def _follow_one(self) -> None:
        channel: Any = await self._next_channel()  # The stubs know neither `close()` nor `write`.
        try:
            call = channel.stream_stream(
                PATH,
                request_serializer=serialize,
                response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
            )()
            queue: asyncio.Queue[Any] = asyncio.Queue(REQUESTS_QUEUED_MAX)
            nonces: dict[str, str] = {}
            await run_together(
                self._send(call, queue), self._receive(call, queue, nonces), self._report(queue, nonces)
            )
        finally:
            await channel.close()

    async def _send(self, call: Any, queue: "asyncio.Queue[Any]") -> None:
        try:
            for request in self._first_requests():
                await call.write(request)
            while True:
                await call.write(await queue.get())
        except asyncio.InvalidStateError as error:
            # How grpc.aio says that the call is over. Why is for the receiver to learn, if it still can:
            # to ask the call here may never be answered.
            raise ConnectionResetError("the controller ended the stream") from error

    async def _receive(self, call: Any, queue: "asyncio.Queue[Any]", nonces: dict[str, str]) -> None:
        async for response in call:
            type_url = response.type_url
            if type_url not in SHORT_NAMES:
                continue  # Never asked for.
            self._store.apply(
                type_url,
                [_resource(type_url, resource) for resource in response.resources],
                response.removed_resources,
            )
            self.last_error = ""
            self.connected.set()
            nonces[type_url] = response.nonce
            await queue.put(_answer(type_url, response.nonce, ""))
            if type_url in self._store.rejections:
                await queue.put(_answer(type_url, response.nonce, self._store.rejections[type_url]))
        raise ConnectionResetError("the controller closed the stream")

    async def _report(self, queue: "asyncio.Queue[Any]", nonces: dict[str, str]) -> None:
        """Tell the controller whenever the Envoy changes its mind about a type."""
        while True:
            for type_url in await self._store.verdict_types():
                if type_url in nonces:
                    error = self._store.rejections.get(type_url, "")
                    await queue.put(_answer(type_url, nonces[type_url], error))

    def _first_requests(self) -> list[Any]:
        return [
            discovery_pb2.DeltaDiscoveryRequest(
                node=node_of(self._proxy) if position == 0 else None,
                type_url=type_url,
                resource_names_subscribe=["*"],
                initial_resource_versions=self._store.versions(type_url),
            )
            for position, type_url in enumerate(ORDER)
        ]


def node_of(proxy: Proxy) -> Any:
    """Return the xDS node by which a proxy, or the agent for it, introduces itself."""
    node = Node(id=proxy.id, cluster=proxy.cluster, user_agent_name="isthmus-agent")
    node.metadata[METADATA_FIELD] = encode_proxy(proxy)
    return node


def _answer(type_url: str, nonce: str, error: str) -> Any:
    """An ACK of the response `nonce` or, with an error, a NACK."""
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)
    if error:
        request.error_detail.code = _REJECTED
        request.error_detail.message = error
    return request


def _resource(type_url: str, resource: Any) -> XdsResource:
    return XdsResource(
        type_url=type_url, name=resource.name, version=resource.version, wire=serialize(resource)
    )


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower()}: {error.details()}"
    return str(error)

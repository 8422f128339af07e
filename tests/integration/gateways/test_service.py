"""The xDS service over real gRPC, without Envoy: whom it refuses, and that it survives what strangers send."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from discovery.core.model import ServiceKey
from federation.kernel.places import STREAMS_EACH_MAX
from gateways.core.ads import TYPES_MAX, Ack
from gateways.core.wire import CLUSTER, ENDPOINTS, SECRET, XdsResource, resource_of_bytes
from gateways.runtime import xds_service
from gateways.runtime.source import NodeInfo
from gateways.runtime.xds_client import node_of
from gateways.runtime.xds_service import XdsService
from tests.integration.gateways.mesh import Controller
from tests.support.loopback import LoopbackBlock
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import DictView, endpoint, owner, roots, service, sidecar

CALL_TIMEOUT_S = 30
AGENT = "spiffe://alpha.example/isthmus/alpha/agent/a1"


@pytest.fixture
def controller(loopback: Callable[[], LoopbackBlock]) -> Controller:
    block = loopback()
    view = DictView("alpha")
    view.trust(roots("alpha"))
    view.put(service(owner("alpha", [endpoint("alpha")], local=True)))
    return Controller(view, block.host(1), block.port(block.host(1)))


@asynccontextmanager
async def serving(controller: Controller) -> AsyncIterator[grpc.aio.Channel]:
    await controller.start()
    try:
        async with grpc.aio.insecure_channel(controller.target) as channel:
            yield channel
    finally:
        await controller.stop()


def stream(channel: Any, *, peer: str = AGENT) -> Any:
    method = channel.stream_stream(
        xds_service.PATH, response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString
    )
    return method(metadata=(("peer", peer),), timeout=CALL_TIMEOUT_S)


def first_request(**node: Any) -> Any:
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTER, node=node_of(sidecar()))
    for field, value in node.items():
        setattr(request.node, field, value)
    return request


async def ends_with(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def is_served(channel: Any) -> list[str]:
    call = stream(channel)
    await call.write(first_request().SerializeToString())
    response = await call.read()
    call.cancel()
    return [resource.name for resource in response.resources]


def without_description() -> Any:
    request = first_request()
    request.node.metadata.Clear()
    return request


def of_cluster(name: str) -> Any:
    proxy = msgspec.structs.replace(sidecar(), cluster=name)
    return discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTER, node=node_of(proxy))


@pytest.mark.parametrize(
    ("request_bytes", "peer", "status", "text"),
    [
        pytest.param(
            first_request().SerializeToString(),
            "spiffe://alpha.example/isthmus/alpha/agent/other",
            grpc.StatusCode.UNAUTHENTICATED,
            "may not speak for sidecar 's1'",
            id="another-agent",
        ),
        pytest.param(
            without_description().SerializeToString(),
            AGENT,
            grpc.StatusCode.INVALID_ARGUMENT,
            "metadata.isthmus is missing",
            id="no-description",
        ),
        pytest.param(
            first_request(id="another").SerializeToString(),
            AGENT,
            grpc.StatusCode.INVALID_ARGUMENT,
            "expected the node's own id 'another'",
            id="another-proxy's-description",
        ),
        pytest.param(
            of_cluster("beta").SerializeToString(),
            "spiffe://beta.example/isthmus/beta/agent/a1",
            grpc.StatusCode.UNAVAILABLE,
            "no view of cluster 'beta' yet",
            id="a-cluster-not-ready-here",
        ),
        pytest.param(
            first_request().SerializeToString().replace(CLUSTER.encode(), b""),
            AGENT,
            None,
            "",
            id="damaged",
        ),
        pytest.param(b"\xff\xff\xff\xff", AGENT, None, "", id="no-protobuf"),
    ],
)
def test_a_bad_stream_is_refused_with_its_reason_and_the_next_one_is_served(
    controller, request_bytes, peer, status, text
):
    async def scenario() -> None:
        async with serving(controller) as channel:
            call = stream(channel, peer=peer)
            await call.write(request_bytes)
            found, details = await ends_with(call)
            assert found != grpc.StatusCode.OK
            assert status is None or (found == status and text in details), (found, details)
            assert len(await is_served(channel)) == 2

    asyncio.run(scenario())


def test_a_stream_that_says_nothing_is_ended(controller, monkeypatch):
    monkeypatch.setattr(xds_service, "FIRST_REQUEST_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        async with serving(controller) as channel:
            found, details = await ends_with(stream(channel))
            assert (found, details) == (grpc.StatusCode.INVALID_ARGUMENT, "no xds request within 0.05 s")

    asyncio.run(scenario())


def test_streams_are_bounded(controller, monkeypatch):
    monkeypatch.setattr(xds_service, "STREAMS_MAX", 1)

    async def scenario() -> None:
        async with serving(controller) as channel:
            one = stream(channel)
            await one.write(first_request().SerializeToString())
            await one.read()
            found, details = await ends_with(stream(channel))
            assert (found, details) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "1 proxies are connected here already",
            )
            one.cancel()

    asyncio.run(scenario())


def test_one_process_does_not_take_the_places_of_all_others(controller):
    async def scenario() -> None:
        async with serving(controller) as channel:
            flood = [stream(channel) for _ in range(STREAMS_EACH_MAX)]
            for call in flood:
                await call.write(first_request().SerializeToString())
                await call.read()
            found, details = await ends_with(stream(channel))
            assert (found, details) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{AGENT} has 64 streams here, at most 64 are allowed",
            )
            # Another is heard, and told what is wrong with it.
            other = stream(channel, peer=AGENT.replace("/a1", "/a2"))
            await other.write(first_request().SerializeToString())
            assert (await ends_with(other))[0] == grpc.StatusCode.UNAUTHENTICATED
            for call in flood:
                call.cancel()

    asyncio.run(scenario())


def test_a_stream_that_breaks_its_bounds_later_is_ended_too(controller):
    async def scenario() -> None:
        async with serving(controller) as channel:
            call = stream(channel)
            await call.write(first_request().SerializeToString())
            # The last of these is one too many; a write after it would meet a stream that is gone.
            for number in range(TYPES_MAX):
                request = discovery_pb2.DeltaDiscoveryRequest(type_url=f"type-{number}")
                await call.write(request.SerializeToString())
            found, details = await ends_with(call)
            assert found == grpc.StatusCode.RESOURCE_EXHAUSTED, details
            assert controller.service.status() == ()

    asyncio.run(scenario())


class Told:
    """Notes what is said of an update."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def compiled(self, cluster: str) -> None:
        self.words.append(f"compiled {cluster}")

    def sent(self, cluster: str) -> None:
        self.words.append(f"sent {cluster}")

    def answered(self, cluster: str) -> None:
        self.words.append(f"answered {cluster}")

    def gone(self, cluster: str) -> None:
        self.words.append(f"gone {cluster}")


def answer_to(response: Any) -> bytes:
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
    return request.SerializeToString()


def test_who_waits_for_an_update_hears_of_it_when_the_proxy_has_answered(controller: Controller) -> None:
    told, later = Told(), Told()
    view = controller.view

    def add(name: str, progress: Told) -> None:
        added = service(owner("alpha", [endpoint("alpha")], local=True), key=ServiceKey("shop", name))
        view.put(added)
        controller.source.update("alpha", [added.key], progress)

    async def scenario() -> None:
        async with serving(controller) as channel:
            call = stream(channel)
            await call.write(first_request().SerializeToString())
            await call.write(answer_to(await call.read()))
            add("first", told)
            response = await call.read()
            assert told.words == ["sent alpha", "compiled alpha"]
            await call.write(answer_to(response))
            await eventually_async(lambda: len(told.words) == 3, timeout_s=60)
            assert told.words[-1] == "answered alpha"
            add("second", later)
            await call.read()
            call.cancel()
            await eventually_async(lambda: "gone alpha" in later.words, timeout_s=60)
            assert "answered alpha" not in later.words

    asyncio.run(scenario())


class LargeSource:
    """One resource of each type, so large that a few of them fill the window of a client that does not read."""

    def open(self, _node: NodeInfo, _peer: str) -> "LargeSource":
        return self

    def get(self, type_url: str, name: str) -> XdsResource:
        return resource_of_bytes(type_url, name, bytes(1_500_000))

    def names(self, _type_url: str) -> list[str]:
        return ["large"]

    def take_dirty(self) -> dict[str, set[str]]:
        return {}

    def take_progress(self) -> tuple[()]:
        return ()

    async def wait(self) -> None:
        await asyncio.Event().wait()

    def on_ack(self, ack: Ack) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def half_written(loopback: Callable[[], LoopbackBlock]) -> Callable[[], Any]:
    """A channel and a call on it whose service waits in the midst of a write, because nobody reads."""
    block = loopback()
    target = f"{block.host(1)}:{block.port(block.host(1))}"

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[grpc.aio.Channel, Any]]:
        service = XdsService(LargeSource(), peer_of=lambda _context: "")
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((service.handler(),))
        server.add_insecure_port(target)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(target) as channel:
                call = stream(channel)
                for type_url in (CLUSTER, ENDPOINTS, SECRET, "another", "one-more"):
                    request = first_request()
                    request.type_url = type_url
                    request.resource_names_subscribe.append("large")
                    await call.write(request.SerializeToString())
                await eventually_async(
                    lambda: [len(proxy.types) for proxy in service.status()] == [5], timeout_s=CALL_TIMEOUT_S
                )
                yield channel, call
        finally:
            await server.stop(0)

    return opened


async def break_its_bounds(call: Any) -> None:
    for number in range(TYPES_MAX):
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=f"type-{number}")
        await call.write(request.SerializeToString())


def test_a_stream_that_is_refused_in_the_midst_of_a_write_is_told_why(half_written):
    async def scenario() -> None:
        async with half_written() as (_, call):
            await break_its_bounds(call)
            assert (await ends_with(call))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED

    asyncio.run(scenario())


def test_a_refused_stream_counts_until_its_peer_has_taken_what_was_written_to_it(half_written, monkeypatch):
    monkeypatch.setattr(xds_service, "STREAMS_MAX", 1)

    async def scenario() -> None:
        async with half_written() as (channel, call):
            await break_its_bounds(call)
            another = stream(channel)
            found, details = await ends_with(another)
            assert found == grpc.StatusCode.RESOURCE_EXHAUSTED, details
            call.cancel()

            async def served() -> bool:
                again = stream(channel)
                await again.write(first_request().SerializeToString())
                first = await again.read()
                again.cancel()
                return first is not grpc.aio.EOF

            await eventually_async(served, timeout_s=CALL_TIMEOUT_S)

    asyncio.run(scenario())

"""Following over real gRPC with mutual TLS: who is let in, and how a follower moves between controllers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc
import pytest

from certs.runtime.grpc_security import client_channel
from certs.runtime.identity import LeafIdentity
from discovery.core.model import Change
from federation.app.traces import Held
from federation.kernel.errors import IsthmusError, NotAllowedError, PreconditionError, UnavailableError
from federation.replication import follower as follower_module
from federation.replication import service as service_module
from federation.replication.follower import Follower
from federation.replication.messages import REPLICATION_SERVICE, Delta, FollowRequest, Heartbeat, Resumed
from federation.replication.source import Source
from federation.replication.state import FollowerState
from tests.integration.replication.controller import Controller, World
from tests.support.wait import eventually_async
from tests.unit.replication.catalog import cluster, endpoint, gone, rows, token

WAIT_S = 60.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def refusal(source: Source, *, history: str = "", revision: int = 0) -> IsthmusError:
    request = FollowRequest(history=history, revision=revision)
    with pytest.raises(IsthmusError) as caught:
        async with asyncio.timeout(WAIT_S), contextlib.aclosing(source.follow(request)) as answers:
            await anext(answers)
    return caught.value


@contextlib.asynccontextmanager
async def following(name: str, sources: Sequence[Source]) -> AsyncIterator[Follower]:
    follower = Follower(FollowerState(name), sources=lambda: sources, on_change=lambda _: None)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follower.run())
        try:
            yield follower
        finally:
            task.cancel()


async def happens(condition: Callable[[], bool], message: str) -> None:
    await eventually_async(condition, timeout_s=WAIT_S, message=message)


def test_a_follower_resumes_at_a_second_controller_and_gets_only_what_it_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "PREFERRED_RETRY_S", 0.1)

    async def scenario() -> None:
        first, second = Controller(world, "alpha", "c1"), Controller(world, "alpha", "c2")
        identity = world.alpha.leaf("/isthmus/alpha/dns/d1")
        async with second.serving(), contextlib.AsyncExitStack() as life:
            await life.enter_async_context(first.serving())
            sources = [first.source(identity), second.source(identity)]
            async with following("alpha", sources) as follower:
                await happens(lambda: follower.state.complete, "the catalog arrives")
                assert follower.status.source.endswith("/c1")
                await life.aclose()  # The first dies.
                world.catalog.commit([endpoint("b")])
                world.catalog.commit([endpoint("c")])
                await happens(lambda: follower.state.revision == 4, "the changes arrive from the second")
                assert follower.status.source.endswith("/c2")
                async with first.serving():
                    await happens(lambda: follower.status.source.endswith("/c1"), "it returns to the first")
        visible = world.catalog.tables.with_changes([Change("resources", token("secret").key, None)], 4)
        assert follower.state.tables == visible
        assert [type(answer) for answer in second.sent if not isinstance(answer, Heartbeat)] == [
            Resumed,
            Delta,
            Delta,
        ]

    asyncio.run(scenario())


def test_a_controller_knows_by_which_revision_a_follower_serves(world: World) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        identity = world.alpha.leaf("/isthmus/alpha/dns/d1")

        def held() -> tuple[Held, ...]:
            trace = controller.tracer.trace(world.catalog.tables.revision)
            return () if trace is None else trace.held

        async with controller.serving(), following("alpha", [controller.source(identity)]) as follower:
            await happens(lambda: follower.state.complete, "the catalog arrives")
            controller.tracer.holds("alpha", "dns.d1", world.catalog.tables.revision)
            world.catalog.commit([endpoint("b")])
            await happens(lambda: bool(held()), "the follower says that it has the change")
            assert [(one.cluster, one.name) for one in held()] == [("alpha", "dns.d1")]

    asyncio.run(scenario())


def test_only_followers_of_the_served_clusters_get_local_rows(world: World) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        local = endpoint("local", owner="delta")
        controller.feed.serve_local("alpha", [])
        controller.feed.serve_local("delta", rows([local]))
        delta = world.alpha.leaf("/isthmus/delta/agent/a1")
        beta = world.beta.leaf("/isthmus/beta/gateway/g1")
        async with (
            controller.serving(),
            following("delta", [controller.source(delta)]) as own,
            following("beta", [controller.source(beta)]) as stranger,
        ):
            await happens(lambda: own.status.local, "the local list arrives")
            await happens(lambda: stranger.state.complete, "the catalog arrives")
            more = endpoint("more", owner="delta")
            controller.feed.local_changed("delta", [more])
            await happens(lambda: len(own.state.own) == 2, "the local change arrives")
            assert list(own.state.own.items()) == rows([local, more])
            assert not stranger.status.local
            assert not len(stranger.state.own)

    asyncio.run(scenario())


def test_a_stranger_is_refused_with_the_reason(world: World) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        cases: list[tuple[LeafIdentity, type[IsthmusError], str]] = [
            (world.alpha.leaf("/ns/shop/sa/orders"), NotAllowedError, "may not follow the catalog"),
            (world.alpha.leaf("/isthmus/alpha/operator/o1"), NotAllowedError, "may not follow the catalog"),
            (world.alpha.leaf("/isthmus/gamma/dns/d1"), NotAllowedError, "'gamma', which has not joined"),
            # Alpha's authority is honest about alpha only: it cannot name itself into beta.
            (world.alpha.leaf("/isthmus/beta/dns/d1"), NotAllowedError, "not of trust domain 'beta.example'"),
            (world.mallory.leaf("/isthmus/alpha/dns/d1"), UnavailableError, ""),
        ]
        async with controller.serving():
            for identity, error, text in cases:
                refused = await refusal(controller.source(identity))
                assert isinstance(refused, error), refused
                assert text in refused.message
            assert controller.feed.subscribers == 0

    asyncio.run(scenario())


def test_junk_is_refused_and_others_are_served_on(world: World) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        identity = world.alpha.leaf("/isthmus/alpha/dns/d1")
        async with controller.serving(), following("alpha", [controller.source(identity)]) as follower:
            await happens(lambda: follower.state.complete, "the catalog arrives")
            for junk in (b"", b"\xc1", b"\x81\xa8revision\xa1x", bytes(1_000_000)):
                channel = client_channel(
                    controller.address,
                    identity,
                    controller.domain.bundle,
                    server=controller.identity.spiffe_id,
                )
                async with channel:
                    call = channel.unary_stream(f"/{REPLICATION_SERVICE}/Follow", None, None)(junk)
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await anext(aiter(call))
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "follow request" in (refused.value.details() or "")
            world.catalog.commit([endpoint("b")])
            await happens(lambda: follower.state.revision == 3, "the change arrives")

    asyncio.run(scenario())


def test_a_follower_of_another_federation_is_refused(world: World) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        source = controller.source(world.alpha.leaf("/isthmus/alpha/dns/d1"))
        async with controller.serving():
            refused = await refusal(source, history="fed-2", revision=9)
        assert isinstance(refused, PreconditionError)
        assert "copy of federation 'fed-2', this is 'fed-1'" in refused.message

    asyncio.run(scenario())


def test_a_follower_whose_cluster_is_removed_is_sent_away(world: World) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        identity = world.beta.leaf("/isthmus/beta/dns/d1")
        async with controller.serving(), following("beta", [controller.source(identity)]) as follower:
            await happens(lambda: follower.state.complete, "the catalog arrives")
            world.catalog.commit([gone(cluster("beta"))])
            await happens(lambda: "has not joined" in follower.status.last_error, "it is refused")
            await happens(lambda: controller.feed.subscribers == 0, "nobody follows")

    asyncio.run(scenario())


def test_a_stream_ends_in_time_for_the_certificate_to_be_judged_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "STREAM_AGE_MAX_S", 0.0)

    async def scenario() -> None:
        controller = Controller(world, "alpha")
        identity = world.alpha.leaf("/isthmus/alpha/dns/d1")
        async with controller.serving(), following("alpha", [controller.source(identity)]) as follower:
            await happens(
                lambda: sum(isinstance(answer, Resumed) for answer in controller.sent) >= 2, "it comes back"
            )
            assert follower.status.last_error == ""

    asyncio.run(scenario())


def test_a_follower_that_takes_nothing_is_dropped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "STALLED_MAX_S", 0.2)

    async def scenario() -> None:
        # More than all the buffers between the two take.
        world.catalog.commit(
            endpoint(f"e{number}-" + "x" * 40, service=f"s{service}")
            for service in range(40)
            for number in range(1000)
        )
        controller = Controller(world, "alpha")
        source = controller.source(world.alpha.leaf("/isthmus/alpha/dns/d1"))
        async with controller.serving(), contextlib.aclosing(source.follow(FollowRequest())) as answers:
            await anext(answers)
            await happens(lambda: controller.feed.subscribers == 0, "it is dropped")

    asyncio.run(scenario())


def test_a_connection_that_leads_nowhere_is_an_error_of_the_source(world: World) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        source = controller.source(world.alpha.leaf("/isthmus/alpha/dns/d1"))
        async with controller.serving():
            pass  # Its port is known and nobody listens there.
        assert isinstance(await refusal(source), UnavailableError)

    asyncio.run(scenario())


def test_another_controller_of_the_same_domain_does_not_pass_for_the_one_meant(world: World) -> None:
    async def scenario() -> None:
        meant, other = Controller(world, "alpha", "c1"), Controller(world, "alpha", "c2")
        async with other.serving():
            meant.address = other.address
            source = meant.source(world.alpha.leaf("/isthmus/alpha/dns/d1"))
            assert isinstance(await refusal(source), UnavailableError)
            assert other.feed.subscribers == 0

    asyncio.run(scenario())

"""The registration streams, against a controller in this process over real gRPC with mutual TLS."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from discovery.core.model import Endpoint, EndpointKey, EndpointPort
from discovery.core.specs import ServiceTraffic
from federation.agent import registration
from federation.agent.directory import DirectoryStore
from federation.agent.gateway_watch import GatewayWatch
from federation.agent.registration import Registrar
from federation.api.messages import (
    AgentHello,
    Directory,
    ProbeTarget,
    ProbeTargets,
    Sightings,
    TrafficReport,
    WatchDrains,
    WatchedDrain,
)
from tests.integration.agent.fake_controller import FakeController, directory_of
from tests.support.loopback import LoopbackBlock
from tests.support.pki import TestDomain
from tests.support.wait import eventually_async

WAIT_S = 60.0

StoreOf = Callable[[Directory], DirectoryStore]
Loopback = Callable[[], LoopbackBlock]


def endpoint(name: str) -> Endpoint:
    return Endpoint(
        key=EndpointKey("shop", "orders", "alpha", name),
        address="127.106.0.9",
        ports=(EndpointPort(name="http", service_port=8080, listen_port=15006),),
        identity="spiffe://alpha.example/ns/shop/sa/orders",
        ready=False,
        agent="a1",
    )


ONE, TWO = endpoint("one"), endpoint("two")


@asynccontextmanager
async def running(registrar: Registrar) -> AsyncIterator[Registrar]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(registrar.run())
        try:
            yield registrar
        finally:
            task.cancel()


def registrar(
    domain: TestDomain,
    store: DirectoryStore,
    *endpoints: Endpoint,
    cluster: str = "alpha",
    watch: GatewayWatch | None = None,
) -> Registrar:
    return Registrar(
        endpoints,
        incarnation=1000,
        cluster=cluster,
        identity=domain.agent(cluster),
        directory=store,
        watch=watch,
    )


async def connected(agent: Registrar, *controllers: FakeController) -> None:
    names = {controller.named.name for controller in controllers}
    await eventually_async(
        lambda: {name for name, stream in agent.streams.items() if stream.connected} >= names,
        timeout_s=WAIT_S,
        message=lambda: f"connected: { {n: s.error for n, s in agent.streams.items()} }",
    )


async def test_nothing_is_declared_before_every_probe_has_a_result(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as controller:
        controller.lease_ms = 600  # Heartbeats every 200 ms show that the stream lives.
        async with running(registrar(domain, store_of(directory_of(controller)), ONE, TWO)) as agent:
            await connected(agent, controller)
            agent.set_ready({ONE.key: True})
            await eventually_async(lambda: controller.heartbeats >= 2, timeout_s=WAIT_S)
            assert controller.declared == []
            assert agent.level(ONE.key) == "waiting"
            agent.set_ready({TWO.key: False})
            await eventually_async(lambda: agent.level(TWO.key) == "global", timeout_s=WAIT_S)
    assert [hello.incarnation for hello in controller.hellos] == [1000]
    assert controller.callers == ["spiffe://alpha.example/isthmus/alpha/agent/a1"]
    assert [message.complete for message in controller.declared] == [True]
    assert {key.name: row.ready for key, row in controller.rows.items()} == {"one": True, "two": False}


async def test_only_what_changed_is_declared_afterwards(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with (
        FakeController(domain, "alpha", loopback().host(1)) as controller,
        running(registrar(domain, store_of(directory_of(controller)), ONE, TWO)) as agent,
    ):
        agent.set_ready({ONE.key: True, TWO.key: True})
        await eventually_async(lambda: agent.level(TWO.key) == "global", timeout_s=WAIT_S)
        agent.set_ready({ONE.key: False})
        await eventually_async(lambda: len(controller.declared) == 2, timeout_s=WAIT_S)
    first, second = controller.declared
    assert [row.key for row in second.put] == [ONE.key]
    assert second.put[0].version > max(row.version for row in first.put)


async def test_a_controller_that_is_down_costs_the_others_nothing_and_gets_the_whole_list_when_it_is_back(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    late = FakeController(domain, "alpha", block.host(2), id="c2")
    async with (
        FakeController(domain, "alpha", block.host(1)) as controller,
        running(registrar(domain, store_of(directory_of(controller, late)), ONE)) as agent,
    ):
        agent.set_ready({ONE.key: True})
        await eventually_async(lambda: agent.level(ONE.key) == "global", timeout_s=WAIT_S)
        assert agent.streams["alpha-c2"].error
        async with late:
            await eventually_async(lambda: late.complete, timeout_s=WAIT_S)
        assert late.rows == controller.rows


async def test_a_lost_stream_is_opened_again_with_the_whole_list(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with (
        FakeController(domain, "alpha", loopback().host(1)) as controller,
        running(registrar(domain, store_of(directory_of(controller)), ONE)) as agent,
    ):
        agent.set_ready({ONE.key: True})
        await eventually_async(lambda: agent.level(ONE.key) == "global", timeout_s=WAIT_S)
        await controller.stop()
        await eventually_async(lambda: not agent.streams["alpha-c1"].connected, timeout_s=WAIT_S)
        controller.rows.clear()
        agent.set_ready({ONE.key: False})  # Meanwhile the application died.
        await controller.start()
        await eventually_async(lambda: len(controller.hellos) == 2 and controller.rows, timeout_s=WAIT_S)
    assert controller.declared[-1].complete
    assert controller.rows[ONE.key].ready is False


async def test_a_controller_is_told_what_fails_under_the_drains_that_it_asked_for(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    watched = WatchedDrain(cluster="beta", started_ms=7)
    other = FakeController(domain, "alpha", block.host(2), id="c2")
    seen = ServiceTraffic(service="", requests=100, errors=4)
    report = TrafficReport(drained="beta", started_ms=7, services=(seen,))
    async with (
        FakeController(domain, "alpha", block.host(1)) as controller,
        other,
        running(registrar(domain, store_of(directory_of(controller, other)), ONE)) as agent,
    ):
        asked: list[frozenset[WatchedDrain]] = []
        agent.on_watch = asked.append
        await connected(agent, controller, other)
        agent.report((report,))  # Nobody has asked.
        controller.say(WatchDrains(drains=(watched,)))
        await eventually_async(lambda: asked == [{watched}], timeout_s=WAIT_S)
        agent.report((report, TrafficReport(drained="gamma", started_ms=7, services=(seen,))))
        await eventually_async(lambda: controller.reports, timeout_s=WAIT_S)
        await controller.stop()  # Who is gone asks for nothing.
        await eventually_async(lambda: asked[1:] == [set()], timeout_s=WAIT_S)
    assert controller.reports == [report]
    assert other.reports == []


async def test_a_local_acknowledgement_is_shown_as_local(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as controller:
        controller.ack_level = "local"
        async with running(registrar(domain, store_of(directory_of(controller)), ONE)) as agent:
            agent.set_ready({ONE.key: True})
            await eventually_async(lambda: agent.level(ONE.key) == "local", timeout_s=WAIT_S)


async def test_a_refused_endpoint_is_shown_with_the_reason_and_the_others_stand(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as controller:
        controller.refuse[ONE.key] = "address 127.106.0.9 is outside the ranges of alpha"
        async with running(registrar(domain, store_of(directory_of(controller)), ONE, TWO)) as agent:
            agent.set_ready({ONE.key: True, TWO.key: True})
            await eventually_async(lambda: agent.level(TWO.key) == "global", timeout_s=WAIT_S)
            stream = agent.streams["alpha-c1"]
            await eventually_async(lambda: ONE.key in stream.refusals, timeout_s=WAIT_S)
            assert "outside the ranges" in stream.refusals[ONE.key]
            assert agent.level(ONE.key) == "declared"
            # A change of the endpoint is said again, and may be accepted then.
            controller.refuse.clear()
            agent.set_ready({ONE.key: False})
            await eventually_async(lambda: agent.level(ONE.key) == "global", timeout_s=WAIT_S)
            assert stream.refusals == {}


async def test_leaving_declares_unready_first_and_removes_at_the_end(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with (
        FakeController(domain, "alpha", loopback().host(1)) as controller,
        running(registrar(domain, store_of(directory_of(controller)), ONE)) as agent,
    ):
        agent.set_ready({ONE.key: True})
        await eventually_async(lambda: agent.level(ONE.key) == "global", timeout_s=WAIT_S)
        assert await agent.declare_unready(timeout_s=WAIT_S)
        assert controller.rows[ONE.key].ready is False
        agent.set_ready({ONE.key: True})  # A probe that comes late changes nothing any more.
        assert await agent.remove_all(timeout_s=WAIT_S)
        assert controller.rows == {}
    assert [ready for _, ready in controller.history] == [True, False]


async def test_leaving_does_not_wait_for_controllers_that_are_not_there(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    nobody = FakeController(domain, "alpha", loopback().host(1))
    async with running(registrar(domain, store_of(directory_of(nobody)), ONE)) as agent:
        agent.set_ready({ONE.key: True})
        assert await agent.declare_unready(timeout_s=WAIT_S) is False


async def test_a_remote_cluster_registers_with_its_home(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as home:
        store = store_of(directory_of(home, homes={"delta": "alpha"}))
        async with running(registrar(domain, store, ONE, cluster="delta")) as agent:
            agent.set_ready({ONE.key: True})
            await eventually_async(lambda: home.complete, timeout_s=WAIT_S)
    assert home.callers == ["spiffe://alpha.example/isthmus/delta/agent/a1"]


async def test_a_newer_directory_moves_the_streams(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    async with (
        FakeController(domain, "alpha", block.host(1)) as old,
        FakeController(domain, "alpha", block.host(2), id="c2") as new,
    ):
        store = store_of(directory_of(old))
        async with running(registrar(domain, store, ONE)) as agent:
            agent.set_ready({ONE.key: True})
            await eventually_async(lambda: old.complete, timeout_s=WAIT_S)
            old.say(_update(directory_of(new, revision=2)))
            await eventually_async(lambda: new.complete, timeout_s=WAIT_S)
            await eventually_async(lambda: set(agent.streams) == {"alpha-c2"}, timeout_s=WAIT_S)
    assert store.current.revision == 2


async def test_a_directory_that_names_nobody_is_refused_and_the_streams_stay(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as controller:
        store = store_of(directory_of(controller))
        async with running(registrar(domain, store, ONE)) as agent:
            await connected(agent, controller)
            controller.say(_update(directory_of(revision=9)))
            agent.set_ready({ONE.key: True})
            await eventually_async(lambda: agent.level(ONE.key) == "global", timeout_s=WAIT_S)
    assert store.current.revision == 1


async def test_a_false_controller_is_told_nothing(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback, tmp_path: object
) -> None:
    """A controller of the same trust domain, but of another cluster, answers at the address."""
    async with FakeController(domain, "beta", loopback().host(1)) as impostor:
        real = FakeController(domain, "alpha", impostor.host)
        async with running(registrar(domain, store_of(directory_of(real)), ONE)) as agent:
            agent.set_ready({ONE.key: True})
            await eventually_async(
                lambda: "alpha-c1" in agent.streams and agent.streams["alpha-c1"].error, timeout_s=WAIT_S
            )
    assert impostor.hellos == []


async def test_garbage_from_a_controller_closes_the_stream_and_is_said(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with (
        FakeController(domain, "alpha", loopback().host(1)) as controller,
        running(registrar(domain, store_of(directory_of(controller)), ONE)) as agent,
    ):
        await connected(agent, controller)
        controller.say({"type": "nonsense"})
        await eventually_async(lambda: len(controller.hellos) >= 2, timeout_s=WAIT_S)
    assert controller.hellos == [AgentHello(incarnation=1000)] * 2


def _update(directory: Directory) -> object:
    from federation.api.messages import DirectoryUpdate

    return DirectoryUpdate(directory=directory)


async def test_a_gateway_tells_who_asks_what_it_sees_and_again_on_each_new_stream(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as controller:
        store = store_of(directory_of(controller))
        watch = GatewayWatch(store, clock=asyncio.get_running_loop().time)
        closed = ("gw-1", loopback().host(1), 15_443)  # Nobody listens there.
        target = ProbeTarget(cluster="beta", trust_domain="alpha.example", gateways=(closed,))
        asked = ProbeTargets(targets=(target,), whole=True)
        async with running(registrar(domain, store, ONE, watch=watch)) as agent, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run())
            await connected(agent, controller)
            controller.say(asked)
            await eventually_async(
                lambda: controller.sightings == [Sightings(lost=("beta",))], timeout_s=WAIT_S
            )
            await controller.stop()
            controller.sightings.clear()
            await controller.start()
            await eventually_async(lambda: len(controller.hellos) >= 2, timeout_s=WAIT_S)
            controller.say(asked)
            await eventually_async(
                lambda: controller.sightings == [Sightings(lost=("beta",))], timeout_s=WAIT_S
            )
            watching.cancel()


async def test_a_controller_that_is_back_is_told_of_a_cluster_once_it_names_it_again(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    other = FakeController(domain, "alpha", block.host(2), id="c2")
    async with FakeController(domain, "alpha", block.host(1)) as controller, other:
        controller.lease_ms = 600
        store = store_of(directory_of(controller, other))
        watch = GatewayWatch(store, clock=asyncio.get_running_loop().time)
        target = ProbeTarget(
            cluster="beta", trust_domain="alpha.example", gateways=(("gw-1", block.host(3), 15_443),)
        )
        asked, lost = ProbeTargets(targets=(target,), whole=True), [Sightings(lost=("beta",))]
        async with running(registrar(domain, store, ONE, watch=watch)) as agent, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run())
            await connected(agent, controller, other)
            for one in (controller, other):  # The other one names it all the time: what is seen stays.
                one.say(asked)
            await eventually_async(lambda: controller.sightings == lost, timeout_s=WAIT_S)
            await controller.stop()
            controller.sightings.clear()
            await controller.start()
            await eventually_async(lambda: len(controller.hellos) >= 2, timeout_s=WAIT_S)
            controller.say(ProbeTargets(targets=(), whole=True))  # It does not know yet whom to look at.
            before = controller.heartbeats
            await eventually_async(lambda: controller.heartbeats > before + 1, timeout_s=WAIT_S)
            assert controller.sightings == []
            controller.say(asked)
            await eventually_async(lambda: controller.sightings == lost, timeout_s=WAIT_S)
            watching.cancel()


async def test_what_a_member_named_is_forgotten_once_a_mirror_has_its_name(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    """A mirror makes no opinion of what gateways see, and so never takes back whom its predecessor named."""
    block = loopback()
    async with FakeController(domain, "alpha", block.host(1)) as controller:
        store = store_of(directory_of(controller))
        watch = GatewayWatch(store, clock=asyncio.get_running_loop().time)
        gateways = (("gw-1", block.host(3), 15_443),)
        target = ProbeTarget(cluster="beta", trust_domain="alpha.example", gateways=gateways)
        async with running(registrar(domain, store, ONE, watch=watch)) as agent:
            await connected(agent, controller)
            controller.say(ProbeTargets(targets=(target,), whole=True))
            await eventually_async(lambda: watch.named_by("alpha-c1") == {"beta"}, timeout_s=WAIT_S)
            directory = directory_of(controller, revision=2)
            spec = replace(controller.named.spec, protocol=controller.named.spec.protocol + 1)
            store.offer(replace(directory, controllers=(replace(controller.named, spec=spec),)))
            await eventually_async(lambda: len(controller.hellos) >= 2, timeout_s=WAIT_S)
            assert watch.named_by("alpha-c1") == {"beta"}  # The same one, of a newer build.
            spec = replace(spec, role="mirror")
            store.offer(replace(directory, revision=3, controllers=(replace(controller.named, spec=spec),)))
            await eventually_async(lambda: not watch.named_by("alpha-c1"), timeout_s=WAIT_S)


async def test_an_agent_whose_only_controller_has_another_address_by_now_is_told_by_another_cluster(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "ELSEWHERE_FIRST_S", 0.2)
    block = loopback()
    before, after = (FakeController(domain, "alpha", block.host(number)) for number in (1, 2))
    mirror = FakeController(domain, "beta", block.host(4), id="m1")
    mirror.named = replace(mirror.named, spec=replace(mirror.named.spec, role="mirror"))
    async with FakeController(domain, "beta", block.host(3)) as other, mirror, after:
        other.serves = mirror.serves = False
        mirror.directory = directory_of(mirror, other, revision=1_000)  # It lies.
        store = store_of(directory_of(before, mirror, other))  # Nobody listens where it was.
        async with running(registrar(domain, store, ONE)) as agent:
            await eventually_async(
                lambda: len(other.callers) > 1, timeout_s=WAIT_S
            )  # It knows no more than we.
            other.directory = directory_of(after, other, revision=2)
            await connected(agent, after)
            agent.set_ready({ONE.key: True})
            await eventually_async(lambda: agent.level(ONE.key) == "global", timeout_s=WAIT_S)
    assert other.declared == []
    assert mirror.callers == []


async def test_an_agent_that_was_off_while_its_cluster_moved_finds_the_new_home_although_the_old_one_is_gone(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "ELSEWHERE_FIRST_S", 0.2)
    block = loopback()
    old = FakeController(domain, "alpha", block.host(1))
    async with (
        FakeController(domain, "beta", block.host(2)) as new,
        FakeController(domain, "gamma", block.host(3)) as other,
    ):
        new.serves = other.serves = False
        new.directory = other.directory = directory_of(old, new, other, revision=2, homes={"delta": "beta"})
        store = store_of(directory_of(old, new, other, homes={"delta": "alpha"}))
        async with running(registrar(domain, store, cluster="delta")) as agent:
            await eventually_async(lambda: set(agent.streams) == {"beta-c1"}, timeout_s=WAIT_S)
            new.serves = True  # By the identity of now, which another part gets there.
            await connected(agent, new)


async def test_while_one_of_its_controllers_answers_nobody_else_is_asked(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "ELSEWHERE_FIRST_S", 0.2)
    monkeypatch.setattr(registration, "ELSEWHERE_CAP_S", 0.2)
    block = loopback()
    away = FakeController(domain, "alpha", block.host(2), id="c2")
    async with (
        FakeController(domain, "alpha", block.host(1)) as controller,
        FakeController(domain, "beta", block.host(3)) as other,
    ):
        controller.lease_ms = 600
        async with running(registrar(domain, store_of(directory_of(controller, away, other)))) as agent:
            await connected(agent, controller)
            asked = len(other.callers)  # On a slow machine before it was connected.
            await eventually_async(lambda: controller.heartbeats >= 5, timeout_s=WAIT_S)
            assert len(other.callers) <= asked + 1  # One may have been under way.

"""Which controller the configuration comes from: the best that answers, and back to it when it returns."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.agent import controller_choice
from federation.agent.controller_choice import ControllerChoice
from federation.agent.directory import DirectoryStore
from federation.agent.proxy import LocalProxy
from federation.api.messages import Directory
from federation.kernel.errors import UnavailableError
from gateways.core.proxy import Proxy
from tests.integration.agent.fake_controller import FakeController, directory_of
from tests.integration.agent.fake_mesh import serve_xds
from tests.support.loopback import LoopbackBlock
from tests.support.pki import TestDomain
from tests.support.wait import eventually_async

WAIT_S = 60.0

StoreOf = Callable[[Directory], DirectoryStore]
Loopback = Callable[[], LoopbackBlock]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_choice, "RETURN_CHECK_S", 0.1)


async def chosen(choice: ControllerChoice) -> str:
    channel = await choice.next_channel()
    await channel.close(None)
    return choice.current


async def test_the_own_controller_is_preferred_and_another_taken_while_it_is_away(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    own = FakeController(domain, "alpha", block.host(1))
    async with FakeController(domain, "beta", block.host(2)) as other:
        store = store_of(directory_of(other, own))
        choice = ControllerChoice("alpha", domain.agent("alpha"), store)
        assert await chosen(choice) == "beta-c1"
        async with own, asyncio.timeout(WAIT_S):
            await choice.better_is_back()
            assert await chosen(choice) == "alpha-c1"


async def test_a_controller_that_answers_but_serves_badly_is_avoided_for_a_while(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    async with (
        FakeController(domain, "alpha", block.host(1)) as own,
        FakeController(domain, "beta", block.host(2)) as other,
    ):
        choice = ControllerChoice("alpha", domain.agent("alpha"), store_of(directory_of(own, other)))
        assert await chosen(choice) == "alpha-c1"
        assert await chosen(choice) == "beta-c1"  # Asked again at once: the stream must have failed.


async def test_where_nobody_answers_each_is_named(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    nobody = [FakeController(domain, cluster, block.host(1)) for cluster in ("alpha", "beta")]
    choice = ControllerChoice("alpha", domain.agent("alpha"), store_of(directory_of(*nobody)))
    with pytest.raises(UnavailableError, match=r"alpha-c1: .*beta-c1: "):
        await choice.next_channel()


async def test_an_impostor_is_not_chosen(domain: TestDomain, store_of: StoreOf, loopback: Loopback) -> None:
    """A controller of another cluster answers at the address of ours."""
    async with FakeController(domain, "beta", loopback().host(1)) as impostor:
        real = FakeController(domain, "alpha", impostor.host)
        choice = ControllerChoice("alpha", domain.agent("alpha"), store_of(directory_of(real)))
        with pytest.raises(UnavailableError, match="is not the controller that it should be"):
            await choice.next_channel()


async def test_a_proxy_falls_over_and_returns_and_its_configuration_stays_the_same(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_choice, "STREAM_SHORT_S", 0.0)  # Here streams end soon for good reasons.
    block = loopback()
    first, second = (FakeController(domain, "alpha", block.host(n), id=f"c{n}") for n in (1, 2))
    services = [serve_xds(first), serve_xds(second)]
    async with first, second:
        proxy = LocalProxy(
            Proxy(id="a1.alpha", cluster="alpha", agent="a1", kind="sidecar", address=block.host(9)),
            data_dir=tmp_path,
            identity=domain.agent("alpha"),
            directory=store_of(directory_of(first, second)),
            region="",
            zone="",
            drain_s=1,
        )  # Without a certificate: the relay runs, no Envoy is started.
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(proxy.run())
            await follows(proxy, "alpha-c1")
            await eventually_async(proxy._store.ready.is_set, timeout_s=WAIT_S)
            before = proxy._store.remote_resources()
            assert before
            await first.stop()
            await follows(proxy, "alpha-c2")
            changed = proxy._store.changed
            changed.clear()
            await first.start()
            await follows(proxy, "alpha-c1")
            assert not changed.is_set()
            assert proxy._store.remote_resources() == before
            running.cancel()
        await eventually_async(lambda: not any(each.status() for each in services), timeout_s=WAIT_S)


async def follows(proxy: LocalProxy, controller: str) -> None:
    await eventually_async(
        lambda: proxy.status().controller == controller,
        timeout_s=WAIT_S,
        message=lambda: f"{controller} is followed: {proxy.status()}",
    )

"""The shop: who answers, who called, and a purchase through every service, each asked once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import msgspec
import pytest
from aiohttp import web

from chaos.lab.topology import SERVICES, service_host
from chaos.shop.app import CHAIN_PATH, Chain, Hop, Instance

CLUSTERS = dict(zip(SERVICES, ("beta", "alpha", "gamma", "delta"), strict=True))
CALLER = "x-forwarded-client-cert"


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    """Serve an application on a port of its own; yields host:port."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    try:
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


class Sidecar:
    """Sends a request on to the instance that its Host header names, as a sidecar does, and says who calls."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.instances: dict[str, str] = {}
        self.asked: Counter[str] = Counter()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._pass_on)
        return application

    async def _pass_on(self, request: web.Request) -> web.Response:
        self.asked[request.host] += 1
        address = self.instances.get(request.host)
        if address is None:
            return web.Response(status=503, text="no healthy upstream")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{address}{request.path}", headers={CALLER: self.caller}) as response,
        ):
            return web.Response(status=response.status, body=await response.read())


async def ask_shop(path: str, *, without: str = "") -> tuple[int, bytes, Counter[str]]:
    """Ask the frontend of a shop, which lacks a service; returns its answer, and who was asked how often."""
    sidecar = Sidecar(caller="somebody")
    async with AsyncExitStack() as running, aiohttp.ClientSession() as session:
        outbound = await running.enter_async_context(serving(sidecar.application()))
        for service, cluster in CLUSTERS.items():
            instance = Instance(service, cluster, f"{cluster}-1", outbound=outbound)
            address = await running.enter_async_context(serving(instance.application()))
            if service != without:
                sidecar.instances[service_host(service)] = address
        headers = {"Host": service_host("frontend")}
        async with session.get(f"http://{outbound}{path}", headers=headers) as response:
            return response.status, await response.read(), sidecar.asked


def test_an_instance_says_who_it_is_and_who_called() -> None:
    status, body, _ = asyncio.run(ask_shop("/"))

    assert status == 200
    assert msgspec.json.decode(body, type=Hop) == Hop(
        service="frontend", cluster="beta", instance="beta-1", caller="somebody"
    )


def test_a_purchase_passes_through_every_service_once_and_in_order() -> None:
    status, body, asked = asyncio.run(ask_shop(CHAIN_PATH))

    assert status == 200
    hops = msgspec.json.decode(body, type=Chain).hops
    assert {hop.service: hop.cluster for hop in hops} == CLUSTERS
    assert tuple(hop.service for hop in hops) == SERVICES
    assert [hop.caller for hop in hops] == ["somebody"] * len(SERVICES)
    assert asked == {service_host(service): 1 for service in SERVICES}


@pytest.mark.parametrize("without", SERVICES[1:])
def test_a_broken_purchase_is_an_error_that_no_proxy_repeats_and_names_what_broke(without: str) -> None:
    status, body, asked = asyncio.run(ask_shop(CHAIN_PATH, without=without))

    assert status == 500
    assert f"{without} answered 503: no healthy upstream" in body.decode()
    assert set(asked.values()) == {1}

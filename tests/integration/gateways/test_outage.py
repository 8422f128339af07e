"""What goes on while a part of the control plane is gone, wrong or in the way."""

import asyncio
import socket
from collections.abc import Iterable

from discovery.core.model import ServiceKey
from gateways.core.wire import ENDPOINTS, LISTENER, XdsResource
from gateways.runtime.envoy import EnvoySupervisor
from tests.integration.gateways.federation import ALL_OF_ALPHA, HOST
from tests.integration.gateways.mesh import Controller, Member, Mesh, caller
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import endpoint, owner, service

TIMEOUT_S = 60


def record_changes(member: Member) -> list[str]:
    """Note the name of every resource that a controller sends from now on."""
    sent: list[str] = []
    apply = member.store.apply

    def recorded(type_url: str, put: Iterable[XdsResource], removed: Iterable[str]) -> None:
        put, removed = list(put), list(removed)
        sent.extend([*(resource.name for resource in put), *removed])
        apply(type_url, put, removed)

    member.store.apply = recorded  # type: ignore[method-assign]
    return sent


async def reconnected(controller: Controller, count: int) -> None:
    await eventually_async(
        lambda: (
            len(controller.service.status()) == count
            and all(len(proxy.types) == 5 for proxy in controller.service.status())
        ),
        timeout_s=TIMEOUT_S,
        message=f"{count} proxies connected",
    )


def test_without_controllers_calls_go_on_and_a_replica_with_the_same_view_sends_nothing(federation):
    federation.reach_directly()
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            host = federation.block.host(11)
            replica = Controller(federation.alpha, host, federation.block.port(host))
            await mesh.application("beta", *federation.app)
            web, orders = federation.caller(1, [alpha, replica]), federation.callee([beta])
            mesh.start(web)
            mesh.start(orders)
            await mesh.ready(web, orders)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)
                sent = record_changes(web)
                await alpha.stop()
                await beta.stop()
                await eventually_async(lambda: not web.client.connected.is_set(), timeout_s=TIMEOUT_S)
                assert (await client.call(HOST))[0] == 200
                await replica.start()
                await reconnected(replica, 1)
                assert sent == []
                assert (await client.call(HOST))[0] == 200
                # And what changes from now on arrives.
                cart = ServiceKey("shop", "cart")
                federation.alpha.put(service(owner("beta", [federation.row]), key=cart))
                replica.publish()
                await client.until("cart.shop:8080", lambda status, _: status == 200)
            await replica.stop()

    asyncio.run(scenario())


def test_an_agent_that_starts_while_no_controller_lives_begins_from_its_disk(federation):
    federation.reach_directly()
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.application("beta", *federation.app)
            web, orders = federation.caller(1, [alpha]), federation.callee([beta])
            mesh.start(web)
            mesh.start(orders)
            await mesh.ready(web, orders)
            await eventually_async(lambda: (web.folder / "xds.cache").exists(), timeout_s=TIMEOUT_S)
            await eventually_async(lambda: (orders.folder / "xds.cache").exists(), timeout_s=TIMEOUT_S)
            for stopped in (alpha, beta):
                await stopped.stop()
            for member in (web, orders):
                await mesh.stop(member)
            web, orders = federation.again(web), federation.again(orders)
            mesh.start(web, load_cache=True)
            mesh.start(orders, load_cache=True)
            await mesh.ready(web, orders)
            listener = next(
                resource for resource in web.store.remote_resources() if resource.type_url == LISTENER
            )
            assert listener.name == "outbound"
            assert not web.client.connected.is_set()
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)

    asyncio.run(scenario())


def test_a_resource_that_envoy_refuses_is_quarantined_and_stops_nothing_else(federation):
    federation.reach_directly()
    federation.grant(ALL_OF_ALPHA)
    bad, good = ServiceKey("shop", "bad"), ServiceKey("shop", "good")

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.application("beta", *federation.app)
            web, orders = federation.caller(1, [alpha]), federation.callee([beta])
            mesh.start(web)
            mesh.start(orders)
            await mesh.ready(web, orders)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)
                nowhere = endpoint("beta", address="not.an.address", key=bad)
                federation.alpha.put(service(owner("beta", [nowhere]), key=bad))
                federation.alpha.put(service(owner("beta", [federation.row]), key=good))
                alpha.publish()
                await client.until("good.shop:8080", lambda status, _: status == 200)

                def quarantined() -> tuple[str, ...]:
                    (proxy,) = web.service.status()
                    return next(kind.quarantined for kind in proxy.types if kind.type_url == ENDPOINTS)

                name = "outbound|8080||bad.shop.svc.clusterset.local|beta"
                await eventually_async(
                    lambda: quarantined() == (name,), timeout_s=TIMEOUT_S, message=f"{name} alone"
                )
                # The controller learns of it from the agent.
                await eventually_async(
                    lambda: (
                        "not.an.address" in "".join(kind.error for kind in alpha.service.status()[0].types)
                    ),
                    timeout_s=TIMEOUT_S,
                    message="the controller's proxy status names the address",
                )
                assert (await client.call(HOST))[0] == 200
                federation.alpha.put(service(owner("beta", [federation.row]), key=bad))
                alpha.publish()
                await client.until("bad.shop:8080", lambda status, _: status == 200)
                await eventually_async(lambda: not quarantined(), timeout_s=TIMEOUT_S)

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_reported_in_envoys_words_and_used_once_it_is_free(federation):
    federation.reach_directly()
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.application("beta", *federation.app)
            web, orders = federation.caller(1, [alpha]), federation.callee([beta])
            assert web.proxy.outbound is not None
            with socket.create_server(web.proxy.outbound):
                mesh.start(web)
                mesh.start(orders)
                await eventually_async(
                    lambda: "ddress already in use" in web.store.rejections.get(LISTENER, ""),
                    timeout_s=TIMEOUT_S,
                    message=lambda: f"the reason in {web.store.rejections}",
                )
                await eventually_async(
                    lambda: any(
                        "ddress already in use" in kind.error
                        for proxy in alpha.service.status()
                        for kind in proxy.types
                    ),
                    timeout_s=TIMEOUT_S,
                    message="the controller's proxy status",
                )
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)
            assert not web.store.rejections

    asyncio.run(scenario())


def test_an_envoy_that_dies_is_started_again_and_one_that_survived_its_agent_is_taken_over(federation):
    federation.reach_directly()

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, _ = await federation.controllers(mesh)
            web = federation.caller(1, [alpha])
            mesh.start(web)
            await mesh.ready(web)
            first = web.envoy.status.pid
            web.kill()
            await eventually_async(
                lambda: web.envoy.status.state == "ready" and web.envoy.status.pid not in (None, first),
                timeout_s=TIMEOUT_S,
            )
            assert web.envoy.status.restarts == 1
            survivor = web.envoy.status.pid
            web.envoy._process = None  # What is left of an agent killed by `kill -9`: an Envoy that runs.
            settings = web.envoy._settings
            await mesh.stop(web)
            await supervise(settings, survivor, same=True)

    async def supervise(settings, survivor: int | None, *, same: bool) -> None:
        again = EnvoySupervisor(settings)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(again.run())
            await eventually_async(lambda: again.status.pid is not None, timeout_s=TIMEOUT_S)
            assert (again.status.pid == survivor) is same
            running.cancel()
        assert not (settings.folder / "envoy.pid").exists()

    asyncio.run(scenario())


def test_a_gateway_that_drains_says_so_and_lets_running_requests_end(federation):
    federation.reach_through_gateway()
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.application("beta", *federation.app)
            web, orders, door = (
                federation.caller(1, [alpha]),
                federation.callee([beta]),
                federation.gateway([beta]),
            )
            members = (web, orders, door)
            for member in members:
                mesh.start(member)
            await mesh.ready(*members)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)
                async with asyncio.TaskGroup() as tasks:
                    running = tasks.create_task(client.call(HOST, "/?delay=1"))
                    await eventually_async(
                        lambda: orders.counter("^http.inbound.downstream_rq_active$"), timeout_s=TIMEOUT_S
                    )
                    await door.envoy.drain()
                assert running.result()[0] == 200
            assert door.envoy.status.state == "draining"
            assert (await door.envoy.admin.get("/ready")).status == 503

    asyncio.run(scenario())

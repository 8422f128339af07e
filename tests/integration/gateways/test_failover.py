"""What dies under load, and that no idempotent request fails for it."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
import pytest

from tests.integration.gateways.federation import ALL_OF_ALPHA, HOST
from tests.integration.gateways.mesh import Application, Caller, Member, Mesh, caller
from tests.integration.gateways.rig import FAULTS, Load, Rig, strike
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import owner, service

REQUESTS = 200
RATE_PER_S = 80
FAULT_AFTER = 50
# Callers are promised 2 s (tests/unit/gateways/test_budgets.py); the machine that runs tests may be slower.
HANG_GUARD_S = 8.0


async def steady_load(
    client: Caller, fault: Callable[[], Awaitable[None]]
) -> tuple[Counter[int], Counter[str]]:
    """Send GETs at a steady rate whatever becomes of them; strike in the midst. Return statuses and answerers."""
    statuses: Counter[int] = Counter()
    answerers: Counter[str] = Counter()

    async def one() -> None:
        status, answer = await client.call(HOST)
        statuses[status] += 1
        answerers[answer["from"] if status == 200 else str(answer)] += 1

    async with asyncio.TaskGroup() as requests:
        for number in range(REQUESTS):
            if number == FAULT_AFTER:
                await fault()
            requests.create_task(one())
            await asyncio.sleep(1 / RATE_PER_S)  # The rate of the load.
    return statuses, answerers


async def healthy_gateways(web: Member, count: int) -> None:
    """Wait until so many gateways have answered for their health: before, nobody falls back on them."""
    name = "^cluster.outbound.8080..orders.shop.svc.clusterset.local.beta.membership_healthy$"

    async def enough() -> bool:
        return await web.counter(name) == count

    await eventually_async(enough, timeout_s=60, message=f"{count} healthy gateways")


async def die(mesh: Mesh, member: Member) -> None:
    """Kill the Envoy for good: its supervisor dies too."""
    member.kill()
    await mesh.stop(member)


@pytest.mark.parametrize("victim", ["application", "sidecar", "sidecar-with-affinity"])
def test_when_the_local_instance_dies_the_other_cluster_answers(federation, victim):
    federation.reach_through_gateway(local=True)
    if victim == "sidecar-with-affinity":
        federation.keep_callers()
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            local: Application = await mesh.application("alpha", *federation.local_app)
            await mesh.application("beta", *federation.app)
            web, near = federation.caller(1, [alpha]), federation.local_callee([alpha])
            members = [web, near, federation.callee([beta]), federation.gateway([beta])]
            for member in members:
                mesh.start(member)
            await mesh.ready(*members)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, answer: status == 200 and answer["from"] == "alpha")
                await healthy_gateways(web, 1)
                statuses, answerers = await steady_load(
                    client, local.stop if victim == "application" else lambda: die(mesh, near)
                )
            assert statuses == {200: REQUESTS}, answerers
            # The one nearest answers as long as it can, and nobody else is asked.
            assert answerers["alpha"] >= FAULT_AFTER - 5
            assert answerers["beta"] > REQUESTS / 2

    asyncio.run(scenario())


@pytest.mark.parametrize("blackholed", [False, True], ids=["killed", "blackholed"])
def test_when_a_gateway_dies_the_other_one_is_used(federation, blackholed):
    addresses = [federation.gateway_address, federation.block.host(253)]
    federation.reach_through_gateway(*addresses)
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.application("beta", *federation.app)
            web = federation.caller(1, [alpha])
            gateways = [federation.gateway([beta], address) for address in addresses]
            members = [web, federation.callee([beta]), *gateways]
            for member in members:
                mesh.start(member)
            await mesh.ready(*members)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)
                await healthy_gateways(web, 2)
                pid = 0

                async def fault() -> None:
                    nonlocal pid
                    # The one that carries the connection.
                    passed = [
                        await member.counter("^tcp.eastwest.downstream_cx_total$") for member in gateways
                    ]
                    victim = gateways[passed.index(max(passed))]
                    if not blackholed:
                        await die(mesh, victim)
                        return
                    pid = victim.envoy.status.pid or 0
                    os.kill(pid, signal.SIGSTOP)

                try:
                    statuses, answerers = await steady_load(client, fault)
                finally:
                    if pid:
                        os.kill(pid, signal.SIGCONT)
            assert statuses == {200: REQUESTS}, answerers

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "fault",
    ["endpoint-frozen", "gateway-killed", "gateway-frozen", "hidden-endpoint-frozen", "far-gateway-frozen"],
)
def test_when_a_cluster_cannot_be_reached_the_next_one_answers_and_no_get_fails(tmp_path, loopback, fault):
    async def scenario() -> None:
        rig = Rig(tmp_path, loopback())
        async with rig.running() as mesh, aiohttp.ClientSession() as session:
            load = Load(rig.members["alpha/web"], session, deadline_s=HANG_GUARD_S)
            found = await strike(rig, mesh, FAULTS[fault], load, watched_s=3.0)
            assert found.window.failed == 0, found
            assert found.moved_ms > 0, "somebody else answered"

    asyncio.run(scenario())


def test_what_nobody_believes_ready_is_called_all_the_same_when_there_is_nothing_better(federation):
    federation.row = msgspec.structs.replace(federation.row, ready=False)
    federation.reach_through_gateway()
    federation.beta.put(service(owner("beta", [federation.row], local=True)), exported_to=["alpha"])
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.application("beta", *federation.app)
            web = federation.caller(1, [alpha])
            members = [web, federation.callee([beta]), federation.gateway([beta])]
            for member in members:
                mesh.start(member)
            await mesh.ready(*members)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)

    asyncio.run(scenario())

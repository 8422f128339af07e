"""A cluster that is drained gets its share of the requests, and none of them fails; with real Envoys."""

import asyncio
from collections import Counter

import msgspec
import pytest

from gateways.core.traffic import STATS_TARGET, read_counters
from tests.integration.gateways.federation import ALL_OF_ALPHA, HOST, Federation
from tests.integration.gateways.mesh import Caller, Controller, Member, Mesh, caller
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import ORDERS

REQUESTS = 200
IN_A_ROW = 30
SERVICE = "shop/orders:8080"
TIMEOUT_S = 60.0


def hand_over(federation: Federation, alpha: Controller, share_percent: int) -> None:
    """Give alpha this share of its own requests, in the order that the view would have."""
    found = federation.alpha.known[ORDERS]
    owners = [
        msgspec.structs.replace(each, share_percent=share_percent if each.local else 100)
        for each in found.owners
    ]
    owners.sort(key=lambda each: (each.share_percent == 0, not each.local))
    federation.alpha.put(msgspec.structs.replace(found, owners=tuple(owners)))
    alpha.publish()


async def answers(client: Caller, count: int) -> Counter[str]:
    """Who answered so many requests; none may fail."""
    found: Counter[str] = Counter()
    for _ in range(count):
        status, answer = await client.call(HOST)
        assert status == 200, answer
        found[answer["from"]] += 1
    return found


async def answered_by(client: Caller, *clusters: str) -> None:
    """Wait until these clusters, all of them and nobody else, answer."""

    async def all_of_them() -> bool:
        return set(await answers(client, IN_A_ROW)) == set(clusters)

    await eventually_async(all_of_them, timeout_s=TIMEOUT_S, message=f"answered by {clusters}")


async def healthy(web: Member) -> bool:
    name = "^cluster.outbound.8080..orders.shop.svc.clusterset.local.beta.membership_healthy$"
    return await web.counter(name) == 1


@pytest.mark.parametrize("affinity", [False, True], ids=["spread", "affinity"])
def test_a_cluster_gives_its_traffic_away_in_steps_gets_it_back_and_is_the_last_resort(federation, affinity):
    federation.reach_through_gateway(local=True)
    if affinity:
        federation.keep_callers()
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.application("alpha", *federation.local_app)
            far = await mesh.application("beta", *federation.app)
            web = federation.caller(1, [alpha])
            members = [
                web,
                federation.local_callee([alpha]),
                federation.callee([beta]),
                federation.gateway([beta]),
            ]
            for member in members:
                mesh.start(member)
            await mesh.ready(*members)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, answer: status == 200 and answer["from"] == "alpha")
                await eventually_async(lambda: healthy(web), timeout_s=TIMEOUT_S, message="beta is healthy")

                hand_over(federation, alpha, 50)
                await answered_by(client, "alpha", "beta")
                half = await answers(client, REQUESTS)
                # By chance less than a quarter, or more than three, comes once in 10^12.
                assert REQUESTS / 4 <= half["alpha"] <= 3 * REQUESTS / 4

                hand_over(federation, alpha, 0)
                await answered_by(client, "beta")
                assert await answers(client, REQUESTS) == {"beta": REQUESTS}
                counted = read_counters(await web.envoy.admin.counters_at(STATS_TARGET))
                assert counted.services[SERVICE].requests > REQUESTS
                assert {owner for owner, found in counted.served_by.items() if SERVICE in found} == {
                    "alpha",
                    "beta",
                }

                # Nobody else is left: it is not cut off.
                await far.stop()
                await mesh.stop(members[3])
                await client.until(HOST, lambda status, answer: status == 200 and answer["from"] == "alpha")

                hand_over(federation, alpha, 100)
                assert await answers(client, IN_A_ROW) == {"alpha": IN_A_ROW}

    asyncio.run(scenario())

"""Counting all endpoints: right, and never in one step."""

import asyncio

from discovery.core.model import GATEWAY_SERVICE, SYSTEM_NAMESPACE, Endpoint, ServiceKey, pack
from discovery.core.tables import Table
from federation.api.counts import ROWS_PER_SLICE, EndpointCounts, count_endpoints
from tests.unit.gateways.builders import endpoint

GATEWAYS = ServiceKey(SYSTEM_NAMESPACE, GATEWAY_SERVICE)


def table(*rows: Endpoint) -> Table:
    return Table.of_sorted(sorted((row.key.encode(), pack(row)) for row in rows))


async def test_endpoints_are_counted_by_cluster_and_gateways_apart() -> None:
    rows = (
        endpoint("alpha", "a"),
        endpoint("alpha", "b", ready=False),
        endpoint("alpha", "gw", key=GATEWAYS),
        endpoint("beta", "c"),
    )
    assert await count_endpoints(table(*rows)) == {
        "alpha": EndpointCounts(endpoints=2, ready=1, gateways=1),
        "beta": EndpointCounts(endpoints=1, ready=1),
    }


async def test_others_run_while_endpoints_are_counted() -> None:
    slices = 6
    rows = [endpoint("alpha", f"e{number:05}") for number in range(slices * ROWS_PER_SLICE)]
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(another())
        counts = await count_endpoints(table(*rows))
        running.cancel()
    assert counts["alpha"].endpoints == len(rows)
    assert turns >= slices

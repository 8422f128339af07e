"""Reading all endpoints on the event loop without holding it."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from discovery.core.model import GATEWAY_SERVICE, SYSTEM_NAMESPACE, EndpointKey, unpack_endpoint
from discovery.core.tables import Table

# About a millisecond of decoding; then the loop serves others.
ROWS_PER_SLICE = 500


class EndpointCounts(msgspec.Struct):
    """The endpoints of one cluster, its gateways apart."""

    endpoints: int = 0
    ready: int = 0
    gateways: int = 0


async def sliced(table: Table, prefix: bytes = b"") -> AsyncIterator[tuple[bytes, bytes]]:
    """Iterate over rows that start with `prefix`, letting others run now and then; a table never changes."""
    for number, row in enumerate(table.items(prefix), start=1):
        yield row
        if number % ROWS_PER_SLICE == 0:
            await asyncio.sleep(0)


async def count_endpoints(endpoints: Table) -> dict[str, EndpointCounts]:
    """Return the counts by cluster; clusters without endpoints are missing."""
    counts: dict[str, EndpointCounts] = {}
    async for key, value in sliced(endpoints):
        place = EndpointKey.decode(key)
        count = counts.setdefault(place.cluster, EndpointCounts())
        if (place.namespace, place.service) == (SYSTEM_NAMESPACE, GATEWAY_SERVICE):
            count.gateways += 1
        else:
            count.endpoints += 1
            count.ready += unpack_endpoint(value).ready
    return counts

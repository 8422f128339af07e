"""A member whose state machine is the catalog, and which is told of changed endpoints on a stream.

python -m bench.change_member DIRECTORY NAME
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import msgspec
from msgspec import Struct

from bench.log_member import KEYS_DIRECTORY, Context, open_member, serve, service, status_answer
from bench.store_wire import MAINTENANCE_SERVICE
from bench.writer import CHANGES_METHOD, CHANGES_OWNER, INSIDE_SERVICE, STREAM_IN_FLIGHT_MAX
from consensus.runtime.embedded import EmbeddedEngine
from discovery.core.catalog import Catalog
from discovery.core.commands import AcquireLease, PublishEndpoints, Put, Write
from discovery.core.model import Endpoint, ResourceKey
from discovery.core.publishing import publish_lease
from federation.api.proposer import Proposer
from federation.app.telemetry import set_up_logging

_FOUNDING = Write(
    operations=(
        Put(key=ResourceKey("", "Federation", "", "federation"), spec=b'{"id": "bench"}'),
        Put(
            key=ResourceKey("", "Cluster", "", CHANGES_OWNER),
            spec=b'{"role": "primary", "trustDomain": "%s.example"}' % CHANGES_OWNER.encode(),
        ),
        Put(
            key=ResourceKey("", "TrustDomain", "", f"{CHANGES_OWNER}.example"),
            spec=b'{"roots": ["PEM"], "sequence": 1}',
        ),
    )
)
_LEASE_TTL_MS = 60_000
_rows = msgspec.msgpack.Decoder(tuple[Endpoint, ...])


class ChangeCalls(Struct, frozen=True):
    """Each message of a stream is a batch of endpoints, published by one command; each is acknowledged by one."""

    engine: EmbeddedEngine
    catalog: Catalog
    numbers: Mapping[str, int]

    def handlers(self) -> "tuple[grpc.GenericRpcHandler[Any, Any], ...]":
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        changes = {CHANGES_METHOD: grpc.stream_stream_rpc_method_handler(self._changes)}
        return (
            service(MAINTENANCE_SERVICE, {"Status": self._status}),
            grpc.method_handlers_generic_handler(INSIDE_SERVICE, changes),
        )

    async def _status(self, _request: bytes, _context: Context) -> bytes:
        return status_answer(self.engine, self.numbers)

    async def _changes(self, requests: AsyncIterator[bytes], context: Context) -> None:
        proposer = Proposer(self.engine, cluster=CHANGES_OWNER)
        fence = await self._fence(proposer)
        slots, writing = asyncio.Semaphore(STREAM_IN_FLIGHT_MAX), asyncio.Lock()

        async def publish(rows: tuple[Endpoint, ...]) -> None:
            await proposer.propose(PublishEndpoints(cluster=CHANGES_OWNER, fence=fence, put=rows))
            async with writing:  # gRPC takes one write at a time.
                await context.write(b"\0")
            slots.release()

        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                await slots.acquire()
                tasks.create_task(publish(_rows.decode(request)), name="publish")

    async def _fence(self, proposer: Proposer) -> int:
        await proposer.barrier()
        if not self.catalog.revision:
            await proposer.propose(_FOUNDING)
        name = publish_lease(CHANGES_OWNER)
        outcome = await proposer.propose(AcquireLease(name=name, holder="bench", ttl_ms=_LEASE_TTL_MS))
        assert outcome.lease is not None, "a lease was asked for"
        return outcome.lease.fence


async def _main(directory: Path, name: str) -> None:
    catalog = Catalog()
    engine, host, numbers = open_member(directory, name, catalog)
    await serve(engine, ChangeCalls(engine, catalog, numbers).handlers(), host, directory / KEYS_DIRECTORY)


if __name__ == "__main__":
    set_up_logging("info")
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))

"""What the test itself is in a federation: one that watches from a third place, and one that proposes as a mirror may.

python -m tests.integration.mirror.bystanders TOKEN FOLDER CLUSTER HOLDER     gives HOLDER the publish lease
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from certs.runtime.identity import LeafIdentity
from discovery.core.commands import AcquireLease
from discovery.core.model import EndpointKey, unpack_endpoint
from discovery.core.publishing import publish_lease
from federation.agent.control import open_channel
from federation.agent.directory import DirectoryStore, members_preferred
from federation.agent.enrollment import IDENTITY_FOLDER, enroll
from federation.api.proposer import Proposer
from federation.app.forwarding import ForwardingLog
from federation.app.publisher import LEASE_TTL_MS
from federation.replication.follower import Follower
from federation.replication.source import GrpcSource
from federation.replication.state import FollowerState, Update
from tests.integration.mirror.cluster import Federation

CLUSTER = "alpha"


class Watcher:
    """A follower of the catalog: it is told every change of every endpoint, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[int, int] | None]] = []  # Name, and its version; None: removed.

    def take(self, update: Update) -> None:
        for change in update.changes:
            if change.table == "endpoints":
                row = None if change.value is None else unpack_endpoint(change.value).version
                self.told.append((EndpointKey.decode(change.key).name, row))

    def flaps(self) -> list[str]:
        """What no caller may see while agents live: an endpoint that goes, or goes back to what it was."""
        newest: dict[str, tuple[int, int]] = {}
        found: list[str] = []
        for name, version in self.told:
            if version is None:
                found.append(f"{name} was removed")
            elif version < newest.get(name, version):
                found.append(f"{name} went back to {version}")
            else:
                newest[name] = version
        return found


@asynccontextmanager
async def watching(federation: Federation, folder: Path) -> AsyncIterator[Watcher]:
    """Follow the member for as long as the block takes."""
    enrollment = await enroll(federation.token("dns"), "dns", "watcher", folder)
    leaf, directory = LeafIdentity.load(folder / IDENTITY_FOLDER), DirectoryStore.open(folder)
    watcher = Watcher()
    follower = Follower(
        FollowerState(CLUSTER, history=enrollment.federation),
        sources=lambda: [
            GrpcSource(one.name, partial(open_channel, one, leaf, directory))
            for one in members_preferred(directory.current, CLUSTER)
        ],
        on_change=watcher.take,
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(follower.run())
        try:
            await follower.ready.wait()
            yield watcher
        finally:
            running.cancel()


@asynccontextmanager
async def forwarding(token: str, folder: Path) -> AsyncIterator[ForwardingLog]:
    """Enroll as a mirror of alpha, one that nobody connects to: what it proposes the member proposes for it."""
    await enroll(token, "controller", "test", folder)
    log = ForwardingLog(
        CLUSTER,
        leaf=LeafIdentity.load(folder / IDENTITY_FOLDER),
        directory=DirectoryStore.open(folder),
        reached=_at_once,
    )
    try:
        yield log
    finally:
        await log.close()


async def give_lease(log: ForwardingLog, cluster: str, holder: str) -> None:
    """Make `holder` the one that publishes for a cluster, before anybody else has asked for it."""
    proposer = Proposer(log, cluster=CLUSTER)
    outcome = await proposer.propose(
        AcquireLease(name=publish_lease(cluster), holder=holder, ttl_ms=LEASE_TTL_MS)
    )
    assert outcome.lease is not None
    assert outcome.lease.granted, f"{outcome.lease.holder} publishes for {cluster} already"


async def _at_once(_revision: int) -> None:
    """There is no copy that has to catch up."""


async def _main(token: str, folder: str, cluster: str, holder: str) -> None:
    async with forwarding(token, Path(folder)) as log:
        await give_lease(log, cluster, holder)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))

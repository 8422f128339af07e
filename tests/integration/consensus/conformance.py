"""What a test of the contract needs of an engine, whichever it is. A new engine adds one line to ENGINES."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from consensus.core.contract import Consensus, MemberAddress
from tests.integration.consensus.cluster import Cluster, Journalled, cluster_of


class Group(Protocol):
    """Members of one log, each with an engine and a state machine that remembers every command."""

    async def start(self, name: str) -> Consensus:
        """Start a member on what it has, and return when it is ready."""
        ...

    async def stop(self, name: str) -> None:
        """End a member; what it acknowledged stays."""
        ...

    def engine(self, name: str) -> Consensus:
        """Return the engine of a running member."""
        ...

    def machine(self, name: str) -> Journalled:
        """Return the state machine of a running member."""
        ...

    def address(self, name: str) -> MemberAddress:
        """Return what others know of a member."""
        ...


Maker = Callable[..., AbstractAsyncContextManager[Group]]


class Embedded:
    """The embedded engine on loopback sockets and real files."""

    def __init__(self, cluster: Cluster, founders: tuple[str, ...], snapshot_after_bytes: int) -> None:
        self._cluster = cluster
        self._founders = founders
        self._snapshot_after_bytes = snapshot_after_bytes

    async def start(self, name: str) -> Consensus:
        running = await self._cluster.start(
            name, self._founders, snapshot_after_bytes=self._snapshot_after_bytes
        )
        return running.engine

    async def stop(self, name: str) -> None:
        await self._cluster.stop(name)

    def engine(self, name: str) -> Consensus:
        return self._cluster.members[name].engine

    def machine(self, name: str) -> Journalled:
        return self._cluster.members[name].machine

    def address(self, name: str) -> MemberAddress:
        return self._cluster.addresses[name]


@asynccontextmanager
async def embedded(
    directory: Path, *founders: str, others: tuple[str, ...] = (), snapshot_after_bytes: int = 1 << 24
) -> AsyncIterator[Group]:
    """Yield a founded group; `others` have addresses, and are not started."""
    async with cluster_of(directory, *founders, *others, founding=False) as cluster:
        group = Embedded(cluster, founders, snapshot_after_bytes)
        for name in founders:
            await group.start(name)
        yield group


ENGINES: dict[str, Maker] = {"embedded": embedded}

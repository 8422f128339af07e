"""Takes a consistent backup of the running catalog, and serves it to operators."""

import asyncio
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from typing import Protocol

import structlog
from aiohttp import web

from certs.runtime.clock import utc_now
from consensus.core.contract import Status
from discovery.core.catalog import Catalog
from discovery.core.model import ResourceKey
from discovery.core.snapshots import State, encode_snapshot
from federation.agent.directory import DirectoryStore
from federation.app.backup_file import Manifest, encode_backup
from federation.app.raft import member_address
from federation.kernel.errors import LimitExceededError, UnavailableError

BACKUPS_AT_ONCE_MAX = 1  # Each holds one version of all tables in memory.
TAKE_TIMEOUT_S = 10.0
_ENDPOINT = "Endpoint"

_log = structlog.get_logger("backup")


class Applying(Protocol):
    """What tells when something was applied."""

    def on_applied(self, callback: Callable[[int], None]) -> None:
        """Call `callback` after each batch, in the thread that applies."""
        ...


class Barrier(Protocol):
    """What waits for the log."""

    async def barrier(self) -> None:
        """Return once local state holds every write finished before the call; raises UnavailableError."""
        ...


class StateTaker:
    """Takes the catalog's state between two entries, in the thread that applies them."""

    def __init__(self, *, engine: Applying, proposer: Barrier, catalog: Catalog) -> None:
        self._proposer = proposer
        self._catalog = catalog
        self._wanted: list[Callable[[int, State], None]] = []
        engine.on_applied(self._applied)

    async def take(self) -> tuple[int, State]:
        """Return an applied index and the state there, which holds every write finished before this call.

        Raises UnavailableError without quorum.
        """
        await self._proposer.barrier()
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[tuple[int, State]] = loop.create_future()
        self._wanted.append(lambda index, state: _resolve_in(loop, taken, (index, state)))
        await self._proposer.barrier()  # Something to apply, so that the thread comes by.
        try:
            async with asyncio.timeout(TAKE_TIMEOUT_S):
                return await taken
        except TimeoutError as error:
            raise UnavailableError(f"no entry was applied within {TAKE_TIMEOUT_S:g} s") from error

    def _applied(self, index: int) -> None:
        """In the thread that applies."""
        if self._wanted:
            wanted, self._wanted = self._wanted, []
            state = self._catalog.state()
            for give in wanted:
                give(index, state)


class BackupDesk:
    """Serves backups of one controller."""

    def __init__(
        self, name: str, *, taker: StateTaker, status: Callable[[], Status], directory: DirectoryStore
    ) -> None:
        self._name = name
        self._taker = taker
        self._status = status
        self._directory = directory
        self._running = 0

    async def serve(self, request: web.Request, operator: str) -> web.StreamResponse:
        """Answer with the bytes of a backup, not encrypted: the connection is, and the file is the caller's."""
        if self._running >= BACKUPS_AT_ONCE_MAX:
            raise LimitExceededError("another backup is being taken from this controller: repeat it later")
        self._running += 1
        try:
            index, state = await self._taker.take()
            manifest = await asyncio.to_thread(self._manifest, index, state)
            _log.info("backup_taken", operator=operator, revision=manifest.revision, index=index)
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            await response.prepare(request)
            blocks = encode_backup(manifest, encode_snapshot(state), key=None)
            while (block := await asyncio.to_thread(next, blocks, b"")) != b"":
                await response.write(block)
            await response.write_eof()
            return response
        finally:
            self._running -= 1

    def _manifest(self, index: int, state: State) -> Manifest:
        directory, raft = self._directory.current, self._status()
        return Manifest(
            federation=directory.federation,
            incarnation=directory.incarnation,
            controller=self._name,
            version=version("isthmus"),
            created_unix_ms=int(utc_now().timestamp() * 1000),
            revision=state.tables.revision,
            index=index,
            term=raft.term,
            members=tuple(
                member_address(one) for one in directory.controllers if one.spec.cluster in raft.members
            ),
            counts=count_rows(state),
        )


def count_rows(state: State) -> dict[str, int]:
    """Return how many resources of each kind there are, and endpoints."""
    counts = Counter(ResourceKey.decode(key).kind for key in state.tables.resources)
    return {**dict(sorted(counts.items())), _ENDPOINT: len(state.tables.endpoints)}


def _resolve_in(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[tuple[int, State]]",
    value: tuple[int, State],
) -> None:
    def resolve() -> None:
        if not future.done():  # Else nobody waits any more.
            future.set_result(value)

    try:
        loop.call_soon_threadsafe(resolve)
    except RuntimeError:
        _log.debug("loop_closed")

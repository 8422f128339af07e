"""Engines on private addresses in one process, and a state machine that remembers every command."""

import asyncio
import itertools
import os
import struct
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from consensus.core.contract import Applied, MemberAddress
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK, Clock
from consensus.runtime.disk import FILE_DISK, Disk
from consensus.runtime.embedded import EmbeddedEngine
from consensus.runtime.transport import TransportSecurity
from federation.kernel.errors import CorruptError, OutcomeUnknownError, UnavailableError
from tests.integration.consensus.pki import FileSecurity, TestCa
from tests.support.wait import eventually_async

PORT = 7400
ROUND_TRIP_MS = 100  # Elections after 1 to 2 s of silence: a busy machine must not cause one.
FEDERATION = "test"
_blocks = itertools.count()


def fresh_addresses(*ids: str) -> dict[str, MemberAddress]:
    """Return members on addresses of 127.101.0.0/16 that no other test of this machine uses at the moment."""
    block = (os.getpid() * 16 + next(_blocks)) % 250
    third = os.getpid() // 16 % 250
    return {
        name: MemberAddress(
            id=name,
            address=f"127.101.{third}.{block}:{PORT + position}",
            identity=f"spiffe://{name}.test/isthmus/{name}/controller/1",
        )
        for position, name in enumerate(ids)
    }


class Journalled:
    """Remembers (index, command) in order; the result is the number of commands so far."""

    def __init__(self) -> None:
        self.commands: list[tuple[int, bytes]] = []

    def apply(self, index: int, command: bytes) -> bytes:
        self.commands.append((index, command))
        return b"%d" % len(self.commands)

    def snapshot(self) -> Iterator[bytes]:
        frozen = tuple(self.commands)
        for begin in range(0, len(frozen), 50):
            piece = frozen[begin : begin + 50]
            yield b"".join(struct.pack("<QI", index, len(command)) + command for index, command in piece)

    def restore(self, chunks: Iterable[bytes]) -> None:
        commands = []
        for chunk in chunks:
            offset = 0
            while offset < len(chunk):
                if offset + 12 > len(chunk):
                    raise CorruptError("chunk is cut off")
                index, length = struct.unpack_from("<QI", chunk, offset)
                commands.append((index, chunk[offset + 12 : offset + 12 + length]))
                offset += 12 + length
        self.commands = commands


class Running:
    """One engine that runs until `stop`."""

    def __init__(self, engine: EmbeddedEngine, machine: Journalled) -> None:
        self.engine = engine
        self.machine = machine
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(self.engine.run())
                await self._stop.wait()
                task.cancel()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()


class Cluster:
    """Starts and stops engines for one test."""

    def __init__(
        self, directory: Path, tasks: asyncio.TaskGroup, addresses: dict[str, MemberAddress], ca: TestCa
    ) -> None:
        self.directory = directory
        self.ca = ca
        self.addresses = addresses
        self.members: dict[str, Running] = {}
        self._tasks = tasks
        self._security: dict[str, FileSecurity] = {}

    def founders(self, *ids: str) -> tuple[MemberAddress, ...]:
        return tuple(self.addresses[name] for name in ids)

    async def start(
        self,
        name: str,
        bootstrap: Iterable[str],
        *,
        listen: str | None = None,
        snapshot_after_bytes: int = 1 << 24,
        round_trip_ms: int = ROUND_TRIP_MS,
        federation: str = FEDERATION,
        security: TransportSecurity | None = None,
        machine: Journalled | None = None,
        disk: Disk = FILE_DISK,
        clock: Clock = SYSTEM_CLOCK,
    ) -> Running:
        machine = machine or Journalled()
        me = self.addresses[name]
        if name not in self._security:
            self._security[name] = self.ca.security(me.identity)
        engine = EmbeddedEngine(
            me,
            directory=self.directory / name,
            machine=machine,
            bootstrap=self.founders(*bootstrap),
            security=security or self._security[name],
            federation=federation,
            timing=Timing(round_trip_ms=round_trip_ms),
            listen=listen,
            snapshot_after_bytes=snapshot_after_bytes,
            disk=disk,
            clock=clock,
        )
        running = self.members[name] = Running(engine, machine)
        self._tasks.create_task(running.run(), name=f"member/{name}")
        async with asyncio.timeout(60):
            await engine.ready.wait()
        return running

    async def stop(self, name: str) -> None:
        await self.members.pop(name).stop()

    async def leader(self) -> str:
        """Return the member that all running ones agree leads."""
        return await eventually_async(self._leader, timeout_s=60, message=self._describe)

    def _leader(self) -> str | None:
        statuses = [running.engine.status() for running in self.members.values()]
        leaders = {status.leader for status in statuses}
        (leader, *others) = leaders
        if others or leader is None or leader not in self.members:
            return None
        return leader if self.members[leader].engine.status().role == "leader" else None

    def _describe(self) -> str:
        return "\n".join(str(running.engine.status()) for running in self.members.values())

    async def followers(self) -> list[str]:
        leader = await self.leader()
        return [name for name in self.members if name != leader]

    async def write(self, name: str, command: bytes) -> Applied:
        """Propose until it is certain that it happened; for commands that may happen twice."""

        async def attempt() -> Applied | None:
            try:
                return await self.members[name].engine.propose(command, timeout_ms=10_000)
            except (UnavailableError, OutcomeUnknownError):
                return None

        return await eventually_async(attempt, timeout_s=60, message=self._describe)


@asynccontextmanager
async def cluster_of(directory: Path, *ids: str, founding: bool = True) -> AsyncIterator[Cluster]:
    """Yield a new cluster of `ids`, all of them running as founders unless told otherwise."""
    async with running_cluster(directory, fresh_addresses(*ids), TestCa(directory / "pki")) as cluster:
        if founding:
            for name in ids:
                await cluster.start(name, ids)
        yield cluster


@asynccontextmanager
async def running_cluster(
    directory: Path, addresses: dict[str, MemberAddress], ca: TestCa
) -> AsyncIterator[Cluster]:
    """Yield a cluster, new or not, without any member running; stop all of them in the end."""
    async with asyncio.TaskGroup() as tasks:
        cluster = Cluster(directory, tasks, addresses, ca)
        try:
            yield cluster
        finally:
            for name in list(cluster.members):
                await cluster.stop(name)

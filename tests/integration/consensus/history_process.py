"""A member in a process of its own whose callers write and read one register, and note what they saw.

The register is the newest command of the log. Arguments: directory of the cluster, id, all members as JSON. Beside the
member's directory it writes NAME.history, a line when a call begins and one when it has ended, and NAME.status, who
leads as it sees it. Times are of the machine's steady clock, so those of several processes can be compared.
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from consensus.core.contract import MemberAddress, Role
from consensus.core.timing import Timing
from consensus.runtime.embedded import EmbeddedEngine
from federation.kernel.errors import IsthmusError, OutcomeUnknownError
from tests.integration.consensus.cluster import FEDERATION, Journalled
from tests.integration.consensus.pki import FileSecurity
from tests.simulation.history import End, Function, Operation

CALLERS = 2
CALL_TIMEOUT_MS = 2_000
PAUSE_S = 0.02  # Between the calls of one caller: the search's cost grows with what overlaps.
SNAPSHOT_AFTER_BYTES = 20_000


class Call(Struct, kw_only=True, frozen=True):
    """One call, as far as it has come."""

    id: str
    process: int
    f: Function
    value: str | None
    invoke_s: float
    type: End = "info"
    return_s: float | None = None
    version: int | None = None

    def operation(self) -> Operation:
        """Return what the checkers look at."""
        return Operation(
            process=self.process,
            f=self.f,
            key="log",
            invoke_s=self.invoke_s,
            value=self.value,
            type=self.type,
            # A call whose outcome is not known may take effect at any later time.
            return_s=float("inf") if self.return_s is None or self.type == "info" else self.return_s,
            version=self.version,
        )


class View(Struct, kw_only=True, frozen=True):
    """Who leads, as a member sees it."""

    role: Role
    term: int
    leader: str | None


class Caller:
    """Calls its own member, writes and reads by turns."""

    def __init__(self, name: str, number: int, engine: EmbeddedEngine, machine: Journalled, log: int) -> None:
        self._name = f"{name}/{os.getpid()}/{number}"
        self._process = hash_free(self._name)
        self._engine = engine
        self._machine = machine
        self._log = log

    async def run(self) -> None:
        for number in itertools.count():
            await (self._write(number) if number % 2 else self._read(number))
            await asyncio.sleep(PAUSE_S)

    async def _write(self, number: int) -> None:
        value = f"{self._name}/{number}"
        call = self._begin(number, "write", value)
        try:
            applied = await self._engine.propose(value.encode(), timeout_ms=CALL_TIMEOUT_MS)
        except OutcomeUnknownError:
            return
        except IsthmusError:
            self._end(call, "fail")
        else:
            self._end(call, "ok", version=applied.index)

    async def _read(self, number: int) -> None:
        call = self._begin(number, "read", None)
        try:
            await self._engine.read_barrier(timeout_ms=CALL_TIMEOUT_MS)
        except IsthmusError:
            self._end(call, "fail")
            return
        index, command = self._machine.commands[-1] if self._machine.commands else (0, b"")
        self._end(call, "ok", version=index, value=command.decode() if index else None)

    def _begin(self, number: int, f: Function, value: str | None) -> Call:
        now_s = asyncio.get_running_loop().time()
        call = Call(id=f"{self._name}/{number}", process=self._process, f=f, value=value, invoke_s=now_s)
        self._note(call)
        return call

    def _end(self, call: Call, how: End, **seen: int | str | None) -> None:
        now_s = asyncio.get_running_loop().time()
        self._note(msgspec.structs.replace(call, type=how, return_s=now_s, **seen))

    def _note(self, call: Call) -> None:
        os.write(self._log, msgspec.json.encode(call) + b"\n")


def hash_free(name: str) -> int:
    """Return a number for a caller, the same in every run and unlike every other's."""
    return int.from_bytes(name.encode(), "big")


async def watch(engine: EmbeddedEngine, path: Path) -> None:
    """Keep `path` up to date."""
    known: View | None = None
    while True:
        status = engine.status()
        view = View(role=status.role, term=status.term, leader=status.leader)
        if view != known:
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(view))
            new.rename(path)
            known = view
        await asyncio.sleep(0.05)


async def main(directory: Path, name: str, members: tuple[MemberAddress, ...]) -> None:
    machine = Journalled()
    engine = EmbeddedEngine(
        next(member for member in members if member.id == name),
        directory=directory / name,
        machine=machine,
        bootstrap=members,
        security=FileSecurity(directory / "pki" / f"{name}.pem", directory / "pki" / "root.pem"),
        federation=FEDERATION,
        timing=Timing(round_trip_ms=1),
        snapshot_after_bytes=SNAPSHOT_AFTER_BYTES,
    )
    log = os.open(directory / f"{name}.history", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        await engine.ready.wait()
        tasks.create_task(watch(engine, directory / f"{name}.status"))
        for number in range(CALLERS):
            tasks.create_task(Caller(name, number, engine, machine, log).run())


if __name__ == "__main__":
    asyncio.run(
        main(Path(sys.argv[1]), sys.argv[2], msgspec.json.decode(sys.argv[3], type=tuple[MemberAddress, ...]))
    )

"""Callers of a run: registers in the catalog, written, compared and swapped, and read behind barriers."""

import asyncio
import itertools
import json
import random
from collections.abc import Sequence

import msgspec

from consensus.core.contract import Applied
from discovery.core.commands import (
    AcquireLease,
    Body,
    Command,
    Put,
    Tick,
    Write,
    decode_outcome,
    encode_command,
)
from discovery.core.commands import Outcome as Answer
from federation.kernel.errors import Code, IsthmusError, OutcomeUnknownError, UnavailableError
from tests.simulation.checks import Checks
from tests.simulation.history import Operation
from tests.simulation.machine import OWNER, register_key
from tests.simulation.member import SimMember
from tests.simulation.virtual import VirtualLoop

ATTEMPTS_MAX = 6
TIMEOUT_MS = 2_000
PAUSE_S = 0.06
TICK_EVERY_S = 0.4
LEASE_TTL_MS = 700


class Clients:
    """All callers of one run and their common history."""

    def __init__(
        self,
        members: Sequence[SimMember],
        *,
        loop: VirtualLoop,
        checks: Checks,
        rng: random.Random,
        keys: int,
        padding_bytes: int,
    ) -> None:
        self.history: list[Operation] = []
        self.acknowledged = 0
        self._members = members
        self._loop = loop
        self._checks = checks
        self._rng = rng
        self._keys = [f"k{number}" for number in range(keys)]
        self._padding = ["x" * 59] * (padding_bytes // 60)
        self._values = itertools.count()
        self._requests = itertools.count()

    async def found(self, write: Write) -> None:
        """Repeat the first write until it has happened."""
        request = self._request()
        while True:
            try:
                if await self._effect(request, write) is not None:
                    return
            except OutcomeUnknownError:
                continue  # The same request again: it takes effect once.

    async def use_registers(self, process: int) -> None:
        """Call without pause but for short ones, for ever."""
        rng = random.Random(f"{self._rng.random()}")
        seen: dict[str, tuple[str, int]] = {}
        while True:
            key = rng.choice(self._keys)
            dice = rng.random()
            if dice < 0.4:
                await self._read(process, key, seen)
            elif dice < 0.6 and key in seen:
                await self._put(process, key, seen.pop(key))
            else:
                await self._put(process, key, None)
            await asyncio.sleep(rng.uniform(0, 2 * PAUSE_S))

    async def hold_leases(self) -> None:
        """Two holders ask for one lease in turns, some of them too late."""
        for number in itertools.count():
            holder = f"holder-{number // 3 % 2}"
            body = AcquireLease(name=f"publish/{OWNER}", holder=holder, ttl_ms=LEASE_TTL_MS)
            await self._effect(self._request(), body, attempts_max=1)
            await asyncio.sleep(self._rng.uniform(0.1, 0.6))

    async def tick(self) -> None:
        """Each leader tells the time of its own clock, as controllers do."""
        while True:
            await asyncio.sleep(TICK_EVERY_S)
            for member in self._members:
                if member.is_up and member.raft.is_leader:
                    body = Tick(now_ms=int(member.clock.now_s() * 1000))
                    await self._effect(
                        self._request(), body, attempts_max=1, members=[member], timeout_ms=200
                    )

    # One call.

    async def _read(self, process: int, key: str, seen: dict[str, tuple[str, int]]) -> None:
        operation = self._begin(process, "read", key)
        member = self._choose(self._members)
        finished_before = self._checks.acknowledged_last
        try:
            index = (await member.propose("barrier", b"", timeout_ms=TIMEOUT_MS)).index
        except IsthmusError:
            self._end(operation, "fail")
            return
        if not member.is_up:
            self._end(operation, "fail")
            return
        self._checks.barrier(member.name, index, finished_before=finished_before)
        row = member.machine.catalog.tables.resource(register_key(key))
        if row is None:
            operation.version = 0
        else:
            operation.value, operation.version = json.loads(row.spec)["services"][0], row.revision
            seen[key] = (operation.value, row.revision)
        self._end(operation, "ok")

    async def _put(self, process: int, key: str, expected: tuple[str, int] | None) -> None:
        operation = self._begin(process, "write" if expected is None else "cas", key)
        operation.value = f"v{next(self._values)}"
        spec = json.dumps({"services": [operation.value, *self._padding]}).encode()
        put = Put(key=register_key(key), spec=spec, expected_revision=None)
        if expected is not None:
            operation.expected = expected[0]
            put = msgspec.structs.replace(put, expected_revision=expected[1])
        try:
            answer = await self._effect(self._request(), Write(operations=(put,)))
        except OutcomeUnknownError:
            return  # Stays open for ever.
        if answer is None or answer.code in (Code.ABORTED, Code.NOT_FOUND):
            self._end(operation, "fail")
        elif answer.code == 0:
            operation.version = answer.revision
            self._end(operation, "ok")
        else:
            raise self._checks.fail("the catalog takes what callers write", answer.message)

    async def _effect(
        self,
        request: str,
        body: Body,
        *,
        attempts_max: int = ATTEMPTS_MAX,
        members: Sequence[SimMember] | None = None,
        timeout_ms: int = TIMEOUT_MS,
    ) -> Answer | None:
        """Propose one request until its outcome is known; None: it certainly did not happen.

        Raises OutcomeUnknownError when the attempts are used up and it may have happened.
        """
        command = encode_command(Command(request_id=request, proposer=OWNER, body=body))
        is_open = False
        for _attempt in range(attempts_max):
            member = self._choose(members or self._members)
            try:
                applied = await member.propose("command", command, timeout_ms=timeout_ms)
            except OutcomeUnknownError:
                is_open = True
            except UnavailableError:
                pass
            else:
                return self._acknowledge(member, applied, command)
            await asyncio.sleep(self._rng.uniform(0.02, 0.3))
        if is_open and members is None and attempts_max > 1:
            raise OutcomeUnknownError(f"request {request}")
        return None

    def _acknowledge(self, member: SimMember, applied: Applied, command: bytes) -> Answer:
        self.acknowledged += 1
        self._checks.acknowledged_write(member.name, applied, command)
        return decode_outcome(applied.result)

    def _choose(self, members: Sequence[SimMember]) -> SimMember:
        return self._rng.choice([member for member in members if member.is_up] or list(members))

    def _request(self) -> str:
        return f"r{next(self._requests)}"

    def _begin(self, process: int, f: str, key: str) -> Operation:
        operation = Operation(process=process, f=f, key=key, invoke_s=self._loop.now_s)  # type: ignore[arg-type]
        self.history.append(operation)
        return operation

    def _end(self, operation: Operation, how: str) -> None:
        operation.type = how  # type: ignore[assignment]
        operation.return_s = self._loop.now_s

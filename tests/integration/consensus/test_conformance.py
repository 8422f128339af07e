"""The contract of consensus.core.contract, held by every engine. Only what the contract names is used."""

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from consensus.core.contract import Applied, Consensus
from federation.kernel.errors import (
    IsthmusError,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionError,
    UnavailableError,
)
from federation.kernel.limits import COMMAND_BYTES_MAX
from tests.integration.consensus.conformance import ENGINES, Group, Maker
from tests.simulation.history import Operation
from tests.simulation.linearizable import by_key, check_versions, search
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Maker:
    return ENGINES[request.param]


async def write(engine: Consensus, command: bytes) -> Applied:
    """Propose until it is certain that it happened; the command may happen twice."""

    async def attempt() -> Applied | None:
        try:
            return await engine.propose(command, timeout_ms=10_000)
        except (UnavailableError, OutcomeUnknownError):
            return None

    return await eventually_async(attempt, timeout_s=60, message=lambda: str(engine.status()))


async def barrier(engine: Consensus) -> int:
    """Repeat a barrier until it succeeds."""

    async def attempt() -> int | None:
        try:
            return await engine.read_barrier(timeout_ms=3_000)
        except UnavailableError:
            return None

    return await eventually_async(attempt, timeout_s=60, message=lambda: str(engine.status()))


async def leader_of(group: Group, *names: str) -> str:
    """Return whom all of these members take for the leader."""

    def agreed() -> str | None:
        leaders = {group.engine(name).status().leader for name in names}
        return leaders.pop() if len(leaders) == 1 else None

    return await eventually_async(agreed, timeout_s=60)


def test_every_member_takes_proposals_and_all_apply_the_same_in_the_same_order(
    make: Maker, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with make(tmp_path, *FOUNDERS) as group:
            told: list[int] = []
            group.engine("beta").on_applied(told.append)
            before = 0
            for turn in range(12):
                name = FOUNDERS[turn % 3]
                applied = await write(group.engine(name), b"%d" % turn)
                commands = group.machine(name).commands
                assert commands[-1][0] >= applied.index > before, "indices grow"
                assert (applied.index, b"%d" % turn) in commands, "the local state includes it on return"
                assert int(applied.result) <= len(commands), "the result is the local state machine's"
                assert applied.term <= group.engine(name).status().term
                before = applied.index
            for name in FOUNDERS:
                index = await barrier(group.engine(name))
                assert index >= before
                assert group.engine(name).status().applied_index >= index
            machines = [group.machine(name) for name in FOUNDERS]
            await eventually_async(
                lambda: machines[0].commands == machines[1].commands == machines[2].commands, timeout_s=60
            )
            await eventually_async(lambda: told and told[-1] >= before, timeout_s=60)
            assert told == sorted(set(told)), "each batch once, in order"

    asyncio.run(scenario())


def test_a_barrier_on_any_member_includes_every_write_that_had_finished(make: Maker, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with make(tmp_path, *FOUNDERS) as group:
            for turn in range(10):
                applied = await write(group.engine(FOUNDERS[turn % 3]), b"%d" % turn)
                for name in FOUNDERS:
                    index = await barrier(group.engine(name))
                    assert index >= applied.index
                    assert (applied.index, b"%d" % turn) in group.machine(name).commands

    asyncio.run(scenario())


def test_errors_say_whether_it_may_have_happened_and_come_within_the_time(
    make: Maker, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with make(tmp_path, *FOUNDERS) as group:
            await write(group.engine("alpha"), b"before")
            with pytest.raises(LimitExceededError):
                await group.engine("alpha").propose(bytes(COMMAND_BYTES_MAX + 1), timeout_ms=1_000)
            await group.stop("beta")
            await group.stop("gamma")
            alone = group.engine("alpha")
            async with asyncio.timeout(90):  # A guard, far above the times given.
                with pytest.raises((UnavailableError, OutcomeUnknownError)):
                    await alone.propose(b"without a majority", timeout_ms=500)
                with pytest.raises(UnavailableError):
                    await alone.read_barrier(timeout_ms=500)
                await eventually_async(lambda: alone.status().role != "leader", timeout_s=60)
                with pytest.raises(UnavailableError):
                    await alone.propose(b"certainly not", timeout_ms=500)
            await group.start("beta")
            await write(group.engine("beta"), b"after")
            await barrier(alone)
            commands = [command for _index, command in group.machine("alpha").commands]
            assert commands[0] == b"before"
            assert commands[-1] == b"after"
            assert b"certainly not" not in commands
            await group.stop("alpha")
            assert alone.status().role == "stopped"
            with pytest.raises(UnavailableError):
                await alone.propose(b"x", timeout_ms=500)

    asyncio.run(scenario())


def test_what_was_acknowledged_is_there_after_all_were_stopped_also_by_snapshot(
    make: Maker, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with make(tmp_path, *FOUNDERS, snapshot_after_bytes=8_000) as group:
            await group.stop("gamma")
            done = [await write(group.engine("alpha"), b"%d/" % number * 100) for number in range(80)]
            await eventually_async(
                lambda: group.engine("alpha").counters().snapshots_written > 0, timeout_s=60
            )
            await group.start("gamma")
            await barrier(group.engine("gamma"))
            assert done[-1].index in [index for index, _ in group.machine("gamma").commands]
            expected = group.machine("alpha").commands
            for name in FOUNDERS:
                await group.stop(name)
            for name in FOUNDERS:
                await group.start(name)  # Ready: what it knew to be committed is applied.
            for name in FOUNDERS:
                await eventually_async(
                    lambda name=name: group.machine(name).commands == expected,  # type: ignore[misc]
                    timeout_s=60,
                )

    asyncio.run(scenario())


def test_callers_may_live_on_another_threads_loop(make: Maker, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with make(tmp_path, "alpha") as group:
            found: list[Applied] = []
            thread = threading.Thread(
                target=lambda: found.append(asyncio.run(write(group.engine("alpha"), b"elsewhere")))
            )
            thread.start()
            await eventually_async(lambda: found, timeout_s=60)
            thread.join()
            assert (found[0].index, b"elsewhere") in group.machine("alpha").commands

    asyncio.run(scenario())


def test_members_change_one_at_a_time_learners_first_and_leadership_moves(
    make: Maker, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with make(tmp_path, *FOUNDERS, others=("delta",)) as group:
            await write(group.engine("alpha"), b"founded")
            with pytest.raises(NotFoundError):
                await group.engine("alpha").promote("delta", timeout_ms=10_000)
            with pytest.raises(NotFoundError):
                await group.engine("beta").remove_member("nobody", timeout_ms=10_000)
            for name in FOUNDERS:
                group.engine(name).allow([group.address("delta")])
            await group.start("delta")
            await group.engine("beta").add_learner(group.address("delta"), timeout_ms=20_000)
            status = group.engine("beta").status()
            assert (status.learners, set(status.members)) == (("delta",), set(FOUNDERS))
            await group.engine("beta").promote("delta", timeout_ms=20_000)
            assert set(group.engine("beta").status().members) == {*FOUNDERS, "delta"}
            applied = await write(group.engine("delta"), b"by the new one")
            assert (applied.index, b"founded") not in group.machine("delta").commands
            commands = [command for _, command in group.machine("delta").commands]
            assert [*dict.fromkeys(commands)] == [b"founded", b"by the new one"]  # One may be repeated.
            await leader_of(group, *FOUNDERS, "delta")
            await group.engine("alpha").transfer_leadership("delta", timeout_ms=20_000)
            assert group.engine("alpha").status().leader == "delta"
            # Alpha may have heard of the leader before it was connected to it.
            await write(group.engine("alpha"), b"delta leads")
            await group.engine("alpha").remove_member("gamma", timeout_ms=20_000)
            assert "gamma" not in group.engine("alpha").status().members
            await group.stop("gamma")
            await write(group.engine("beta"), b"three remain")

    asyncio.run(scenario())


def test_the_last_voter_stays(make: Maker, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with make(tmp_path, "alpha") as group:
            await write(group.engine("alpha"), b"founded")
            with pytest.raises(PreconditionError):
                await group.engine("alpha").remove_member("alpha", timeout_ms=10_000)
            assert group.engine("alpha").status().members == ("alpha",)

    asyncio.run(scenario())


class Caller:
    """Writes and reads one register, which is the newest command of the log, and notes what it saw."""

    def __init__(self, group: Group, process: int, history: list[Operation]) -> None:
        self._group = group
        self._process = process
        self._history = history
        self._loop = asyncio.get_running_loop()

    async def use(self, operations: int) -> None:
        """Do so until `operations` of this caller succeeded; what is refused is followed by another."""
        succeeded = number = 0
        while succeeded < operations:
            name = FOUNDERS[(self._process + number) % 3]
            await (self._write(name, number) if number % 2 else self._read(name))
            if self._newest.type == "ok":
                succeeded += 1
            else:
                await eventually_async(partial(self._is_led, name), timeout_s=60)
            number += 1

    def _is_led(self, name: str) -> bool:
        try:
            return self._group.engine(name).status().leader is not None
        except KeyError:  # Its member is not there.
            return False

    async def _write(self, name: str, number: int) -> None:
        value = f"{self._process}/{number}"
        operation = self._begin("write")
        operation.value = value
        try:
            applied = await self._group.engine(name).propose(value.encode(), timeout_ms=3_000)
        except OutcomeUnknownError:
            return
        except (IsthmusError, KeyError):  # It is refused, or its member is not there.
            self._end(operation, "fail")
        else:
            operation.version = applied.index
            self._end(operation, "ok")

    async def _read(self, name: str) -> None:
        operation = self._begin("read")
        try:
            await self._group.engine(name).read_barrier(timeout_ms=3_000)
            commands = self._group.machine(name).commands
        except (IsthmusError, KeyError):
            self._end(operation, "fail")
            return
        if commands:
            index, command = commands[-1]
            operation.version, operation.value = index, command.decode()
        else:
            operation.version = 0
        self._end(operation, "ok")

    def _begin(self, f: str) -> Operation:
        operation = Operation(process=self._process, f=f, key="log", invoke_s=self._loop.time())  # type: ignore[arg-type]
        self._history.append(operation)
        self._newest = operation
        return operation

    def _end(self, operation: Operation, how: str) -> None:
        operation.type = how  # type: ignore[assignment]
        operation.return_s = self._loop.time()


def test_a_history_with_a_leader_lost_in_the_middle_is_linearizable(make: Maker, tmp_path: Path) -> None:
    history: list[Operation] = []

    async def scenario() -> None:
        async with make(tmp_path, *FOUNDERS) as group:
            await write(group.engine("alpha"), b"first")
            leader = await leader_of(group, *FOUNDERS)
            async with asyncio.TaskGroup() as tasks:
                for process in range(4):
                    tasks.create_task(Caller(group, process, history).use(35))
                await eventually_async(lambda: len(history) > 60, timeout_s=60)
                await group.stop(leader)
                await group.start(leader)

    asyncio.run(scenario())
    assert sum(operation.type == "ok" for operation in history) == 4 * 35
    history = [operation for operation in history if operation.value != "first"]
    for operations in by_key(history).values():
        assert check_versions(operations) == []
        assert search(operations) is not False

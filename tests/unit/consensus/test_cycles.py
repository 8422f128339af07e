"""A member turns soon after each event, once for all that happened, and at every tick; a failure ends it."""

import asyncio
import threading

import pytest

from consensus.runtime.cycles import Cycles
from tests.support.wait import eventually_async

NEVER_S = 3_600.0


def test_what_happens_in_one_pass_of_the_loop_shares_a_turn() -> None:
    async def scenario() -> None:
        turns: list[None] = []
        cycles = Cycles(lambda: turns.append(None) or NEVER_S, tick_s=NEVER_S)
        for _ in range(5):
            cycles.wake()
        await eventually_async(lambda: turns, timeout_s=60)
        await asyncio.sleep(0)
        assert len(turns) == 1

    asyncio.run(scenario())


def test_a_turn_with_more_to_do_is_followed_by_another_when_it_says() -> None:
    async def scenario() -> None:
        left = [0.0, 0.001, NEVER_S]
        cycles = Cycles(lambda: left.pop(0), tick_s=NEVER_S)
        cycles.wake()
        await eventually_async(lambda: not left, timeout_s=60)

    asyncio.run(scenario())


def test_another_thread_wakes_and_every_tick_does() -> None:
    async def scenario() -> None:
        turns: list[None] = []
        cycles = Cycles(lambda: turns.append(None) or NEVER_S, tick_s=0.001)
        threading.Thread(target=cycles.wake_from_elsewhere).start()
        await eventually_async(lambda: turns, timeout_s=60)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(cycles.run())
            await eventually_async(lambda: len(turns) > 3, timeout_s=60)
            running.cancel()

    asyncio.run(scenario())


def test_the_failure_of_a_turn_ends_the_run_and_no_turn_follows() -> None:
    async def scenario() -> None:
        turns: list[None] = []

        def fail() -> float:
            turns.append(None)
            raise ValueError("disk")

        cycles = Cycles(fail, tick_s=0.001)
        with pytest.raises(ValueError, match="disk"):
            await cycles.run()
        cycles.wake()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(turns) == 1

    asyncio.run(scenario())

"""Tasks side by side: the first to end decides, and a cancellation is never lost."""

import asyncio

import pytest

from federation.kernel.errors import UnavailableError, cause_of
from gateways.runtime.together import end, run_together


async def for_ever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise UnavailableError("gone")


def test_the_first_failure_ends_the_others_and_is_raised_as_it_is() -> None:
    async def scenario() -> None:
        with pytest.raises(UnavailableError, match="gone"):
            await run_together(for_ever(), fail(), for_ever())

    asyncio.run(scenario())


def test_a_part_that_simply_ends_ends_the_others() -> None:
    async def scenario() -> None:
        await run_together(for_ever(), asyncio.sleep(0))

    asyncio.run(scenario())


def test_a_part_that_is_cancelled_by_itself_ends_the_others() -> None:
    """As gRPC does to whoever reads a call that was cancelled on this side."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def scenario() -> None:
        async with asyncio.timeout(10):
            await run_together(for_ever(), cancelled())

    asyncio.run(scenario())


def test_a_cancellation_in_the_moment_of_a_failure_is_not_lost() -> None:
    """The loop around it must end although each turn fails."""

    async def scenario() -> None:
        trigger = asyncio.Event()

        async def fail_on_trigger() -> None:
            await trigger.wait()
            raise UnavailableError("gone")

        async def loop() -> None:
            while True:
                try:
                    await run_together(for_ever(), fail_on_trigger())
                except UnavailableError:
                    trigger.clear()

        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(loop())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            trigger.set()
            task.cancel()
        assert task.cancelled()

    asyncio.run(scenario())


def test_a_task_that_swallows_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateways.runtime.together.CANCEL_AGAIN_S", 0.01)

    async def stubborn() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            await for_ever()

    async def scenario() -> None:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(stubborn())
            await asyncio.sleep(0)
            await end(task)
            assert task.cancelled()

    asyncio.run(scenario())


def test_a_programming_error_explains_an_end_better_than_ours() -> None:
    bug = KeyError("bug")
    group = BaseExceptionGroup("", [UnavailableError("gone"), ExceptionGroup("", [bug])])
    assert cause_of(group) is bug

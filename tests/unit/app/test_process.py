"""Ending a process: by signal in order, by an error with that error alone."""

import asyncio
import os
import signal

import pytest

from federation.app.process import run_until_signal
from federation.kernel.errors import PreconditionError


async def _nested(error: Exception) -> None:
    async with asyncio.TaskGroup() as outer:
        outer.create_task(asyncio.Event().wait())
        async with asyncio.TaskGroup() as inner:
            inner.create_task(asyncio.Event().wait())
            raise error


@pytest.mark.parametrize("error", [PreconditionError("port is taken"), ValueError("a defect")])
def test_the_error_that_ends_a_process_comes_without_the_groups_around_it(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(run_until_signal(_nested(error)))


def test_a_defect_is_not_hidden_behind_an_error_of_ours() -> None:
    async def both() -> None:
        raise ExceptionGroup("both", [PreconditionError("ours"), ValueError("a defect")])

    with pytest.raises(ValueError, match="a defect"):
        asyncio.run(run_until_signal(both()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_and_waits_for_the_clean_up(number: signal.Signals) -> None:
    steps = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    asyncio.run(run_until_signal(main()))
    assert steps == ["cleaned up"]

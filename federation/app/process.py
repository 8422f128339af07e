"""Running a process until it is told to stop, without long pauses."""

import asyncio
import gc
import signal
from collections.abc import Coroutine

import structlog

from federation.kernel.errors import cause_of

_log = structlog.get_logger("process")


async def run_until_signal(main: Coroutine[object, object, None]) -> None:
    """Run `main` until it ends, or until SIGTERM or SIGINT, which cancels it and waits for its clean-up.

    Raises the one error because of which `main` ended, without the groups around it.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(main, name="main")

            def stop(number: signal.Signals) -> None:
                _log.info("stopping", signal=number.name)
                task.cancel()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop, number)
    except BaseExceptionGroup as group:
        raise cause_of(group) from group


def spare_what_lives() -> None:
    """Keep the garbage collector from what exists by now: modules, and the state that was loaded.

    A full collection looks at every object and stops every thread meanwhile, that of the log too: 40 ms for the
    modules of a controller alone. What is made later is collected as ever.
    """
    gc.collect()
    gc.freeze()

"""Running tasks side by side for somebody who goes on afterwards."""

import asyncio
from collections.abc import Coroutine

# A task that does not end when cancelled is cancelled again after this.
CANCEL_AGAIN_S = 1.0


async def run_together(*parts: Coroutine[object, object, None]) -> None:
    """Run `parts` until the first of them ends, end the others, and raise the error it ended with.

    For loops that try again. A plain TaskGroup will not do there: when a child fails in the moment in
    which the group's own task is cancelled, Python before 3.13 raises the failure and forgets the
    cancellation, so that a loop around it never ends. `Task.cancelling` does not tell either: it
    stays above zero after any child failed while its group was waiting for it.
    """
    over = asyncio.Event()
    errors: list[Exception] = []

    async def guarded(part: Coroutine[object, object, None]) -> None:
        try:
            await part
        except Exception as error:  # noqa: BLE001 - raised below, by whoever waits for it
            errors.append(error)
        finally:
            over.set()

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(guarded(part)) for part in parts]
        try:
            await over.wait()
        finally:
            for task in running:
                await end(task)
    if errors:
        raise errors[0]


async def end(task: asyncio.Task[None]) -> None:
    """Cancel `task` until it has ended; for one whose loop may lose a cancellation, as described above."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)

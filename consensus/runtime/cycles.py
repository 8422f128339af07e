"""When a member makes its next turn: soon after something happened, and at least at every tick."""

import asyncio
from collections.abc import Callable


class Cycles:
    """Belongs to one event loop, but for `wake_from_elsewhere`.

    Plain callbacks: a task that waits for an event with a timeout costs two more passes of the loop and
    a timer for each turn.
    """

    def __init__(self, turn: Callable[[], float], *, tick_s: float) -> None:
        """`turn` returns in how many seconds the next one has work although nothing happens, 0: it has already."""
        self._turn = turn
        self._tick_s = tick_s
        self._loop = asyncio.get_running_loop()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None  # Until a turn that comes before the tick.
        self._failure: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Make turns until cancelled; raises what a turn raises."""
        self._tick()
        try:
            await self._failure
        finally:
            self._failure.cancel()
            for timer in (self._timer, self._rest):
                if timer is not None:
                    timer.cancel()

    def wake(self) -> None:
        """Make a turn when everything has been handled that is known to have happened by now."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._make_turn)

    def wake_from_elsewhere(self) -> None:
        """Do so from any thread."""
        self._loop.call_soon_threadsafe(self._called)

    def _called(self) -> None:
        if not self._is_due:  # Else it is next anyway.
            self._make_turn()

    def _make_turn(self) -> None:
        self._is_due = False
        if self._failure.done():
            return
        try:
            rest_s = self._turn()
        except Exception as error:  # noqa: BLE001 # raised by `run`
            self._failure.set_exception(error)
            return
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if rest_s == 0:
            self.wake()
        elif rest_s < self._tick_s:
            self._rest = self._loop.call_later(rest_s, self._called)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        self.wake()

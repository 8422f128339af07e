"""Virtual time: an event loop that never waits, and members' clocks that drift from it."""

import asyncio
import itertools
import random
import selectors
from collections.abc import Mapping
from typing import Any

# Timers as close as this are called together. A run lasts some hundred seconds, of which a float knows 1e-13.
_RESOLUTION_S = 1e-12


class _NoWaiting(selectors.BaseSelector):
    """Moves the loop's clock where a real selector would wait."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen: every task waits and no timer is set")
        assert self.loop is not None
        self.loop.move(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class _NumberedTask(asyncio.Task[Any]):
    """A task that sets keep in the order of its making, not of its place in memory.

    Whoever cancels or wakes all tasks of a set does so in the set's order: in every process the same one.
    """

    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self._number = number  # Before the rest: the loop puts each new task into a set of all.
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing is left to do at the present instant."""

    def __init__(self) -> None:
        self.now_s = 0.0
        selector = _NoWaiting()
        super().__init__(selector)
        selector.loop = self
        self._clock_resolution = _RESOLUTION_S
        numbers = itertools.count()
        self.set_task_factory(
            lambda loop, coro, **kwargs: _NumberedTask(coro, loop=loop, number=next(numbers), **kwargs)
        )

    def time(self) -> float:
        return self.now_s

    def move(self, seconds: float) -> None:
        """Let so much time pass, and no timer be called before its time: who waits for it would wait again, for ever."""
        self.now_s += max(0.0, seconds)
        if self._scheduled and self._scheduled[0].when() < self.now_s + _RESOLUTION_S:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, self._scheduled[0].when())  # type: ignore[attr-defined]


class DriftingClock:
    """A member's clock: its own zero, its own speed, and time spent in the disk calls of this turn."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, *, drift: float) -> None:
        self._loop = loop
        self._rng = rng
        self._zero_s = rng.uniform(0, 100_000)
        self._speed = 1 + rng.uniform(-drift, drift)
        self.busy_s = 0.0

    def now_s(self) -> float:
        return self._zero_s + self._speed * (self._loop.now_s + self.busy_s)

    def fraction(self) -> float:
        return self._rng.random()

    def unix_ms(self) -> int:
        return int(self.now_s() * 1000)


class LibraryTime:
    """What pysyncobj takes for its monotonic clock: that of the member which is having its turn.

    The library calls one function of its module; `now_s` takes that function's place during a run.
    """

    def __init__(self) -> None:
        self.clock: DriftingClock | None = None

    def now_s(self) -> float:
        assert self.clock is not None, "the library runs in a member's turn only"
        return self.clock.now_s()

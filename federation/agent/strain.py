"""How late this process runs: who is late itself needs more failures before it misses others."""

import asyncio
from collections.abc import Callable

from discovery.core.opinion import strained


class Strain:
    """Grows with each late round and goes with each punctual one; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.value = 0

    def note(self, late_s: float) -> None:
        """Count a round that took so much longer than it should have."""
        self.value = strained(self.value, 1000 * late_s)

    async def sleep(self, pause_s: float) -> None:
        """Pause, and count how late it ended."""
        began_s = self._clock()
        await asyncio.sleep(pause_s)
        self.note(self._clock() - began_s - pause_s)

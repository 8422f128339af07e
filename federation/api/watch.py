"""Watches: every change of the catalog after a revision, once and in order (invariant C2)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from discovery.core.model import Change

WATCHES_MAX = 5_000

History = Callable[[int], Sequence[tuple[int, tuple[Change, ...]]]]


class WatchHub:
    """Wakes watches when the catalog has moved; each then reads the catalog's own bounded history.

    A slow watch costs nothing but its place: it finds the history compacted when it comes too late.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._moved = asyncio.Event()

    def notify(self) -> None:
        """The catalog has a newer revision. Called on the loop."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def changes(self, after_revision: int) -> AsyncIterator[tuple[int, tuple[Change, ...]]]:
        """Yield (revision, changes) from `after_revision` on, without end; raises CompactedError."""
        position = after_revision
        while True:
            moved = self._moved  # Taken before reading: what comes in between sets this very event.
            for revision, changes in self._history(position):
                position = revision
                yield revision, changes
            await moved.wait()

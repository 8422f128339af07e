"""Asks a source over and over in threads of its own, and hands on what it says."""

import threading
from collections.abc import Callable

FACTS_EVERY_S = 1.0
LOADS_EVERY_S = 0.25


class Collector:
    """Two threads, from `start` to `stop`: one looks at the federation, one reads the loads' files.

    They never start a process: the death signal of a laboratory's process follows the thread that started it.
    A look that takes long delays the next one; looks do not pile up.
    """

    def __init__(self, *, look: Callable[[], None], read: Callable[[], None]) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(step, every_s), name=f"view-{name}", daemon=True)
            for name, step, every_s in (("facts", look, FACTS_EVERY_S), ("loads", read, LOADS_EVERY_S))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; returns when nothing is asked any more, which takes as long as a look at most."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, step: Callable[[], None], every_s: float) -> None:
        while not self._stop.is_set():
            step()
            self._stop.wait(every_s)

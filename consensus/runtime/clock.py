"""The engine's time and chance: what an election depends on besides messages and the disk."""

import random
import time
from typing import Protocol


class Clock(Protocol):
    """One member's own clock; those of two members have nothing in common."""

    def now_s(self) -> float:
        """Return the time in seconds; it never goes back. Deadlines of the library are in it."""
        ...

    def fraction(self) -> float:
        """Return a random number of [0, 1)."""
        ...

    def unix_ms(self) -> int:
        """Return what its wall clock shows, right or wrong; nothing of Raft depends on it."""
        ...


class SystemClock:
    """The library's clock, which a stopped NTP daemon or an operator cannot move, and random numbers."""

    def now_s(self) -> float:
        """See the port."""
        # What pysyncobj.monotonic reads, without its two calls: a turn asks several times.
        return time.clock_gettime(time.CLOCK_MONOTONIC_RAW)

    def fraction(self) -> float:
        """See the port."""
        return random.random()  # noqa: S311 # election timeouts need to differ, not to be secret

    def unix_ms(self) -> int:
        """See the port."""
        return time.time_ns() // 1_000_000


SYSTEM_CLOCK = SystemClock()


def new_id(clock: Clock) -> int:
    """Return a number that nobody else has drawn, in all likelihood: 52 random bits."""
    return int(clock.fraction() * 2**52)

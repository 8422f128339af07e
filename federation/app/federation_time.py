"""Federation time, by which tokens expire: what a majority of the voters' clocks allow it to be.

The leader's own clock is one of them and counts no more than another's, so one that is a year off moves
nothing. What is proposed is still a `Tick`: every member applies the same.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from statistics import median_low

from discovery.core.leases import TICK_MS_MAX

# Somebody who leads ticks twice a second.
STALE_MS = 1_000
TICK_WAIT_S = 2.0
_POLL_S = 0.02


def confirmed_ms(clocks: Mapping[str, int], voters: Collection[str]) -> int | None:
    """Return the middle of the voters' clocks, the earlier of two; None while no majority's is known.

    It is later than the truth only if more than half of the known clocks are: of two, both.
    """
    known = [unix_ms for member, unix_ms in clocks.items() if member in voters]
    return median_low(known) if 2 * len(known) > len(voters) else None


class FederationClock:
    """What a leader proposes from tick to tick."""

    def __init__(self, steady_s: Callable[[], float]) -> None:
        """Store a clock that nobody can set, in seconds."""
        self._steady_s = steady_s
        self._ticked_s: float | None = None

    def next_ms(self, reached_ms: int, clocks: Mapping[str, int], voters: Collection[str]) -> int:
        """Return the time to propose; without a majority's clocks it goes on from `reached_ms` at its pace.

        So leases, which live by ticks, expire also while it cannot be known what time it is.
        """
        now_s = self._steady_s()
        passed_ms = 0 if self._ticked_s is None else int((now_s - self._ticked_s) * 1000)
        self._ticked_s = now_s
        confirmed = confirmed_ms(clocks, voters)
        return reached_ms + min(passed_ms, TICK_MS_MAX) if confirmed is None else confirmed


async def reached_ms(
    now_ms: Callable[[], int], *, clock_ms: Callable[[], int] = lambda: int(time.time() * 1000)
) -> int:
    """Return federation time, `now_ms`, behind the next tick if it may have stood still; 0 before the first of all.

    After a start it stands where the journal left it, perhaps long ago, until somebody leads: what was to live from there
    on would have expired with the first tick. Waits only where it is not what `clock_ms` of this machine shows, and for
    TICK_WAIT_S at most.
    """
    before_ms = now_ms()
    if abs(clock_ms() - before_ms) > STALE_MS:
        for _ in range(int(TICK_WAIT_S / _POLL_S)):
            if now_ms() != before_ms:
                break
            await asyncio.sleep(_POLL_S)
    return now_ms()

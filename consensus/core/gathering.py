"""When a leader under load appends what waits: many proposals share one append, one fdatasync and one round trip.

An append costs three members about two milliseconds of CPU, however many entries it has; an entry costs less
than a tenth of one. So the more a leader has to do, the less often it appends.
"""

GATHER_MS_MAX = 10
GATHER_MS_PER_ENTRY = 1
PROBE_AFTER = 16  # Appends, of which the last waits whether or not as many came as before.
PROBED_ENTRIES_MIN = 4


class Gathering:
    """Appends follow each other after 1 ms for each further entry of the last one, at most GATHER_MS_MAX.

    At once goes on who has nothing under way and as many waiting as last time: callers that write one after
    another have all come back, and nobody else will come. Whether more would have, shows when now and then
    one append waits in spite of that. After an append of one entry nothing ever waits.
    """

    def __init__(self) -> None:
        self._entries = 1  # Of the last append.
        self._until_s = 0.0
        self._since_probe = 0

    def took(self, entries: int, now_s: float) -> None:
        """Note that `entries` are appended now."""
        self._entries = entries
        self._until_s = now_s + min(GATHER_MS_MAX, (entries - 1) * GATHER_MS_PER_ENTRY) / 1000
        self._since_probe = 0 if self._since_probe >= PROBE_AFTER else self._since_probe + 1

    def rest_s(self, waiting: int, now_s: float, *, is_under_way: bool) -> float:
        """Return how long to wait for more than the `waiting`; 0: append them now.

        `is_under_way`: an append is not committed yet.
        """
        if waiting >= self._entries and not is_under_way and not self._is_probe:
            return 0.0
        return max(0.0, self._until_s - now_s)

    def wanted(self, waiting: int, *, is_under_way: bool) -> int | None:
        """Return how many more end the wait before its time, None when nothing but a commit does."""
        if is_under_way or self._is_probe:
            return None
        return max(1, self._entries - waiting)

    @property
    def _is_probe(self) -> bool:
        return self._since_probe >= PROBE_AFTER and self._entries >= PROBED_ENTRIES_MIN

"""Token buckets: how many changes may go now, and how long to wait for the rest.

    full --take--> fewer --time--> full again, `per_second` at a time

Pure: callers supply time, of any clock that does not run backwards.
"""


class Bucket:
    """Holds at most `burst` tokens; begins full. A bucket with new limits keeps what it had, up to its burst."""

    def __init__(self, *, per_second: int, burst: int, now_s: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._at_s = now_s

    def limit(self, *, per_second: int, burst: int, now_s: float) -> None:
        """Go on with other limits."""
        if (per_second, burst) == (self._per_second, self._burst):
            return
        self._fill(now_s)
        self._per_second, self._burst = per_second, burst
        self._tokens = min(self._tokens, float(burst))

    def wait_s(self, count: int, now_s: float) -> float:
        """Return how long to wait until `count` may go; 0: now. More than the burst waits for a full bucket."""
        self._fill(now_s)
        return max(0.0, min(count, self._burst) - self._tokens) / self._per_second

    def available(self, now_s: float) -> int:
        """Return how many may go now, 0 or more."""
        self._fill(now_s)
        return max(0, int(self._tokens))

    def take(self, count: int, now_s: float) -> None:
        """Use up tokens. What was taken beyond them has to be refilled first."""
        self._fill(now_s)
        self._tokens -= count

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        self._tokens = min(float(self._burst), self._tokens + passed_s * self._per_second)

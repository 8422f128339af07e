"""How long to wait before trying again: doubling, capped, and spread so that a crowd does not return at once."""

import random

FIRST_S = 0.2
CAP_S = 2.0


class Backoff:
    """Delays of one retried thing; `reset` after a success."""

    def __init__(self, *, first_s: float = FIRST_S, cap_s: float = CAP_S) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def delay_s(self) -> float:
        """Return how long to wait now: between half of the current step and all of it."""
        step_s = self._next_s
        self._next_s = min(step_s * 2, self._cap_s)
        return step_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """Begin again with the first step."""
        self._next_s = self._first_s

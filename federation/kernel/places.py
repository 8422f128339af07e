"""Places of one holder: whoever is let in by one certificate must not take the places of all others."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from federation.kernel.errors import LimitExceededError

# Streams of one process at once. It needs a few; those that a broken network left behind count until they are noticed.
STREAMS_EACH_MAX = 64


class Places:
    """Counts what each holder holds; bounded by those that hold something. One thread."""

    def __init__(self, *, each: int = STREAMS_EACH_MAX) -> None:
        self._each = each
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, holder: str) -> Iterator[None]:
        """Hold one place; raises `LimitExceededError` when the holder has as many as it may. "" is nobody, and not counted."""
        if not holder:
            yield
            return
        if self._held[holder] >= self._each:
            raise LimitExceededError(
                f"{holder} has {self._held[holder]} streams here, at most {self._each} are allowed"
            )
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

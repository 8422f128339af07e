"""What of a cluster may still go to the catalog while one of its limits stands against all of it together.

One row too many refuses a whole batch, and the batch after it. So the publisher counts here what there would be, and
leaves out what has no room: that is of one namespace, mostly, and the others must not wait for it. What grows goes
apart from what is new, in batches of which the catalog judges no growth. Pure; lives for one round of tries.
"""

from collections.abc import Iterable
from typing import Protocol

from discovery.core.model import EndpointKey
from discovery.core.quotas import BYTES_SLACK, Quota
from discovery.core.tables import Table
from discovery.core.usage import Measure, Place, Usage

_MEASURES: tuple[Measure, ...] = ("endpoints", "services", "bytes")


class Takes(Protocol):
    """Who says which rows may go with a batch."""

    def takes(self, key: bytes, ours: bytes | None, theirs: bytes | None) -> bool:
        """True when the row at `key` may go: `theirs` is what the catalog has there; None of either: no row."""


class Room:
    """Counts what a round of batches adds to a catalog of endpoints that has `usage`. Bounded by the rows that differ.

    What is taken away meanwhile makes no room before the next round.
    """

    def __init__(self, quota: Quota, usage: Usage) -> None:
        self.open = True  # To new rows; False: the catalog counts more than endpoints, and is full.
        self._quota = quota
        self._usage = Usage(usage)
        self._fits: dict[bytes, bool] = {}  # Each new row that was looked at.
        self._adds = False  # The batch has new rows.
        self._grown_bytes = 0  # By so much its other rows grow.

    def begin(self) -> None:
        """Begin a batch."""
        self._adds, self._grown_bytes = False, 0

    def takes(self, key: bytes, ours: bytes | None, theirs: bytes | None) -> bool:
        """True when the row at `key` may go with this batch: `theirs` is what the catalog has there."""
        if ours is None:
            return True
        if theirs is None:
            if not self.open or self._grown_bytes or not self._fit(key, ours):
                return False
            self._adds = True
            return True
        growth = len(ours) - len(theirs)
        if growth > 0 and (self._adds or self._grown_bytes + growth > BYTES_SLACK):
            return False
        self._grown_bytes += max(0, growth)
        return True

    def _fit(self, key: bytes, row: bytes) -> bool:
        known = self._fits.get(key)
        if known is None:
            known = self._fits[key] = self._count(key, row)
        return known

    def _count(self, key: bytes, row: bytes) -> bool:
        place = EndpointKey.decode(key)
        places = [
            Place(measure, place.cluster, namespace)
            for measure in _MEASURES
            for namespace in ("", place.namespace)
        ]
        before = [self._usage.count(*one) for one in places]
        size = len(key) + len(row)
        self._usage.note("endpoints", key, 1, size)
        for one, count in zip(places, before, strict=True):
            if count < self._usage.count(*one) > self._quota.limit(one)[0]:
                self._usage.note("endpoints", key, -1, -size)
                return False
        return True


def usage_of_other(usage: Usage, ours: Table, theirs: Table, differing: Iterable[bytes]) -> Usage:
    """Return the usage of the endpoints `theirs`, from that of `ours`, which differ from them at these keys at most."""
    other = Usage()
    other.take(usage)
    for key in differing:
        mine, there = ours.get(key), theirs.get(key)
        rows = (there is not None) - (mine is not None)
        size = len(there or b"") - len(mine or b"") + rows * len(key)
        if rows or size:
            other.note("endpoints", key, rows, size)
    return other

"""The newest changes of the catalog, from which watches and mirrors resume."""

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from discovery.core.model import Change
from federation.kernel.errors import CompactedError
from federation.kernel.limits import EVENTS_BYTES_MAX, EVENTS_KEPT_MAX

# Trimming to less than the bound makes it rare, and its cost small for each change.
EVENTS_KEPT_AFTER_TRIM = EVENTS_KEPT_MAX * 7 // 8
EVENTS_BYTES_AFTER_TRIM = EVENTS_BYTES_MAX * 7 // 8


ACTOR_CHARS_MAX = 200  # What is kept of one.


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What made one revision."""

    proposer: str  # The cluster whose controller proposed it.
    actor: str  # Who asked for it, as far as that controller said.
    now_ms: int  # Federation time.
    before: tuple[bytes | None, ...]  # The rows that its changes replaced, in their order.


class History:
    """At most `EVENTS_KEPT_MAX` changes of `EVENTS_BYTES_MAX` in all, by revision. One thread records, any thread reads.

    Readers take the list once and see a consistent part of it: recording only appends, trimming replaces
    the list.
    """

    def __init__(self, *, complete_after: int) -> None:
        self._entries: list[tuple[int, tuple[Change, ...]]] = []
        self._complete_after = complete_after  # Every change after this revision is here.
        self._causes: dict[int, Cause] = {}  # Of each entry, by its revision.
        self._count = 0
        self._size_bytes = 0

    @property
    def complete_after(self) -> int:
        """Every change after this revision is here."""
        return self._complete_after

    def cause(self, revision: int) -> Cause | None:
        """Return what made a revision, None if that is not kept any more. Safe from any thread."""
        return self._causes.get(revision)

    def record(self, revision: int, changes: tuple[Change, ...], cause: Cause | None = None) -> None:
        """Add the changes of the newest revision; the oldest revisions go when there are too many."""
        if cause is not None:
            self._causes[revision] = cause
        self._entries.append((revision, changes))
        self._count += len(changes)
        self._size_bytes += _size_bytes(changes, cause)
        if self._count <= EVENTS_KEPT_MAX and self._size_bytes <= EVENTS_BYTES_MAX:
            return
        drop = 0
        while drop < len(self._entries) and (
            self._count > EVENTS_KEPT_AFTER_TRIM or self._size_bytes > EVENTS_BYTES_AFTER_TRIM
        ):
            oldest, theirs = self._entries[drop]
            self._count -= len(theirs)
            self._size_bytes -= _size_bytes(theirs, self._causes.get(oldest))
            drop += 1
        # First what is promised, then what is there: a reader between the two is told to list again.
        self._complete_after = self._entries[drop - 1][0]
        for gone, _ in self._entries[:drop]:
            self._causes.pop(gone, None)
        self._entries = self._entries[drop:]

    def kept(self) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """Return all changes that are still here, oldest first."""
        return self._entries

    def after(self, revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """Return all changes after `revision`, oldest first; none if it is the newest, or newer.

        Raises `CompactedError` when some of them are gone.
        """
        entries = self._entries
        if revision < self._complete_after:
            raise CompactedError(f"history before revision {self._complete_after} is gone: list again")
        return entries[bisect_right(entries, revision, key=lambda entry: entry[0]) :]


def _size_bytes(changes: tuple[Change, ...], cause: Cause | None) -> int:
    rows = sum(len(change.key) + len(change.value or b"") for change in changes)
    return rows + sum(len(before or b"") for before in (cause.before if cause is not None else ()))

"""Has a member lost what it promised? The others remember, for its own disk cannot know.

An emptied or older directory, or a journal that lost its end cleanly, looks like a good one. Its
owner must not vote: it may have voted already, and may help to elect a leader that lacks what it
acknowledged. So each message says from which directory, and from which start of the process, it
comes, and what the directory held then; whoever remembers a greater promise of an earlier start of
the same directory knows better.

Pure. Costs a few dozen bytes for each member; the newest promises travel with heartbeats, so that
the death of the leader that got them does not lose them.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

RUNS_REMEMBERED = 8  # Starts of one member whose late messages are told from those of a new one.

Directory = Annotated[str, Meta(max_length=64)]
Count = Annotated[int, Meta(ge=0, lt=2**62)]
Verdict = Literal["current", "gone", "forgot"]


class Standing(Struct, frozen=True, kw_only=True, array_like=True):
    """A directory, a start of the process on it, and what the directory held then."""

    incarnation: Directory  # Empty: of a version that does not say.
    run: Count
    term: Count
    last_index: Count


UNSTATED = Standing(incarnation="", run=0, term=0, last_index=0)


class Promise(Struct, frozen=True, kw_only=True, array_like=True):
    """The greatest that `member` is known to have promised: a term it entered, a log it held in it."""

    member: Annotated[str, Meta(max_length=253)]
    incarnation: Directory
    run: Count
    term: Count
    index: Count


class PromiseTable:
    """What one member remembers of the others."""

    def __init__(self, promises: Iterable[Promise] = ()) -> None:
        self._known = {promise.member: promise for promise in promises}
        self._former: dict[str, tuple[int, ...]] = {}

    def judge(self, member: str, since: Standing) -> Verdict:
        """Return whether a message of `member` comes from a process that may be believed.

        `gone`: from a start before the present one. `forgot`: its directory lacks what it promised.
        """
        if not since.incarnation:
            return "current"
        known = self._known.get(member)
        if known is None:
            self._begin(member, since)
        elif (since.incarnation, since.run) != (known.incarnation, known.run):
            if since.run in self._former.get(member, ()):
                return "gone"
            is_same_directory = since.incarnation == known.incarnation
            if is_same_directory and (since.term, since.last_index) < (known.term, known.index):
                return "forgot"
            self._begin(member, since)
        return "current"

    def note(self, member: str, *, term: int, index: int) -> None:
        """Remember that the present process of `member` entered `term` and holds its log up to `index`."""
        known = self._known.get(member)
        if known is not None and (term, index) > (known.term, known.index):
            self._known[member] = Promise(
                member=member, incarnation=known.incarnation, run=known.run, term=term, index=index
            )

    def learn(self, promise: Promise) -> None:
        """Take another member's word for a promise."""
        since = Standing(
            incarnation=promise.incarnation, run=promise.run, term=promise.term, last_index=promise.index
        )
        if self.judge(promise.member, since) == "current":
            self.note(promise.member, term=promise.term, index=promise.index)

    def promise(self, member: str) -> Promise | None:
        """Return the greatest promise of `member`, None when it was never heard."""
        return self._known.get(member)

    def incarnation(self, member: str) -> str:
        """Return the directory that `member` was last heard from, empty when it was never heard."""
        known = self._known.get(member)
        return "" if known is None else known.incarnation

    def all(self) -> tuple[Promise, ...]:
        """Return every promise."""
        return tuple(self._known.values())

    def _begin(self, member: str, since: Standing) -> None:
        known = self._known.get(member)
        if known is not None:
            self._former[member] = (*self._former.get(member, ()), known.run)[-RUNS_REMEMBERED:]
        self._known[member] = Promise(
            member=member,
            incarnation=since.incarnation,
            run=since.run,
            term=since.term,
            index=since.last_index,
        )

"""Has a member lost what it promised? The others remember, for its own disk cannot know.

An emptied or older directory, or a journal that lost its end cleanly, looks like a good one. Its
owner must not vote: it may have voted already, and may help to elect a leader that lacks what it
acknowledged. So each message says from which directory, and from which start of the process, it
comes, and what the directory held then; whoever remembers a greater promise of an earlier start of
the same directory knows better.

Pure. Costs a few dozen bytes for each member; the newest promises travel with heartbeats, so that
the death of the leader that got them does not lose them. Nothing here depends on the order in which
messages arrive: what a start of the process promised is compared with what another start began on.
"""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

RUNS_REMEMBERED = 8  # Starts of one member whose promises are kept apart.

Directory = Annotated[str, Meta(max_length=64)]
Count = Annotated[int, Meta(ge=0, lt=2**62)]
Run = tuple[str, int]  # A directory, and a start of the process on it.


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
    """What one member remembers of the others: for each start of each, the greatest (term, index)."""

    def __init__(self, promises: Iterable[Promise] = ()) -> None:
        self._runs: dict[str, dict[Run, tuple[int, int]]] = {}
        for promise in promises:
            self.learn(promise)

    def broken(self, member: str, since: Standing) -> Promise | None:
        """Return the promise of another start that the directory of `since` does not hold, None if it holds all."""
        for (incarnation, run), (term, index) in self._runs.get(member, {}).items():
            is_another = incarnation == since.incarnation and run != since.run
            if is_another and (term, index) > (since.term, since.last_index):
                return Promise(member=member, incarnation=incarnation, run=run, term=term, index=index)
        return None

    def note(self, member: str, since: Standing, *, term: int = 0, index: int = 0) -> None:
        """Remember that `member`, since it stood there, entered `term` and holds its log up to `index`."""
        if since.incarnation:
            # Of what it began on only the term is a promise: a leader may cut back the rest of the log.
            self._keep(member, (since.incarnation, since.run), max((since.term, 0), (term, index)))

    def learn(self, promise: Promise) -> None:
        """Take another member's word for a promise."""
        self._keep(promise.member, (promise.incarnation, promise.run), (promise.term, promise.index))

    def newest(self) -> tuple[Promise, ...]:
        """Return the greatest promise of each member on the directory that it was heard from last."""
        found = []
        for member, runs in self._runs.items():
            directory = next(reversed(runs))[0]
            # Of equals the later start.
            promised, _order, run = max(
                (promised, order, run)
                for order, (run, promised) in enumerate(runs.items())
                if run[0] == directory
            )
            found.append(
                Promise(member=member, incarnation=run[0], run=run[1], term=promised[0], index=promised[1])
            )
        return tuple(found)

    def _keep(self, member: str, run: Run, promised: tuple[int, int]) -> None:
        runs = self._runs.setdefault(member, {})
        runs[run] = max(promised, runs.get(run, promised))
        if len(runs) > RUNS_REMEMBERED:
            del runs[next(iter(runs))]

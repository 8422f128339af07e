"""A follower's log meets a leader's: Raft's AppendEntries rules (Ongaro, figure 3.1)."""

from msgspec import Struct

from consensus.core.messages import Append, Appended
from consensus.core.promises import Standing
from consensus.runtime.journal import Journal
from federation.kernel.errors import CorruptError


class Match(Struct, frozen=True):
    """`is_match`: the log equals the leader's below `next_index`. Else the leader goes on from there."""

    is_match: bool
    next_index: int


class Freshness:
    """As of when the local state is complete: what a leader with a majority had committed then.

    The time that its message was under way is not known here.
    """

    def __init__(self) -> None:
        self._told: tuple[int, float] | None = None  # Committed by then, and when.
        self._reached_s: float | None = None

    def told(self, commit_index: int, as_of_s: float) -> None:
        """Note that everything committed at `as_of_s` was at or below `commit_index`."""
        self._told = (commit_index, as_of_s)

    def as_of_s(self, applied_index: int) -> float | None:
        """Return the newest time whose commits are applied, None while there is none."""
        if self._told is not None and applied_index >= self._told[0]:
            self._reached_s = self._told[1]
        return self._reached_s


class Acknowledgements:
    """What may be said once this cycle's entries are durable: one answer for each leader, the most that is true."""

    def __init__(self) -> None:
        self._answers: dict[str, Appended] = {}

    def put(self, leader: str, *, term: int, since: Standing, match: Match | None = None) -> None:
        """Answer `leader`, without `match` only that this member is alive."""
        is_match = match is not None and match.is_match
        next_index = 0 if match is None else match.next_index
        earlier = self._answers.get(leader)
        if (
            earlier is not None
            and (earlier.term, earlier.matched) == (term, True)
            and (not is_match or next_index < earlier.next_index)
        ):
            return
        self._answers[leader] = Appended(
            term=term,
            next_index=next_index,
            matched=is_match,
            mismatch=match is not None and not is_match,
            since=since,
        )

    def take(self, term: int) -> list[tuple[str, Appended]]:
        """Return the answers to send, durable by now.

        Who entered a newer term in this cycle owes a former leader nothing, and may not promise it.
        """
        answers, self._answers = self._answers, {}
        return [(leader, answer) for leader, answer in answers.items() if answer.term == term]


def follow_log(journal: Journal, message: Append) -> Match:
    """Append what the leader sent, in memory; raises CorruptError when it contradicts a committed entry.

    Only a real conflict removes entries: a late or repeated message must not remove what this
    member has acknowledged since.
    """
    entries = message.entries
    prev_index, prev_term = message.prev_index, message.prev_term
    if prev_index < journal.base.index:
        # Below the base everything is committed, hence equal to the leader's.
        entries = tuple(entry for entry in entries if entry.index > journal.base.index)
        prev_index, prev_term = journal.base.index, journal.base.term
    if journal.term_at(prev_index) != prev_term:
        return Match(is_match=False, next_index=_hint(journal, prev_index))
    for entry in entries:
        here = journal.term_at(entry.index)
        if here == entry.term:
            continue
        if here is not None:
            journal.truncate(entry.index)
        journal.append(entry)
    return Match(is_match=True, next_index=prev_index + len(entries) + 1)


def _hint(journal: Journal, prev_index: int) -> int:
    """Return from where the leader should go on: behind our end, or at the begin of the term that differs."""
    if prev_index > journal.last_index:
        return journal.last_index + 1
    if prev_index <= journal.commit_index:
        raise CorruptError(f"a leader contradicts committed entry {prev_index} of this member")
    term = journal.term_at(prev_index)
    while prev_index > journal.commit_index + 1 and journal.term_at(prev_index - 1) == term:
        prev_index -= 1
    return prev_index

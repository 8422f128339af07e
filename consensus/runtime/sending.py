"""A leader's appends to one follower: what it lacks, in pieces, or a heartbeat; and when it hears of a commit."""

from msgspec import Struct, field

from consensus.core.messages import APPEND_BYTES_MAX, Append
from consensus.core.promises import Promise
from consensus.core.records import Entry
from consensus.runtime.journal import Journal
from consensus.runtime.library import Wire
from consensus.runtime.proposer import Proposer

SEND_BACKLOG_BYTES = 1024 * 1024  # A follower with more than this unsent gets heartbeats only.

STREAM_S = 0.005  # An append within this time of the one before is likely to have a successor as soon.


def sooner(*rests_s: float | None) -> float | None:
    """Return the shortest of some times to wait, None when nobody waits."""
    return min((rest_s for rest_s in rests_s if rest_s is not None), default=None)


class News:
    """When followers are told of a commit: at once by a notice, or with the next append when one is about to leave.

    A notice costs each follower as much as an append, its fdatasync aside. While writes follow each other
    within STREAM_S, the news is at most that much older than the append which it is about.
    """

    def __init__(self) -> None:
        self.sent_index = 0  # Newest entry that was sent, or found in the log, at the last append to all.
        self.rest_s: float | None = None  # In how long a notice is due if no append leaves.
        self._told_index = 0
        self._appended_s = 0.0
        self._is_stream = False

    def sent(self, last_index: int, commit_index: int, now_s: float) -> None:
        """Note an append or heartbeat to all."""
        if last_index > self.sent_index:
            self._is_stream = now_s - self._appended_s < STREAM_S
            self._appended_s = now_s
        self.sent_index, self._told_index, self.rest_s = last_index, commit_index, None

    def is_due(self, commit_index: int, now_s: float, proposer: Proposer) -> bool:
        """Return whether a notice leaves now, and note that it does. A caller who waits at a follower hears at once."""
        self.rest_s = None
        if commit_index <= self._told_index:
            return False
        if not proposer.is_awaited(commit_index):
            if proposer.rest_s:
                return False  # An append leaves then, or the turn that finds nothing to append asks again.
            rest_s = self._appended_s + STREAM_S - now_s
            if self._is_stream and rest_s > 0:
                self.rest_s = rest_s
                return False
        self._told_index = commit_index
        return True


class Heartbeat(Struct, frozen=True, kw_only=True):
    """What every append of a leader says at one moment; followers that lack the same get the same message."""

    term: int
    commit_index: int
    promises: tuple[Promise, ...]
    quorum_age_ms: int
    is_notice: bool = False  # Nobody needs to answer unless there are entries.
    made: dict[int, Append] = field(default_factory=dict)  # With entries, by the index of the first.


def send_entries(
    wire: Wire, journal: Journal, member_id: str, next_index: int, heartbeat: Heartbeat, *, is_probe: bool
) -> int:
    """Send what follows from `next_index` on, at least a heartbeat; return where to go on.

    A probe asks only whether the follower holds the entry in front.
    """
    while True:
        with_entries = (
            not is_probe
            and next_index <= journal.last_index
            and wire.backlog_bytes(member_id) < SEND_BACKLOG_BYTES
        )
        message = heartbeat.made.get(next_index) if with_entries else None
        if message is None:
            message = _make(journal, next_index, heartbeat, with_entries=with_entries)
        if not wire.send(member_id, message) or not message.entries:
            return next_index
        heartbeat.made[next_index] = message
        next_index = message.entries[-1].index + 1
        if next_index > journal.last_index:
            return next_index


def _make(journal: Journal, next_index: int, heartbeat: Heartbeat, *, with_entries: bool) -> Append:
    prev_term = journal.term_at(next_index - 1)
    assert prev_term is not None, "the log reaches from its base to its end"
    entries: list[Entry] = []
    if with_entries:
        entries = journal.between(next_index, journal.last_index, bytes_max=APPEND_BYTES_MAX)
    return Append(
        term=heartbeat.term,
        commit_index=heartbeat.commit_index,
        prev_index=next_index - 1,
        prev_term=prev_term,
        entries=tuple(entries),
        promises=heartbeat.promises,
        quorum_age_ms=heartbeat.quorum_age_ms,
        is_notice=heartbeat.is_notice and not entries,
    )

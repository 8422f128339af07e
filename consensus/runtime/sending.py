"""A leader's appends to one follower: what it lacks, in pieces, or a heartbeat."""

from msgspec import Struct, field

from consensus.core.messages import APPEND_BYTES_MAX, Append
from consensus.core.promises import Promise
from consensus.core.records import Entry
from consensus.runtime.journal import Journal
from consensus.runtime.library import Wire

SEND_BACKLOG_BYTES = 1024 * 1024  # A follower with more than this unsent gets heartbeats only.


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

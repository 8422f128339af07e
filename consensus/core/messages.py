"""What members say to each other: length-prefixed MessagePack of the messages below.

    frame = length:u32 (little endian, of the payload) payload

Each Raft message carries its sender's term, so that a stale leader learns of a newer one from any
answer. The connection says who the sender is; no message may.
"""

import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from consensus.core.membership import KIND_MEMBERSHIP, KINDS, LEARNERS_MAX, VOTERS_MAX, decode_change
from consensus.core.promises import UNSTATED, Promise, Standing
from consensus.core.proposals import Kind
from consensus.core.records import Entry
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError
from federation.kernel.limits import COMMAND_BYTES_MAX, FRAME_BYTES_MAX

HELLO_BYTES_MAX = 4 * 1024
APPEND_BYTES_MAX = 1024 * 1024  # One append carries at most this much, plus one entry.
ENTRY_BYTES_MAX = (
    COMMAND_BYTES_MAX + 16 * 1024
)  # A membership entry lists addresses; the rest is the kind byte.
TIMEOUT_MS_MAX = 600_000
PROMISES_MAX = VOTERS_MAX + LEARNERS_MAX
LENGTH = struct.Struct("<I")

Count = Annotated[int, Meta(ge=0, lt=2**62)]
Name = Annotated[str, Meta(min_length=1, max_length=253)]


class Hello(Struct, frozen=True, kw_only=True, array_like=True, tag="hello"):
    """First frame in each direction."""

    federation: Annotated[str, Meta(max_length=253)]
    version: Count
    member: Name


class Ping(Struct, frozen=True, array_like=True, tag="ping"):
    """Keeps an idle connection from being taken for a dead one, and says what the sender's wall clock shows."""

    unix_ms: Count = 0  # 0: of a version that does not say.


class PreVote(Struct, frozen=True, kw_only=True, array_like=True, tag="prevote"):
    """Would you vote for me in `term`? Changes nothing at the receiver (Ongaro, section 9.6)."""

    round: Count
    term: Count
    last_index: Count
    last_term: Count
    since: Standing = UNSTATED


class PreVoteAnswer(Struct, frozen=True, kw_only=True, array_like=True, tag="prevoted"):
    """`term` is the sender's own: one that is behind adopts it, or two members could block each other."""

    round: Count
    granted: bool
    term: Count
    since: Standing = UNSTATED


class RequestVote(Struct, frozen=True, kw_only=True, array_like=True, tag="vote?"):
    """Raft's RequestVote. `called`: the leader itself asked for this election, to hand over."""

    term: Count
    last_index: Count
    last_term: Count
    called: bool = False
    since: Standing = UNSTATED


class VoteGranted(Struct, frozen=True, kw_only=True, array_like=True, tag="voted"):
    """A vote, durable at its sender."""

    term: Count
    since: Standing = UNSTATED


class TimeoutNow(Struct, frozen=True, kw_only=True, array_like=True, tag="now"):
    """The leader of `term` asks the receiver to campaign at once (Ongaro, section 3.10)."""

    term: Count


class Append(Struct, frozen=True, kw_only=True, array_like=True, tag="append"):
    """Raft's AppendEntries. `prev_index` 0 is a heartbeat that checks no log."""

    term: Count
    commit_index: Count
    prev_index: Count
    prev_term: Count
    entries: tuple[Entry, ...] = ()
    promises: Annotated[tuple[Promise, ...], Meta(max_length=PROMISES_MAX)] = ()
    quorum_age_ms: Count = 0  # How long ago a majority answered this leader.
    is_notice: bool = False  # Only tells the commit index: who holds the entry in front does not answer.


class Forgotten(Struct, frozen=True, kw_only=True, array_like=True, tag="forgotten"):
    """Directory `incarnation` promised `term` and `index` before process `run` began on less: it has no vote.

    Without `run` a late message of a process that is gone would cost the present one its vote.
    """

    incarnation: Name
    term: Count
    index: Count
    run: Count


class Appended(Struct, frozen=True, kw_only=True, array_like=True, tag="appended"):
    """Answer to Append and to a finished snapshot.

    `matched`: the sender durably holds the leader's log below `next_index`. `mismatch`: it lacks the
    entry in front; the leader goes on from `next_index`. Neither: it is alive.
    """

    term: Count
    next_index: Count
    matched: bool = False
    mismatch: bool = False
    since: Standing = UNSTATED


class SnapshotChunk(Struct, frozen=True, kw_only=True, array_like=True, tag="snapshot"):
    """A piece of the leader's snapshot file."""

    term: Count
    index: Count
    offset: Count
    total_bytes: Count
    data: bytes


class SnapshotProgress(Struct, frozen=True, kw_only=True, array_like=True, tag="snapshotted"):
    """The receiver has the first `offset` bytes of snapshot `index` and wants the rest."""

    term: Count
    index: Count
    offset: Count


class Propose(Struct, frozen=True, kw_only=True, array_like=True, tag="propose"):
    """A follower forwards a proposal."""

    request: Count
    kind: Kind
    body: Annotated[bytes, Meta(max_length=ENTRY_BYTES_MAX)]
    timeout_ms: Annotated[int, Meta(ge=1, le=TIMEOUT_MS_MAX)]


class Proposed(Struct, frozen=True, kw_only=True, array_like=True, tag="proposed"):
    """The leader appended the proposal; whether it commits shows in the log. Index 0: nothing to do."""

    request: Count
    index: Count
    term: Count


class Refused(Struct, frozen=True, kw_only=True, array_like=True, tag="refused"):
    """The leader did not append the proposal; `code` is federation.kernel.errors.Code."""

    request: Count
    code: Count
    message: Annotated[str, Meta(max_length=2_000)]


Message = (
    Hello
    | Ping
    | PreVote
    | PreVoteAnswer
    | RequestVote
    | VoteGranted
    | TimeoutNow
    | Append
    | Appended
    | Forgotten
    | SnapshotChunk
    | SnapshotProgress
    | Propose
    | Proposed
    | Refused
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode_frame(message: Message) -> bytes:
    """Return `message` with its length in front."""
    payload = _encoder.encode(message)
    assert len(payload) <= FRAME_BYTES_MAX, "batches are cut to fit a frame"
    return LENGTH.pack(len(payload)) + payload


def decode_payload(payload: bytes) -> Message:
    """Return the message in a frame's payload; raises InvalidInputError for anything malformed."""
    try:
        message: Message = _decoder.decode(payload)
    except MALFORMED as error:
        raise InvalidInputError(f"frame of {len(payload)} bytes is not a message: {error}") from error
    if isinstance(message, Append):
        _check_entries(message)
    return message


def _check_entries(message: Append) -> None:
    """Refuse entries that no leader of ours writes: gaps, falling terms, unknown kinds, too long."""
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        if entry.index != index + 1 or not term <= entry.term <= message.term:
            raise InvalidInputError(
                f"entry {entry.index} of term {entry.term} follows entry {index} of term {term}"
                f" in an append of term {message.term}"
            )
        if entry.command[:1] not in KINDS or len(entry.command) > ENTRY_BYTES_MAX:
            raise InvalidInputError(
                f"entry {entry.index} has kind {entry.command[:1]!r} and {len(entry.command)} bytes, expected one of"
                f" {len(KINDS)} kinds and at most {ENTRY_BYTES_MAX} bytes"
            )
        if entry.command[:1] == KIND_MEMBERSHIP:
            decode_change(entry.command)
        index, term = entry.index, entry.term

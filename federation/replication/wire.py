"""Codec of the replication messages, which rows followers may have, and how lists are cut into messages."""

from collections.abc import Iterable, Iterator

import msgspec

from discovery.core.model import Change, TableName
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError
from federation.replication.messages import ROWS_PER_MESSAGE_MAX, FollowAnswer, FollowRequest, HoldRequest

# With the largest row (RESOURCE_BYTES_MAX) on top this stays far below gRPC's own limit of 4 MiB.
MESSAGE_BYTES_MAX = 1024 * 1024

# Kinds that stay in the controllers: a token's digest helps nobody else, and its claims are not theirs to see.
HIDDEN_KINDS = frozenset({"JoinToken"})
_HIDDEN = frozenset(kind.encode() for kind in HIDDEN_KINDS)

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(FollowRequest)
_hold_decoder = msgspec.msgpack.Decoder(HoldRequest)
_answer_decoder: msgspec.msgpack.Decoder[FollowAnswer] = msgspec.msgpack.Decoder(FollowAnswer)


def encode(message: FollowRequest | HoldRequest | FollowAnswer) -> bytes:
    """Return the message's bytes."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> FollowRequest:
    """Read a request; raises `InvalidInputError` on anything else."""
    try:
        return _request_decoder.decode(data)
    except MALFORMED as error:
        raise InvalidInputError(f"follow request: {error}") from error


def decode_hold(data: bytes) -> HoldRequest:
    """Read what a follower holds; raises `InvalidInputError` on anything else."""
    try:
        return _hold_decoder.decode(data)
    except MALFORMED as error:
        raise InvalidInputError(f"hold request: {error}") from error


def decode_answer(data: bytes) -> FollowAnswer:
    """Read an answer; raises `InvalidInputError` on anything else."""
    try:
        return _answer_decoder.decode(data)
    except MALFORMED as error:
        raise InvalidInputError(f"follow answer: {error}") from error


def hidden(table: TableName, key: bytes) -> bool:
    """Return whether a row stays in the controllers."""
    if table != "resources":
        return False
    parts = key.split(b"\0", 2)  # Scope, kind, the rest: see `ResourceKey`.
    return len(parts) > 1 and parts[1] in _HIDDEN


def shown(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Return the changes that followers get."""
    return tuple(change for change in changes if not hidden(change.table, change.key))


def chunks(changes: Iterable[Change]) -> Iterator[tuple[Change, ...]]:
    """Cut a list into parts of at most ROWS_PER_MESSAGE_MAX rows and about MESSAGE_BYTES_MAX bytes."""
    part: list[Change] = []
    size_bytes = 0
    for change in changes:
        part.append(change)
        size_bytes += len(change.key) + len(change.value or b"")
        if len(part) >= ROWS_PER_MESSAGE_MAX or size_bytes >= MESSAGE_BYTES_MAX:
            yield tuple(part)
            part, size_bytes = [], 0
    if part:
        yield tuple(part)

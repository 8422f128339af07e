"""Who votes, and the log entries that change it.

A change takes effect on each member when it applies the committed entry, as in etcd's raft; one
is pending at a time, so that each majority overlaps the next one. The entry carries the whole
resulting list: a member that joined later and does not know the founding list still ends exact.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from consensus.core.contract import MemberAddress
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)

VOTERS_MAX = 9

# The first byte of every log entry. pysyncobj writes 0x01 itself when a leader is elected.
KIND_COMMAND = b"\x00"
KIND_NOOP = b"\x01"
KIND_MEMBERSHIP = b"\x10"
KINDS = frozenset({KIND_COMMAND, KIND_NOOP, KIND_MEMBERSHIP})

Voters = tuple[MemberAddress, ...]


class MembershipChange(Struct, frozen=True, kw_only=True, array_like=True):
    """One added or removed voter, and all voters after it."""

    op: Literal["add", "remove"]
    member: MemberAddress
    voters: Voters


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(MembershipChange)


def encode_change(change: MembershipChange) -> bytes:
    """Return `change` as a log entry."""
    return KIND_MEMBERSHIP + _encoder.encode(change)


def decode_change(entry: bytes) -> MembershipChange:
    """Return the change in a KIND_MEMBERSHIP entry; raises InvalidInputError."""
    try:
        change = _decoder.decode(memoryview(entry)[1:])
    except MALFORMED as error:
        raise InvalidInputError(f"log entry is not a membership change: {error}") from error
    if not 1 <= len(change.voters) <= VOTERS_MAX:
        raise InvalidInputError(
            f"membership change names {len(change.voters)} voters, expected 1 to {VOTERS_MAX}"
        )
    return change


def encode_member(member: MemberAddress) -> bytes:
    """Return `member` as the body of a proposal to add it."""
    return _encoder.encode(member)


def decode_member(body: bytes) -> MemberAddress:
    """Return the member to add; raises InvalidInputError."""
    try:
        return msgspec.msgpack.decode(body, type=MemberAddress)
    except MALFORMED as error:
        raise InvalidInputError(f"proposal does not name a member to add: {error}") from error


def voter_ids(voters: Voters) -> tuple[str, ...]:
    """Return the ids of `voters` in their order."""
    return tuple(member.id for member in voters)


def added(voters: Voters, member: MemberAddress) -> MembershipChange | None:
    """Return the change that gives `member` a vote, None if it has it already; raises IsthmusError."""
    for voter in voters:
        if voter == member:
            return None
        if voter.id == member.id:
            raise AlreadyExistsError(
                f"member {member.id} votes already, as {voter.address} with {voter.identity}"
            )
        if voter.address == member.address or voter.identity == member.identity:
            raise AlreadyExistsError(f"address or identity of {member.id} belongs to member {voter.id}")
    if len(voters) >= VOTERS_MAX:
        raise PreconditionError(
            f"cannot add {member.id}: {VOTERS_MAX} members vote already, which is the most"
        )
    return MembershipChange(op="add", member=member, voters=(*voters, member))


def removed(voters: Voters, member_id: str) -> MembershipChange:
    """Return the change that takes the vote of `member_id`; raises IsthmusError."""
    member = next((voter for voter in voters if voter.id == member_id), None)
    if member is None:
        raise NotFoundError(f"no member {member_id} votes: expected one of {', '.join(voter_ids(voters))}")
    if len(voters) == 1:
        raise PreconditionError(f"cannot remove {member_id}: it is the only member that votes")
    return MembershipChange(op="remove", member=member, voters=tuple(v for v in voters if v.id != member_id))


def check_voters(voters: Voters) -> Voters:
    """Return `voters` if each id, address and identity is its own; raises InvalidInputError."""
    for name, values in (
        ("id", voter_ids(voters)),
        ("address", tuple(v.address for v in voters)),
        ("identity", tuple(v.identity for v in voters)),
    ):
        if len(set(values)) != len(values) or not all(values):
            raise InvalidInputError(
                f"bootstrap members need distinct, non-empty {name}s, not {', '.join(values)}"
            )
    if not 1 <= len(voters) <= VOTERS_MAX:
        raise InvalidInputError(f"bootstrap names {len(voters)} members, expected 1 to {VOTERS_MAX}")
    return voters

"""Who votes, and the log entries that change it.

A change takes effect on each member when it applies the committed entry, as in etcd's raft; one
is pending at a time, so that each majority overlaps the next one. The entry carries the whole
resulting list: a member that joined later and does not know the founding list still ends exact.

    stranger --learner--> learner --add--> voter --remove--> stranger
                             ^---demote------'

A vote belongs to a directory, not to a name: a member whose directory was emptied or forgot what it
had promised (consensus.core.promises) comes back as a learner.
"""

from collections.abc import Mapping
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
LEARNERS_MAX = 9

# The first byte of every log entry. pysyncobj writes 0x01 itself when a leader is elected.
KIND_COMMAND = b"\x00"
KIND_NOOP = b"\x01"
KIND_MEMBERSHIP = b"\x10"
KINDS = frozenset({KIND_COMMAND, KIND_NOOP, KIND_MEMBERSHIP})

Voters = tuple[MemberAddress, ...]


class Membership(Struct, frozen=True, kw_only=True, array_like=True):
    """Who votes, and who gets the log without a vote."""

    voters: Voters
    learners: Voters = ()
    # (member, directory) of the voters whose directory is known; those of a founding are soon.
    incarnations: tuple[tuple[str, str], ...] = ()

    def incarnation(self, member_id: str) -> str:
        """Return the directory that the vote of `member_id` belongs to, empty when it is not known."""
        return next((directory for member, directory in self.incarnations if member == member_id), "")


class MembershipChange(Struct, frozen=True, kw_only=True, array_like=True):
    """One member that gets or loses its vote or its place as a learner, and all of them after it."""

    op: Literal["add", "remove", "learner", "demote", "know"]
    member: MemberAddress
    voters: Voters
    learners: Voters = ()
    incarnations: tuple[tuple[str, str], ...] = ()

    @property
    def membership(self) -> Membership:
        """What is in force once this is applied."""
        return Membership(voters=self.voters, learners=self.learners, incarnations=self.incarnations)


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
    if len(change.learners) > LEARNERS_MAX:
        raise InvalidInputError(
            f"membership change names {len(change.learners)} learners, expected at most {LEARNERS_MAX}"
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


def added(membership: Membership, member: MemberAddress, incarnation: str = "") -> MembershipChange | None:
    """Return the change that gives `member` a vote, None if it has it already; raises IsthmusError.

    `incarnation` is the directory that the vote will belong to.
    """
    if member in membership.voters:
        return None
    _check_distinct(membership, member)
    if len(membership.voters) >= VOTERS_MAX:
        raise PreconditionError(
            f"cannot add {member.id}: {VOTERS_MAX} members vote already, which is the most"
        )
    return MembershipChange(
        op="add",
        member=member,
        voters=(*membership.voters, member),
        learners=_without(membership.learners, member.id),
        incarnations=_with(membership.incarnations, member.id, incarnation),
    )


def learning(membership: Membership, member: MemberAddress) -> MembershipChange | None:
    """Return the change that makes `member` a learner, None if it is one; raises IsthmusError."""
    if member in membership.learners:
        return None
    _check_distinct(membership, member)
    if member in membership.voters:
        raise AlreadyExistsError(f"member {member.id} votes already")
    if len(membership.learners) >= LEARNERS_MAX:
        raise PreconditionError(
            f"cannot add {member.id}: there are {LEARNERS_MAX} learners already, which is the most"
        )
    return MembershipChange(
        op="learner",
        member=member,
        voters=membership.voters,
        learners=(*membership.learners, member),
        incarnations=membership.incarnations,
    )


def promoted(membership: Membership, member_id: str, incarnation: str = "") -> MembershipChange | None:
    """Return the change that gives a learner its vote, None if it votes already; raises IsthmusError."""
    if member_id in voter_ids(membership.voters):
        return None
    member = next((learner for learner in membership.learners if learner.id == member_id), None)
    if member is None:
        names = ", ".join(voter_ids(membership.learners)) or "none"
        raise NotFoundError(f"no member {member_id} is a learner: expected one of {names}")
    return added(membership, member, incarnation)


def demoted(membership: Membership, member_id: str) -> MembershipChange:
    """Return the change that leaves a voter the log without a vote: its directory forgot a promise."""
    member = next(voter for voter in membership.voters if voter.id == member_id)
    has_place = len(membership.learners) < LEARNERS_MAX
    return MembershipChange(
        op="demote",
        member=member,
        voters=_without(membership.voters, member_id),
        learners=(*membership.learners, member) if has_place else membership.learners,
        incarnations=_with(membership.incarnations, member_id, ""),
    )


def known(membership: Membership, me: MemberAddress, found: Mapping[str, str]) -> MembershipChange:
    """Return the change by which leader `me` writes down the directories of founding voters."""
    incarnations = membership.incarnations
    for member_id, incarnation in sorted(found.items()):
        incarnations = _with(incarnations, member_id, incarnation)
    return MembershipChange(
        op="know",
        member=me,
        voters=membership.voters,
        learners=membership.learners,
        incarnations=incarnations,
    )


def removed(membership: Membership, member_id: str) -> MembershipChange:
    """Return the change that takes the vote, or the learner's place, of `member_id`; raises IsthmusError."""
    everybody = (*membership.voters, *membership.learners)
    member = next((member for member in everybody if member.id == member_id), None)
    if member is None:
        raise NotFoundError(
            f"no member {member_id} votes or learns: expected one of {', '.join(voter_ids(everybody))}"
        )
    if membership.voters == (member,):
        raise PreconditionError(f"cannot remove {member_id}: it is the only member that votes")
    return MembershipChange(
        op="remove",
        member=member,
        voters=_without(membership.voters, member_id),
        learners=_without(membership.learners, member_id),
        incarnations=_with(membership.incarnations, member_id, ""),
    )


def _with(
    incarnations: tuple[tuple[str, str], ...], member_id: str, incarnation: str
) -> tuple[tuple[str, str], ...]:
    others = tuple(pair for pair in incarnations if pair[0] != member_id)
    return (*others, (member_id, incarnation)) if incarnation else others


def _check_distinct(membership: Membership, member: MemberAddress) -> None:
    """Refuse a member that another one could be taken for."""
    for other in (*membership.voters, *membership.learners):
        if other == member:
            continue
        if other.id == member.id:
            raise AlreadyExistsError(
                f"member {member.id} exists already, as {other.address} with {other.identity}"
            )
        if other.address == member.address or other.identity == member.identity:
            raise AlreadyExistsError(f"address or identity of {member.id} belongs to member {other.id}")


def _without(members: Voters, member_id: str) -> Voters:
    return tuple(member for member in members if member.id != member_id)


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

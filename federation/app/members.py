"""Who votes: what an operator wants stands in the catalog, and the log's membership follows.

    unknown --add--> learner --promote--> voter --remove--> removed --add--> learner

A controller that joined and of which nobody said anything becomes a voter as soon as it has caught up
(federation/app/duties.py). The catalog is written first, so that the leader does not undo a change before
it is made, and so that one that was cut short is finished by whoever leads.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import msgspec
import structlog

from consensus.core.contract import MemberAddress, Status
from discovery.core.catalog import Catalog
from discovery.core.commands import Put
from discovery.core.kinds import decode_spec
from discovery.core.model import ResourceKey
from discovery.core.specs import MemberSpec, Standing
from federation.agent.directory import DirectoryStore
from federation.api.health import Facts
from federation.api.proposer import Proposer
from federation.app.raft import member_address
from federation.kernel.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from federation.kernel.names import check_label

CHANGE_TIMEOUT_MS = 8_000

Action = Literal["add", "promote", "remove", "transfer"]

_log = structlog.get_logger("members")


class Engine(Protocol):
    """What is asked of the engine; see consensus/core/contract.py."""

    def status(self) -> Status:
        """Its own view."""
        ...

    async def add_learner(self, member: MemberAddress, *, timeout_ms: int) -> None:
        """Let a member have the log without a vote."""
        ...

    async def add_member(self, member: MemberAddress, *, timeout_ms: int) -> None:
        """Give a vote."""
        ...

    async def remove_member(self, member_id: str, *, timeout_ms: int) -> None:
        """Take a vote, or a learner's place."""
        ...

    async def transfer_leadership(self, member_id: str, *, timeout_ms: int) -> None:
        """Make a voter lead."""
        ...


class MemberDesk:
    """Changes of the members, one at a time; every refusal says what to do instead."""

    def __init__(
        self,
        *,
        engine: Engine,
        proposer: Proposer,
        catalog: Catalog,
        directory: DirectoryStore,
        facts: Callable[[], Awaitable[Facts]],
    ) -> None:
        self._engine = engine
        self._proposer = proposer
        self._catalog = catalog
        self._directory = directory
        self._facts = facts

    async def change(self, action: str, member_id: str) -> str:
        """Do what an operator asked for and return what was done.

        Raises UnavailableError without a leader, PreconditionError while another change is pending and when
        the members that would be left could not decide anything.
        """
        check_label(member_id, "member")
        await self._proposer.barrier()
        match action:
            case "add":
                return await self._add(member_id)
            case "promote":
                return await self._promote(member_id)
            case "remove":
                return await self._remove(member_id)
            case "transfer":
                return await self._transfer(member_id)
            case _:
                raise InvalidInputError(
                    f"{action!r} is no change of a member: expected add, promote, remove or transfer"
                )

    async def _add(self, member_id: str) -> str:
        if member_id in self._engine.status().members:
            raise AlreadyExistsError(f"member {member_id} votes already: isthmus member list shows all")
        address = self._address(member_id)
        await self._want(member_id, "learner")
        if address is None:
            return f"{member_id} becomes a learner when it has joined: isthmus token create --cluster {member_id}"
        await self._make(
            lambda left_ms: self._engine.add_learner(address, timeout_ms=left_ms),
            lambda: member_id in self._engine.status().learners,
        )
        return f"{member_id} is a learner: isthmus member promote {member_id} gives it a vote when it has caught up"

    async def _promote(self, member_id: str) -> str:
        address = self._address(member_id)
        if address is None:
            raise NotFoundError(
                f"{member_id} has no controller in this federation: it must join first,"
                f" with isthmus token create --cluster {member_id}"
            )
        if self._standing(member_id) == "removed":
            raise PreconditionError(
                f"{member_id} was removed: isthmus member add {member_id} makes it a learner first"
            )
        await self._repeated(lambda left_ms: self._engine.add_member(address, timeout_ms=left_ms))
        await self._want(member_id, "voter")
        return f"{member_id} votes"

    async def _remove(self, member_id: str) -> str:
        status = self._engine.status()
        if member_id not in status.members and self._address(member_id) is None:
            known = ", ".join((*status.members, *status.learners))
            raise NotFoundError(f"no member {member_id}: expected one of {known}")
        if member_id in status.members:
            facts = await self._facts()
            check_removal(facts, member_id)
            if member_id == status.leader:
                await self._transfer(successor(facts))
        before = self._standing(member_id)
        await self._want(member_id, "removed")
        try:
            await self._make(
                lambda left_ms: self._engine.remove_member(member_id, timeout_ms=left_ms),
                lambda: not self._has_place(member_id),
            )
        except NotFoundError:
            _log.info("member_had_no_place", member=member_id)
        except PreconditionError:
            await self._want(member_id, before)
            raise
        return f"{member_id} has no vote and gets the log no longer: stop its controller"

    async def _transfer(self, member_id: str) -> str:
        await self._repeated(lambda left_ms: self._engine.transfer_leadership(member_id, timeout_ms=left_ms))
        return f"{member_id} leads"

    async def _repeated(self, change: Callable[[int], Awaitable[None]]) -> None:
        """Ask again while nobody leads, or while this member names a leader that leads no longer."""
        await self._proposer.repeated(change, CHANGE_TIMEOUT_MS)

    async def _make(self, change: Callable[[int], Awaitable[None]], is_made: Callable[[], bool]) -> None:
        """Make a change that is wanted already: the leader may be about to make the same by itself (`LeaderDuties`).

        Then there is another one pending, behind which the barrier looks.
        """
        try:
            await self._repeated(change)
        except PreconditionError:
            await self._proposer.barrier()
            if not is_made():
                raise

    def _has_place(self, member_id: str) -> bool:
        status = self._engine.status()
        return member_id in status.members or member_id in status.learners

    async def _want(self, member_id: str, standing: Standing) -> None:
        if self._standing(member_id) != standing:
            spec = msgspec.json.encode(MemberSpec(standing=standing))
            await self._proposer.write(Put(key=_key(member_id), spec=spec))

    def _standing(self, member_id: str) -> Standing:
        row = self._catalog.tables.resource(_key(member_id))
        if row is None:
            return "voter"
        spec = decode_spec("Member", row.spec, where=str(row.key))
        assert isinstance(spec, MemberSpec)
        return spec.standing

    def _address(self, member_id: str) -> MemberAddress | None:
        controllers = self._directory.current.controllers
        return next(
            (member_address(one) for one in controllers if one.spec.cluster == member_id and one.spec.raft),
            None,
        )


def check_removal(facts: Facts, member_id: str) -> None:
    """Raise PreconditionError if the voters that would be left could not decide anything without `member_id`."""
    if not facts.has_leader:
        raise UnavailableError(
            "no leader: members change by a majority of them; if most are lost for ever,"
            " see docs/how-to/recover-from-lost-quorum.md"
        )
    left = [voter for voter in facts.voters if voter != member_id]
    if not left:
        raise PreconditionError(f"{member_id} is the only member: add another one first")
    heard = [voter for voter in left if facts.is_heard(voter)]
    needed = len(left) // 2 + 1
    if len(heard) < needed:
        away = ", ".join(voter for voter in left if voter not in heard)
        raise PreconditionError(
            f"without {member_id} {len(left)} members would be left, of which {len(heard)} answer and {needed} are"
            f" needed: remove those that are away first ({away}), or start them"
        )


def successor(facts: Facts) -> str:
    """Return the voter that a leader should hand over to: one that is heard and has the most of the log.

    A witness only where there is nobody else: it answers no operator.
    """
    leader = facts.leader
    if leader is None:  # A witness leads, and does not say what it knows.
        matches = {
            one.id: one.health.last_index
            for one in facts.members
            if one.health is not None and one.id in facts.voters and one.id != facts.leader_id
        }
    else:
        matches = {
            peer.id: peer.match_index for peer in leader.peers if peer.is_voter and facts.is_heard(peer.id)
        }
    if not matches:
        raise PreconditionError("no other member answers the leader: nobody could take over")
    witnesses = {one.id for one in facts.members if one.is_witness}
    return max(matches, key=lambda member_id: (member_id not in witnesses, matches[member_id], member_id))


def _key(member_id: str) -> ResourceKey:
    return ResourceKey("", "Member", "", member_id)

"""A leader's changes of who votes, learns and leads: one at a time, each when it is safe.

What is not safe yet waits for it within its caller's time: a member that is not connected, a log
that is not copied, an election that is not finished.
"""

from collections.abc import Callable
from typing import Protocol

import structlog

from consensus.core.contract import Applied
from consensus.core.membership import (
    MembershipChange,
    added,
    decode_member,
    demoted,
    encode_change,
    known,
    learning,
    promoted,
    removed,
    voter_ids,
)
from consensus.core.messages import TimeoutNow
from consensus.core.proposals import Kind, Proposal, finish
from consensus.core.timing import Timing
from consensus.runtime.library import Wire
from consensus.runtime.replicas import Replica, answering
from consensus.runtime.store import Store
from federation.kernel.errors import IsthmusError, NotFoundError, PreconditionError, UnavailableError

CAUGHT_UP_ENTRIES = 128  # A member that lacks more than this gets no vote yet.
_log = structlog.get_logger(__name__)

KINDS: frozenset[Kind] = frozenset({"add", "remove", "learner", "promote", "transfer"})


class Leadership(Protocol):
    """What a change must know of the Raft state."""

    @property
    def is_leader(self) -> bool:
        """True while this member believes that it leads."""
        ...

    @property
    def has_finished_election(self) -> bool:
        """True when the no-op of this leadership is applied, and with it every change before."""
        ...

    @property
    def leader_id(self) -> str | None:
        """The leader that this member knows of."""
        ...

    @property
    def term(self) -> int:
        """The current term."""
        ...

    @property
    def commit_index(self) -> int:
        """Newest entry known to be committed."""
        ...

    def incarnation(self, member_id: str) -> str:
        """Return the directory that a member works on, empty when it is not known."""
        ...

    def replicas(self) -> list[Replica]:
        """Return the other copies of the log as a leader knows them."""
        ...


class Changes:
    """Belongs to the engine's thread; `append` adds an entry for the proposals that wait for it."""

    def __init__(
        self,
        me: str,
        *,
        store: Store,
        wire: Wire,
        timing: Timing,
        append: Callable[[list[Proposal], bytes, int], None],
    ) -> None:
        self._me = me
        self._store = store
        self._journal = store.journal
        self._wire = wire
        self._timing = timing
        self._append = append
        self._waiting: list[Proposal] = []
        self._pending_index = 0  # The entry of the newest change.
        self._is_own_change = False
        self._now_s = 0.0  # Of this turn.
        self._successor: str | None = None  # Who is to lead next.
        self._successor_until_s = 0.0
        self._called_s = 0.0  # When the successor was last called.

    @property
    def is_handing_over(self) -> bool:
        """True while this leader waits for its successor, and appends nothing."""
        return self._successor is not None

    def take(self, group: list[Proposal]) -> None:
        """Keep changes until they can be made or their time is over."""
        self._waiting += group

    def turn(self, raft: Leadership, now_s: float) -> None:
        """Make the first change that may be made, and call the successor when its log is complete."""
        self._now_s = now_s
        if self._waiting:
            self._try_all(raft, now_s)
        if raft.is_leader and self._may_change(raft):
            self._correct_incarnations(raft)
        if self._successor is not None:
            self._hand_over(raft, now_s)

    def _try_all(self, raft: Leadership, now_s: float) -> None:
        waiting, self._waiting = self._waiting, []
        for proposal in waiting:
            if proposal.is_finished:
                continue
            if not raft.is_leader:
                finish(proposal, UnavailableError(f"member {self._me} leads no longer"))
                continue
            try:
                obstacle = self._try(proposal, raft, now_s)
            except IsthmusError as error:
                finish(proposal, error)
                continue
            if obstacle and now_s < proposal.deadline_s:
                self._waiting.append(proposal)
            elif obstacle:
                finish(proposal, PreconditionError(obstacle))

    def _try(self, proposal: Proposal, raft: Leadership, now_s: float) -> str:
        """Begin the change and return nothing, or return what it still waits for; raises IsthmusError."""
        if not raft.has_finished_election:
            return f"leader {self._me} has not finished its election"
        if self._store.applied_index < self._pending_index:
            if self._is_own_change:
                return f"leader {self._me} is correcting the members"
            raise PreconditionError("another change of the members is pending: repeat this one later")
        if self._successor is not None:
            raise UnavailableError(f"leadership is on its way to member {self._successor}")
        if proposal.kind == "transfer":
            return self._begin_transfer(proposal, raft, now_s)
        change = self._change_of(proposal, raft)
        if change is None:
            self._finish_unchanged(proposal, raft)
            return ""
        if change.op == "remove":
            self._check_majority_answers(change, raft)
        elif change.op == "add" and (obstacle := self._not_caught_up(change.member.id, raft)):
            return obstacle
        self._change(change, [proposal], raft)
        return ""

    def _may_change(self, raft: Leadership) -> bool:
        is_settled = raft.has_finished_election and self._store.applied_index >= self._pending_index
        return is_settled and self._successor is None

    def _correct_incarnations(self, raft: Leadership) -> None:
        """Write down to which directory each vote belongs, and take the vote of one that was replaced."""
        membership = self._store.membership
        found: dict[str, str] = {}
        for voter in membership.voters:
            named, present = membership.incarnation(voter.id), raft.incarnation(voter.id)
            if present and not named:
                found[voter.id] = present
            elif present and named != present and self._has_majority(raft):
                _log.error("member lost its directory, its vote goes until it is promoted", member=voter.id)
                self._change(demoted(membership, voter.id), [], raft)
                return
        if found:
            me = next((voter for voter in membership.voters if voter.id == self._me), None)
            if me is not None:
                self._change(known(membership, me, found), [], raft)

    def _has_majority(self, raft: Leadership) -> bool:
        voters = set(voter_ids(self._store.voters))
        return 2 * len(voters & self._answering(raft)) > len(voters)

    def _change(self, change: MembershipChange, proposals: list[Proposal], raft: Leadership) -> None:
        self._pending_index = self._journal.last_index + 1
        self._is_own_change = not proposals
        self._append(proposals, encode_change(change), raft.term)

    def _change_of(self, proposal: Proposal, raft: Leadership) -> MembershipChange | None:
        membership = self._store.membership
        if proposal.kind == "add":
            member = decode_member(proposal.body)
            return added(membership, member, raft.incarnation(member.id))
        if proposal.kind == "learner":
            return learning(membership, decode_member(proposal.body))
        member_id = proposal.body.decode(errors="replace")
        if proposal.kind == "promote":
            return promoted(membership, member_id, raft.incarnation(member_id))
        return removed(membership, member_id)

    def _finish_unchanged(self, proposal: Proposal, raft: Leadership) -> None:
        # Index 0 tells another member that no entry will come.
        index = 0 if proposal.origin else self._store.applied_index
        finish(proposal, Applied(index=index, term=raft.term, result=b""))

    def _answering(self, raft: Leadership) -> set[str]:
        """Return the voters that answered within the last election timeout, this one among them."""
        since_s = self._now_s - self._timing.election_max_ms / 1000
        return {self._me, *answering(raft.replicas(), since_s)}

    def _match_index(self, member_id: str, raft: Leadership) -> int | None:
        """Return how far the log of a connected member is known to reach, None when it is not there."""
        for replica in raft.replicas():
            if replica.id == member_id and replica.is_connected:
                return replica.match_index
        return None

    def _not_caught_up(self, member_id: str, raft: Leadership) -> str:
        match_index = self._match_index(member_id, raft)
        if match_index is None:
            return f"member {member_id} is not connected to leader {self._me}"
        if match_index < raft.commit_index - CAUGHT_UP_ENTRIES:
            return f"member {member_id} has the log up to {match_index} of {raft.commit_index}"
        return ""

    def _check_majority_answers(self, change: MembershipChange, raft: Leadership) -> None:
        """Refuse to leave a group that could not commit anything, not even the way back."""
        voters = set(voter_ids(change.voters))
        if voters == set(voter_ids(self._store.voters)):
            return  # A learner has no part in majorities.
        answering = voters & self._answering(raft)
        if 2 * len(answering) <= len(voters):
            raise PreconditionError(
                f"cannot remove {change.member.id}: of the {len(voters)} that would vote then, only"
                f" {', '.join(sorted(answering)) or 'none'} answer, expected a majority"
            )

    def _begin_transfer(self, proposal: Proposal, raft: Leadership, now_s: float) -> str:
        target = proposal.body.decode(errors="replace")
        if target not in voter_ids(self._store.voters):
            raise NotFoundError(
                f"no member {target} votes: expected one of {', '.join(voter_ids(self._store.voters))}"
            )
        if target == self._me:
            self._finish_unchanged(proposal, raft)
            return ""
        if obstacle := self._not_caught_up(target, raft):
            return obstacle
        self._successor = target
        self._successor_until_s = now_s + self._timing.election_max_ms / 1000
        self._called_s = 0.0
        self._finish_unchanged(proposal, raft)  # Begun; who leads in the end shows in the status.
        return ""

    def _hand_over(self, raft: Leadership, now_s: float) -> None:
        """Call the successor once it holds everything (Ongaro, section 3.10); give up after a while."""
        assert self._successor is not None
        if not raft.is_leader or now_s >= self._successor_until_s:
            self._successor = None
            return
        is_complete = self._match_index(self._successor, raft) == self._journal.last_index
        if is_complete and now_s - self._called_s >= self._timing.heartbeat_ms / 1000:
            self._called_s = now_s
            self._wire.send(self._successor, TimeoutNow(term=raft.term))

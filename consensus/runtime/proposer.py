"""What becomes of proposals: a leader appends them, a follower forwards them."""

from typing import Protocol

from consensus.core.contract import Applied
from consensus.core.membership import (
    KIND_COMMAND,
    KIND_NOOP,
    MembershipChange,
    added,
    decode_member,
    encode_change,
    removed,
)
from consensus.core.messages import TIMEOUT_MS_MAX, Propose, Proposed, Refused
from consensus.core.proposals import Outcome, Proposal, ProposalTable, finish, finish_all
from consensus.core.records import Entry
from consensus.core.timing import Timing
from consensus.runtime.library import Wire
from consensus.runtime.store import Store
from federation.kernel.errors import IsthmusError, PreconditionError, UnavailableError

UNCOMMITTED_ENTRIES_MAX = 16_384  # A leader that cannot commit takes no more.
QUEUED_MAX = 40_000  # Ours and those of other members together.
TURN_BYTES_MAX = 2 * 1024 * 1024  # Taken in one cycle: a few milliseconds of disk.
FORWARD_BACKLOG_BYTES_MAX = 8 * 1024 * 1024  # Half of what breaks the connection to the leader.
CAUGHT_UP_ENTRIES = 128  # A member that lacks more than this gets no vote yet.


class Leadership(Protocol):
    """What a proposer must know of the Raft state."""

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

    def learner_match_index(self, member_id: str) -> int | None:
        """Return how far the log of a connected non-voter is known to reach, None when it is not there."""
        ...


class Proposer:
    """Belongs to the engine's thread; times are the library's clock."""

    def __init__(self, me: str, *, table: ProposalTable, store: Store, wire: Wire, timing: Timing) -> None:
        self._me = me
        self._table = table
        self._store = store
        self._journal = store.journal
        self._wire = wire
        self._timing = timing
        self._changes: list[Proposal] = []  # Membership changes that wait for their precondition.
        self._pending_change_index = 0

    def receive(self, sender: str, message: Propose, now_s: float) -> None:
        """Queue what a follower forwarded."""
        if self._table.queued >= QUEUED_MAX:
            self._answer(
                sender, message.request, UnavailableError(f"leader has {QUEUED_MAX} proposals in its queue")
            )
            return
        self._table.submit(
            Proposal(
                message.kind,
                message.body,
                deadline_s=now_s + message.timeout_ms / 1000,
                finish=lambda outcome: self._answer(sender, message.request, outcome),
                origin=(sender, message.request),
            )
        )

    def turn(self, raft: Leadership, now_s: float) -> None:
        """Append or forward what was proposed since the last cycle."""
        for group in self._table.take(bytes_max=TURN_BYTES_MAX):
            if not raft.is_leader:
                self._forward(group, raft.leader_id, now_s)
            elif group[0].kind in ("add", "remove"):
                self._changes += group
            elif self._journal.last_index - raft.commit_index >= UNCOMMITTED_ENTRIES_MAX:
                finish_all(
                    group, UnavailableError(f"{UNCOMMITTED_ENTRIES_MAX} entries wait for a majority already")
                )
            elif group[0].kind == "command":
                self._append(group, KIND_COMMAND + group[0].body, raft.term)
            else:
                self._append(group, KIND_NOOP, raft.term)
        if self._changes:
            self._try_changes(raft, now_s)
        self._table.expire(now_s)

    def _append(self, group: list[Proposal], command: bytes, term: int) -> None:
        entry = Entry(self._journal.last_index + 1, term, command)
        self._journal.append(entry)
        if group[0].origin is None:
            self._table.wait(group, entry.index, entry.term)
        else:
            # Its proposer waits for the entry in its own log.
            finish_all(group, Applied(index=entry.index, term=entry.term, result=b""))

    def _forward(self, group: list[Proposal], leader: str | None, now_s: float) -> None:
        first = group[0]
        if leader is None or leader == self._me or first.origin is not None:
            finish_all(group, UnavailableError(f"member {self._me} knows no leader"))
            return
        if self._wire.backlog_bytes(leader) > FORWARD_BACKLOG_BYTES_MAX:
            finish_all(group, UnavailableError(f"leader {leader} takes proposals too slowly"))
            return
        # The leader gives up first, so that its reason arrives in time.
        remaining_ms = int((max(proposal.deadline_s for proposal in group) - now_s) * 1000)
        timeout_ms = min(max(1, remaining_ms - 2 * self._timing.round_trip_ms), TIMEOUT_MS_MAX)
        kind, body = first.kind, first.body
        request = self._table.forward(group)
        if not self._wire.send(leader, Propose(request=request, kind=kind, body=body, timeout_ms=timeout_ms)):
            self._table.refused(request, UnavailableError(f"leader {leader} is not connected"))

    def _answer(self, sender: str, request: int, outcome: Outcome) -> None:
        """Tell a follower where its proposal stands in the log, or why it does not."""
        if isinstance(outcome, Applied):
            self._wire.send(sender, Proposed(request=request, index=outcome.index, term=outcome.term))
        else:
            self._wire.send(
                sender, Refused(request=request, code=int(outcome.code), message=outcome.message[:2_000])
            )

    def _try_changes(self, raft: Leadership, now_s: float) -> None:
        """Append the first membership change that may be; the others wait for their time or are refused."""
        changes, self._changes = self._changes, []
        for proposal in changes:
            if proposal.is_finished:
                continue
            if not raft.is_leader:
                finish(proposal, UnavailableError(f"member {self._me} leads no longer"))
                continue
            try:
                obstacle = self._try_change(proposal, raft)
            except IsthmusError as error:
                finish(proposal, error)
                continue
            if obstacle and now_s < proposal.deadline_s:
                self._changes.append(proposal)
            elif obstacle:
                finish(proposal, PreconditionError(obstacle))

    def _try_change(self, proposal: Proposal, raft: Leadership) -> str:
        """Append the change and return nothing, or return what it still waits for; raises IsthmusError."""
        if not raft.has_finished_election:
            return f"leader {self._me} has not finished its election"
        if self._store.applied_index < self._pending_change_index:
            raise PreconditionError("another change of the members is pending: repeat this one later")
        change: MembershipChange | None
        if proposal.kind == "remove":
            change = removed(self._store.voters, proposal.body.decode(errors="replace"))
        else:
            member = decode_member(proposal.body)
            change = added(self._store.voters, member)
            if change is None:
                # It votes already. Index 0 tells another member that no entry will come.
                index = 0 if proposal.origin else self._store.applied_index
                finish(proposal, Applied(index=index, term=raft.term, result=b""))
                return ""
            match_index = raft.learner_match_index(member.id)
            if match_index is None:
                return f"member {member.id} is not connected to leader {self._me}"
            if match_index < raft.commit_index - CAUGHT_UP_ENTRIES:
                return f"member {member.id} has the log up to {match_index} of {raft.commit_index}"
        self._pending_change_index = self._journal.last_index + 1
        self._append([proposal], encode_change(change), raft.term)
        return ""

"""What becomes of proposals: a leader appends them, a follower forwards them."""

from consensus.core.contract import Applied
from consensus.core.gathering import Gathering
from consensus.core.membership import KIND_COMMAND, KIND_NOOP
from consensus.core.messages import TIMEOUT_MS_MAX, Propose, Proposed, Refused
from consensus.core.proposals import Outcome, Proposal, ProposalTable, finish_all
from consensus.core.records import Entry
from consensus.core.timing import Timing
from consensus.runtime.changes import KINDS, Changes, Leadership
from consensus.runtime.library import Wire
from consensus.runtime.store import Store
from federation.kernel.errors import UnavailableError, error_class

UNCOMMITTED_ENTRIES_MAX = 16_384  # A leader that cannot commit takes no more.
REQUESTS_REMEMBERED = 4_096  # Of each member that forwards.
QUEUED_MAX = 40_000  # Ours and those of other members together.
TURN_BYTES_MAX = 2 * 1024 * 1024  # Taken in one cycle: a few milliseconds of disk.
FORWARD_BACKLOG_BYTES_MAX = 8 * 1024 * 1024  # Half of what breaks the connection to the leader.


class Proposer:
    """Belongs to the engine's thread; times are the library's clock."""

    def __init__(self, me: str, *, table: ProposalTable, store: Store, wire: Wire, timing: Timing) -> None:
        self._me = me
        self._table = table
        self._store = store
        self._journal = store.journal
        self._wire = wire
        self._timing = timing
        self._requests: dict[str, dict[int, None]] = {}  # Their numbers, in the order of arrival.
        self._changes = Changes(me, store=store, wire=wire, timing=timing, append=self._append)
        self._gathering = Gathering()
        self._awaited_index = 0  # Newest entry whose proposer waits at another member.
        # As of the last turn: in how many seconds another one has something to take, and how many more proposals
        # deserve one before; None: no time, no number does.
        self.rest_s: float | None = None
        self.wanted: int | None = 1

    def receive(self, sender: str, message: Propose | Proposed | Refused, now_s: float) -> None:
        """Queue what a follower forwarded, or take the leader's word on what this member did."""
        match message:
            case Propose():
                self._queue(sender, message, now_s)
            case Proposed():
                self._table.proposed(
                    message.request, message.index, message.term, applied_index=self._store.applied_index
                )
            case Refused():
                self._table.refused(message.request, error_class(message.code)(message.message))

    def _is_repeated(self, sender: str, request: int) -> bool:
        """True for a frame that arrived before: it was answered, perhaps refused for certain."""
        requests = self._requests.setdefault(sender, {})
        if request in requests:
            return True
        requests[request] = None
        if len(requests) > REQUESTS_REMEMBERED:
            del requests[next(iter(requests))]
        return False

    def _queue(self, sender: str, message: Propose, now_s: float) -> None:
        if self._is_repeated(sender, message.request):
            return
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

    def is_awaited(self, commit_index: int) -> bool:
        """True once when an entry up to there was forwarded by another member."""
        if not 0 < self._awaited_index <= commit_index:
            return False
        self._awaited_index = 0
        return True

    def turn(self, raft: Leadership, now_s: float) -> None:
        """Append or forward what was proposed since the last cycle."""
        for group in self._taken(raft, now_s):
            if not raft.is_leader:
                self._forward(group, raft.leader_id, now_s)
            elif group[0].kind in KINDS:
                self._changes.take(group)
            elif self._journal.last_index - raft.commit_index >= UNCOMMITTED_ENTRIES_MAX:
                finish_all(
                    group, UnavailableError(f"{UNCOMMITTED_ENTRIES_MAX} entries wait for a majority already")
                )
            elif group[0].kind == "command":
                self._append(group, KIND_COMMAND + group[0].body, raft.term)
            else:
                self._append(group, KIND_NOOP, raft.term)
        self._changes.turn(raft, now_s)
        self._table.expire(now_s)
        self._plan(raft, now_s)

    def _taken(self, raft: Leadership, now_s: float) -> list[list[Proposal]]:
        if self._changes.is_handing_over:
            return []  # The log must not grow: they wait for the next leader.
        if raft.is_leader and self._gathering.rest_s(
            self._table.queued, now_s, is_under_way=self._is_under_way(raft)
        ):
            return []
        groups = self._table.take(bytes_max=TURN_BYTES_MAX)
        if groups and raft.is_leader:
            self._gathering.took(len(groups), now_s)
        return groups

    def _plan(self, raft: Leadership, now_s: float) -> None:
        """Say when the next turn has something to take."""
        waiting, self.wanted = self._table.queued, 1
        if self._changes.is_handing_over:
            self.rest_s = None
        elif not raft.is_leader:
            self.rest_s = 0.0 if waiting else None
        else:
            is_under_way = self._is_under_way(raft)
            rest_s = self._gathering.rest_s(waiting, now_s, is_under_way=is_under_way)
            self.rest_s = rest_s if rest_s or waiting else None
            if rest_s:
                self.wanted = self._gathering.wanted(waiting, is_under_way=is_under_way)

    def _is_under_way(self, raft: Leadership) -> bool:
        return self._journal.last_index > raft.commit_index

    def _append(self, group: list[Proposal], command: bytes, term: int) -> None:
        entry = Entry(self._journal.last_index + 1, term, command)
        self._journal.append(entry)
        if not group:
            return  # Of this leader's own accord.
        if group[0].origin is None:
            self._table.wait(group, entry.index, entry.term)
        else:
            # Its proposer waits for the entry in its own log.
            self._awaited_index = entry.index
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

"""Proposals on their way: queued here, forwarded to a leader, waiting for their log entry to apply.

    queued --append--> waiting --apply--> finished
      |                   ^                  ^
      +--forward--> forwarded --leader lost--+

A proposal finishes exactly once. The error says how far it came: UnavailableError means that no
log can contain it, OutcomeUnknownError that one might.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from consensus.core.contract import Applied
from federation.kernel.errors import IsthmusError, OutcomeUnknownError, UnavailableError

Kind = Literal["command", "barrier", "add", "remove", "learner", "promote", "transfer"]
Outcome = Applied | IsthmusError
FIRST_REQUEST_MAX = 2**53  # Leaves room below the 2**62 of a message's count.
DEADLINES_KEPT = (
    4_096  # Finished proposals stay in the heap of deadlines until it is twice the unfinished plus this.
)


class Proposal:
    """One caller's wish. `origin`: the follower that forwarded it, and its request number there."""

    __slots__ = ("body", "deadline_s", "finish", "is_finished", "kind", "maybe_logged", "origin")

    def __init__(
        self,
        kind: Kind,
        body: bytes,
        *,
        deadline_s: float,
        finish: Callable[[Outcome], None],
        origin: tuple[str, int] | None = None,
    ) -> None:
        self.kind = kind
        self.body = body
        self.deadline_s = deadline_s
        self.finish = finish
        self.origin = origin
        self.is_finished = False
        self.maybe_logged = False


class ProposalTable:
    """All unfinished proposals of one member. Its owner bounds their number at `submit`.

    `first_request` differs in each process of a member, so that an answer to the last process, which a
    leader may give much later, is not taken for one to this one.
    """

    def __init__(self, *, first_request: int = 0) -> None:
        self._queue: deque[Proposal] = deque()
        self._forwarded: dict[int, list[Proposal]] = {}
        self._waiting: dict[int, list[tuple[int, Proposal]]] = {}
        self._deadlines: list[tuple[float, int, Proposal]] = []
        self._rebuild_at = DEADLINES_KEPT
        self._sequence = first_request

    @property
    def queued(self) -> int:
        """How many `take` has not returned yet."""
        return len(self._queue)

    def submit(self, proposal: Proposal) -> None:
        """Queue a new proposal."""
        self._sequence += 1
        heapq.heappush(self._deadlines, (proposal.deadline_s, self._sequence, proposal))
        self._queue.append(proposal)

    def take(self, *, bytes_max: int) -> list[list[Proposal]]:
        """Return groups that need one log entry each, up to the one that passes `bytes_max`; barriers share one."""
        groups: list[list[Proposal]] = []
        barriers: list[Proposal] = []
        size_bytes = 0
        while self._queue and size_bytes < bytes_max:
            proposal = self._queue.popleft()
            size_bytes += len(proposal.body)
            if proposal.is_finished:
                continue
            if proposal.kind == "barrier" and proposal.origin is None:
                barriers.append(proposal)
            else:
                groups.append([proposal])
        return [*groups, barriers] if barriers else groups

    def forward(self, group: list[Proposal]) -> int:
        """Note that `group` is sent to the leader; return the request number to send."""
        self._sequence += 1
        for proposal in group:
            proposal.maybe_logged = True
        self._forwarded[self._sequence] = group
        return self._sequence

    def wait(self, group: list[Proposal], index: int, term: int) -> None:
        """Note that the entry of `group` is the one of `term` at `index`, if it survives."""
        for proposal in group:
            proposal.maybe_logged = True
            self._waiting.setdefault(index, []).append((term, proposal))

    def proposed(self, request: int, index: int, term: int, *, applied_index: int) -> None:
        """Take the leader's word on where a forwarded proposal stands."""
        group = self._forwarded.pop(request, [])
        if index == 0:
            finish_all(group, Applied(index=applied_index, term=term, result=b""))
        elif index <= applied_index:
            # Applied before we knew that it was ours: the result is gone.
            finish_all(group, OutcomeUnknownError(f"entry {index} applied before its proposer learned of it"))
        else:
            self.wait(group, index, term)

    def refused(self, request: int, error: IsthmusError) -> None:
        """Fail a forwarded proposal that the leader did not append."""
        finish_all(self._forwarded.pop(request, []), error)

    def applied(self, index: int, term: int, result: bytes) -> None:
        """Finish those who wait for entry `index`, which turned out to be of `term`."""
        for expected, proposal in self._waiting.pop(index, ()):
            if expected == term:
                finish(proposal, Applied(index=index, term=term, result=result))
            else:
                # An entry is known by index and term: ours can no longer be in any log.
                finish(proposal, UnavailableError(f"another leader's entry took index {index}"))

    def skipped(self, index: int) -> None:
        """Fail those who wait for an entry up to `index`: a snapshot covers it."""
        for position in [position for position in self._waiting if position <= index]:
            for _term, proposal in self._waiting.pop(position):
                finish(proposal, OutcomeUnknownError(f"entry {position} arrived as part of a snapshot"))

    def leader_lost(self) -> None:
        """Fail what was sent to a leader that may not answer any more."""
        groups, self._forwarded = list(self._forwarded.values()), {}
        for group in groups:
            finish_all(group, OutcomeUnknownError("the leader was lost before it answered"))

    def expire(self, now_s: float) -> None:
        """Fail those whose time is over, and forget the finished ones."""
        late = False
        while self._deadlines and self._deadlines[0][0] <= now_s:
            proposal = heapq.heappop(self._deadlines)[2]
            if not proposal.is_finished:
                late = True
                finish(proposal, _unfinished(proposal, "the time given was over"))
        if late:
            self._forwarded = {
                request: group
                for request, group in self._forwarded.items()
                if not all(proposal.is_finished for proposal in group)
            }
        if len(self._deadlines) > self._rebuild_at:
            self._deadlines = [item for item in self._deadlines if not item[2].is_finished]
            heapq.heapify(self._deadlines)
            self._rebuild_at = 2 * len(self._deadlines) + DEADLINES_KEPT

    def fail_all(self, reason: str) -> None:
        """Fail everything: the engine ends."""
        for _deadline, _sequence, proposal in self._deadlines:
            finish(proposal, _unfinished(proposal, reason))
        self._queue.clear()
        self._forwarded.clear()
        self._waiting.clear()
        self._deadlines.clear()


def finish(proposal: Proposal, outcome: Outcome) -> None:
    """Tell the proposer, once."""
    if not proposal.is_finished:
        proposal.is_finished = True
        proposal.body = b""  # The table may hold it until its deadline.
        proposal.finish(outcome)


def finish_all(group: Iterable[Proposal], outcome: Outcome) -> None:
    """Tell every proposer of a group."""
    for proposal in group:
        finish(proposal, outcome)


def _unfinished(proposal: Proposal, reason: str) -> IsthmusError:
    if proposal.maybe_logged:
        return OutcomeUnknownError(f"{proposal.kind} was sent to the log, but {reason} before it applied")
    return UnavailableError(f"{proposal.kind} did not reach the log: {reason}")

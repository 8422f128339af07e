"""The border between callers' event loops and the engine's thread: proposals in, outcomes out."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

from consensus.core.contract import Applied, Counters, MemberAddress
from consensus.core.proposals import Kind, Outcome, Proposal, finish
from federation.kernel.errors import LimitExceededError, UnavailableError

PROPOSALS_MAX = 10_000  # Unfinished, of this member's callers.
PROPOSAL_BYTES_MAX = 64 * 1024 * 1024


class Intake:
    """Bounded. `propose` and `allow` are for any thread, the rest for the engine's."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._wake: Callable[[], object] | None = None
        self._closed_because = "this member does not run"
        self._submitted: list[Proposal] = []
        self._wake_at: int | None = 1  # The number of them that calls for a turn.
        self._unfinished = 0
        self._unfinished_bytes = 0
        self._allowed: tuple[MemberAddress, ...] = ()
        self._outcomes: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Applied], Outcome]]] = {}

    async def propose(self, kind: Kind, body: bytes, *, deadline_s: float) -> Applied:
        """Hand a proposal to the engine and return its outcome; raises what the outcome says."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Applied] = loop.create_future()
        size_bytes = len(body)
        began_s = time.perf_counter()

        def note(outcome: Outcome) -> None:
            if kind == "command" and isinstance(outcome, Applied):
                self._counters.commit.observe(int((time.perf_counter() - began_s) * 1e6))
            with self._lock:
                self._unfinished -= 1
                self._unfinished_bytes -= size_bytes
            self._outcomes.setdefault(loop, []).append((future, outcome))

        proposal = Proposal(kind, body, deadline_s=deadline_s, finish=note)
        with self._lock:
            if self._wake is None:
                raise UnavailableError(self._closed_because)
            if self._unfinished >= PROPOSALS_MAX or self._unfinished_bytes + size_bytes > PROPOSAL_BYTES_MAX:
                raise LimitExceededError(
                    f"{self._unfinished} proposals of {self._unfinished_bytes} bytes are unfinished,"
                    f" expected at most {PROPOSALS_MAX} of {PROPOSAL_BYTES_MAX}: slow down"
                )
            self._unfinished += 1
            self._unfinished_bytes += size_bytes
            self._submitted.append(proposal)
            if len(self._submitted) == self._wake_at:
                self._wake()
        return await future

    def allow(self, members: Iterable[MemberAddress]) -> None:
        """Replace the allowed peers."""
        with self._lock:
            self._allowed = tuple(members)
            if self._wake is not None:
                self._wake()

    @property
    def allowed(self) -> tuple[MemberAddress, ...]:
        """The peers that may connect without a vote; the same object until they are replaced."""
        return self._allowed

    def open(self, wake: Callable[[], object]) -> None:
        """Begin to take proposals; `wake` is called from any thread when there are some."""
        with self._lock:
            self._wake, self._wake_at = wake, 1

    def take(self) -> list[Proposal]:
        """Return what was proposed since the last call."""
        if not self._submitted:
            return self._submitted  # Without the lock: who appends now also wakes us.
        with self._lock:
            submitted, self._submitted = self._submitted, []
        return submitted

    def expect(self, count: int | None) -> bool:
        """Wake for so many new proposals from now on, None: for no number; True when there are as many already."""
        if count == self._wake_at and not self._submitted:
            return False  # Without the lock, as in `take`.
        with self._lock:
            self._wake_at = count
            return count is not None and len(self._submitted) >= count

    def deliver(self) -> None:
        """Tell the callers their outcomes, one call for each event loop."""
        outcomes, self._outcomes = self._outcomes, {}
        for loop, answers in outcomes.items():
            if not loop.is_closed():  # Else nobody waits any more.
                loop.call_soon_threadsafe(_resolve, answers)

    def close(self, reason: str) -> None:
        """Take nothing more, for `reason`, and fail what was not taken."""
        with self._lock:
            self._wake = None
            self._closed_because = reason
            submitted, self._submitted = self._submitted, []
        for proposal in submitted:
            finish(proposal, UnavailableError(reason))
        self.deliver()


def _resolve(answers: list[tuple[asyncio.Future[Applied], Outcome]]) -> None:
    for future, outcome in answers:
        if future.done():
            continue  # Its caller was cancelled.
        if isinstance(outcome, Applied):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

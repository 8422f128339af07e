"""What the rest of Isthmus may ask of a consensus engine, and what an engine asks of it.

Commands, results and snapshots are bytes: consensus orders them and never looks inside. Every
engine passes the same conformance suite, so callers depend on this module only.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, Protocol

from msgspec import Struct, field

SNAPSHOT_CHUNK_BYTES_MAX = 256 * 1024
# From a disk with a cache of its own to one that nobody wants to wait for.
LATENCY_BOUNDS_US = (
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
)

# joining: has a part in no membership yet, or no more. learner: gets the log and has no vote.
# paused: its disk is full; it reads on, and comes back by itself when there is room.
Role = Literal["leader", "follower", "candidate", "learner", "joining", "paused", "stopped"]


class StateMachine(Protocol):
    """The replicated state. All three methods are called in the engine's own thread."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply `command` at `index` and return its result.

        Total and deterministic: it never raises (a refusal is a result) and uses no clock and no
        randomness. An exception means that this member can no longer equal the others: it stops.
        """
        ...

    def snapshot(self) -> Iterator[bytes]:
        """Return chunks of at most SNAPSHOT_CHUNK_BYTES_MAX of an immutable copy of the state.

        The first chunk is drawn before anything else is applied, the others in between applies.
        """
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by what `snapshot` yielded; raises CorruptError."""
        ...


class Applied(Struct, frozen=True, kw_only=True):
    """Where a command stands in the log, and what the local state machine answered."""

    index: int
    term: int
    result: bytes


class MemberAddress(Struct, frozen=True, kw_only=True):
    """A controller that votes, or is about to."""

    id: str  # The name of its cluster, such as "alpha".
    address: str  # "host:port" at which the other members reach it.
    identity: str  # The SPIFFE id that its certificate must carry.


class PeerStatus(Struct, frozen=True, kw_only=True):
    """How a leader sees another member or a learner."""

    id: str
    is_voter: bool
    match_index: int  # Its log is known to equal the leader's up to here.
    last_contact_ms_ago: int | None  # Since its last answer, or since this leadership began; None: neither.


class Status(Struct, frozen=True, kw_only=True):
    """A member's own view; another member's may differ."""

    id: str
    role: Role
    term: int
    leader: str | None
    commit_index: int
    applied_index: int
    members: tuple[str, ...]  # Those that vote.
    learners: tuple[str, ...] = ()  # Those that the membership names without a vote.
    directory: str = ""  # The name that this member's directory was given when it was begun.
    voting_directories: tuple[tuple[str, str], ...] = ()  # (member, directory) of votes that belong to one.
    connected: tuple[str, ...]  # Those that this member can send to.
    journal_bytes: int
    snapshot_index: int
    last_leader_contact_ms_ago: (
        int | None
    )  # None: no leader heard since the start. A leader: contact with its quorum.
    # A stale read, of the local state as it is, includes everything that was committed this long ago, the
    # configured round trip added for the way of the leader's word. None: nobody has said so yet.
    state_age_ms: int | None = None
    problem: str = ""  # Why it is paused, or has no vote although its name has one.
    last_index: int = 0  # Of the newest entry in the log, committed or not.
    peers: tuple[PeerStatus, ...] = ()  # A leader's view of the others; empty on everybody else.


class Histogram(Struct, kw_only=True):
    """Durations counted by upper bound; the last count is of those above every bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_US) + 1))
    sum_us: int = 0
    longest_us: int = 0

    def observe(self, duration_us: int) -> None:
        """Count one duration."""
        self.counts[bisect_left(LATENCY_BOUNDS_US, duration_us)] += 1
        self.sum_us += duration_us
        self.longest_us = max(self.longest_us, duration_us)


class Counters(Struct, kw_only=True):
    """Totals since the start, for metrics. Written by the engine's thread only."""

    proposals: int = 0
    proposals_refused: int = 0
    applied: int = 0
    campaigns: int = 0
    leader_changes: int = 0  # Leaders that this member came to know, itself among them.
    journal_sync: Histogram = field(default_factory=Histogram)  # Write and fdatasync of a batch.
    turn: Histogram = field(default_factory=Histogram)  # Of the engine's loop: nothing is heard meanwhile.
    commit: Histogram = field(default_factory=Histogram)  # From a command's proposal here to its result.
    snapshots_written: int = 0
    snapshots_installed: int = 0
    connections_refused: int = 0
    connections_dropped: int = 0
    frames_in: int = 0
    frames_out: int = 0

    @property
    def journal_syncs(self) -> int:
        """How often the journal was synced."""
        return sum(self.journal_sync.counts)


class Signal(Protocol):
    """The part of asyncio.Event that others wait on; a core module may not name asyncio."""

    def is_set(self) -> bool:
        """True once it happened."""
        ...

    async def wait(self) -> Literal[True]:
        """Return when it has happened."""
        ...


class Consensus(Protocol):
    """One member of the replicated log. Methods may be called from any thread's event loop."""

    @property
    def ready(self) -> Signal:
        """Set when the transport listens and the local log is replayed (a leader may be missing still)."""
        ...

    async def run(self) -> None:
        """Take part until cancelled; raises when this member must stop (damaged or failing disk).

        On a full disk it goes on without voting or acknowledging anything, and returns by itself.
        """
        ...

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Append `command` to the log and return what the local state machine answered.

        Works on every member: a follower forwards to the leader. On return the local state
        includes the command.

        Errors: UnavailableError: it certainly did not and will not happen. OutcomeUnknownError: it
        may have happened or may happen yet; repeat it with a request id that the state machine
        remembers. LimitExceededError: more than COMMAND_BYTES_MAX.
        """
        ...

    async def read_barrier(self, *, timeout_ms: int) -> int:
        """Return an applied local index that includes every write finished before this call.

        Concurrent callers share one log entry. Raises UnavailableError.
        """
        ...

    def status(self) -> Status:
        """Return the newest published view; cheap."""
        ...

    def counters(self) -> Counters:
        """Return the live totals; read only."""
        ...

    def clocks(self) -> Mapping[str, int]:
        """Return what the wall clocks of members show now, as far as they tell: Unix milliseconds, by member.

        This member's own is always there. Late by the way of a message; any of them may be wrong.
        """
        ...

    def allow(self, members: Iterable[MemberAddress]) -> None:
        """Replace the set of peers that may connect although they do not vote; idempotent.

        The leader copies the log to those that are connected, so that `add_member` finds them
        caught up.
        """
        ...

    async def add_member(self, member: MemberAddress, *, timeout_ms: int) -> None:
        """Give a vote to an allowed, connected, caught-up member; waits for it within the time.

        PreconditionError: another change is pending, or it is not there. AlreadyExistsError: its
        id votes under another address. Nothing happens if it votes already as given.
        """
        ...

    async def add_learner(self, member: MemberAddress, *, timeout_ms: int) -> None:
        """Let a member have the log without a vote, also after a restart.

        PreconditionError: another change is pending, or there are LEARNERS_MAX. AlreadyExistsError: it
        votes, or its id, address or identity is another's. Nothing happens if it is one already.
        """
        ...

    async def promote(self, member_id: str, *, timeout_ms: int) -> None:
        """Give a learner its vote when it is connected and caught up; waits for it within the time.

        NotFoundError: it is no learner. PreconditionError: as for `add_member`. Nothing happens if it
        votes already.
        """
        ...

    async def remove_member(self, member_id: str, *, timeout_ms: int) -> None:
        """Take a member's vote, or a learner's place.

        NotFoundError, or PreconditionError for the last voter, when a change is pending, and when of
        those that would vote then no majority answers the leader.
        """
        ...

    async def transfer_leadership(self, member_id: str, *, timeout_ms: int) -> None:
        """Make a voter lead; returns when it does, as this member sees it.

        The leader appends nothing for at most one election timeout meanwhile. NotFoundError: it does
        not vote. PreconditionError: it is not connected or not caught up. UnavailableError: another
        member leads when the time is over; repeat it or not, nothing was lost.
        """
        ...

    def on_applied(self, callback: Callable[[int], None]) -> None:
        """Call `callback` with the newest applied index after each batch, in the engine's thread.

        It must be quick and must not raise; a caller on another loop uses call_soon_threadsafe.
        """
        ...

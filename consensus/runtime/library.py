"""What pysyncobj is given instead of its own log, poller and transport."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from pysyncobj import SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport as LibraryTransport
from pysyncobj.version import VERSION

from consensus.core.contract import MemberAddress
from consensus.core.membership import KIND_NOOP
from consensus.core.messages import Message, RequestVote, VoteGranted
from consensus.core.promises import Standing
from consensus.core.records import Entry
from consensus.core.timing import Timing
from consensus.runtime.journal import Journal
from federation.kernel.errors import PreconditionError

LIBRARY_VERSION = "0.3.17"


class Wire(Protocol):
    """What the Raft code needs of the transport."""

    def send(self, member_id: str, message: Message) -> bool:
        """Queue a frame, False when the member is not connected."""
        ...

    def backlog_bytes(self, member_id: str) -> int:
        """Return what waits to be sent to the member."""
        ...


class Net(Wire, Protocol):
    """What a member needs of the transport besides."""

    def set_peers(self, members: Iterable[MemberAddress]) -> None:
        """Dial these and accept these; connections of others are closed."""
        ...

    def connected(self) -> tuple[str, ...]:
        """Return the ids of peers that can be sent to."""
        ...


def check_version() -> None:
    """Raise PreconditionError unless the library is the one whose source was read."""
    if VERSION != LIBRARY_VERSION:
        raise PreconditionError(f"pysyncobj is version {VERSION}, expected exactly {LIBRARY_VERSION}")


def library_settings(timing: Timing) -> SyncObjConf:
    """Return the settings: nothing of the library's own input, output, threads or membership."""
    return SyncObjConf(
        autoTick=False,
        raftMinTimeout=timing.election_min_ms / 1000,
        raftMaxTimeout=timing.election_max_ms / 1000,
        appendEntriesPeriod=timing.heartbeat_ms / 1000,
        leaderFallbackTimeout=timing.leader_fallback_ms / 1000,
        connectionTimeout=timing.connection_silent_ms / 1000,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        useFork=False,
    )


class Peer(str, Node):  # type: ignore[misc] # the library has no types
    """A member as the library knows it, equal to a Node of the same id.

    A text, because the library and we look members up in sets and tables many times in each cycle: Node hashes
    and compares in four calls of Python's, which was a fifth of a leader's time.
    """

    __slots__ = ()

    def __init__(self, _member_id: str) -> None:
        """Store nothing more: the text is the id."""

    @property
    def id(self) -> str:
        """Its name in the membership."""
        return str(self)


class LogForLibrary:
    """The journal as the library's elections and commit rule read it: a list of (command, index, term).

    Position 0 is the base: an entry that is known by index and term only.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __len__(self) -> int:
        return 1 + len(self._journal.entries)

    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return [self[at] for at in range(*position.indices(len(self)))]
        at = position if position >= 0 else len(self) + position
        if at == 0:
            return KIND_NOOP, self._journal.base.index, self._journal.base.term
        entry = self._journal.entries[at - 1]
        return entry.command, entry.index, entry.term

    def add(self, command: bytes, index: int, term: int) -> None:
        """Append: the library adds the no-op of a new leader."""
        self._journal.append(Entry(index, term, command))

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802 # the library's name
        """Enter a term, durably."""
        self._journal.vote(term, voted_for)

    def setRaftCommitIndex(self, index: int) -> None:  # noqa: N802 # the library's name
        """Note what the library found committed."""
        self._journal.commit(index)

    def onOneSecondTimer(self) -> None:  # noqa: N802 # the library's name
        """The journal writes the commit index with each batch, not by time."""


class NoPoller:
    """The engine's event loop waits; the library must not."""

    def poll(self, timeout: float) -> None:
        """Return at once."""


class VotesForLibrary(LibraryTransport):  # type: ignore[misc] # the library has no types
    """Carries the two messages that the library still sends itself."""

    ready = True

    def __init__(self, wire: Wire, since: Callable[[], Standing]) -> None:
        super().__init__(None, None, [])
        self._since = since
        self.is_called = False  # The next campaign is one that the leader asked for.
        self._last: dict[str, RequestVote | VoteGranted] = {}  # What each member was told last.
        self._wire = wire

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        """Translate; the term and the vote in it are durable already (Journal.vote)."""
        sent: RequestVote | VoteGranted
        if message["type"] == "request_vote":
            sent = RequestVote(
                term=message["term"],
                last_index=message["last_log_index"],
                last_term=message["last_log_term"],
                called=self.is_called,
                since=self._since(),
            )
        else:
            assert message["type"] == "response_vote", "the library sends nothing else"
            sent = VoteGranted(term=message["term"], since=self._since())
        self._last[node.id] = sent
        return self._wire.send(node.id, sent)

    def repeat(self, member_id: str, term: int) -> None:
        """Say again to a member that is connected now what it was told of `term`.

        Connections have one direction: a candidate that has just joined, or come back, reaches voters that do not
        reach it yet. The library says nothing twice, so a vote that was lost cost an election timeout.
        """
        said = self._last.get(member_id)
        if said is not None and said.term == term and said.since == self._since():
            self._wire.send(member_id, said)

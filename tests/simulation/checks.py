"""What must hold after every event of a run, whatever happened: Raft's safety, and ours.

Nothing here is told by the engine what it believes; everything is compared with what another member
did at the same index or term before.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from consensus.core.contract import Applied
from consensus.core.membership import voter_ids
from consensus.core.messages import Append, Message, RequestVote, VoteGranted
from consensus.runtime.hardened import HardenedRaft
from consensus.runtime.store import Store
from discovery.core.model import Change
from federation.kernel.errors import IsthmusError
from tests.simulation.platter import Platter


class ViolationError(Exception):
    """Something that must never happen has happened; `rule` names it."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule


class Observed(Protocol):
    """A running member as the checks see it."""

    name: str
    store: Store
    checked_commit: int
    voters_before: tuple[str, ...]  # Its turn.

    @property
    def raft(self) -> HardenedRaft:
        """The Raft state of its present process."""
        ...


class Checks:
    """The common memory of one run."""

    def __init__(self) -> None:
        self.violation: ViolationError | None = None
        self.platters: dict[str, Platter] = {}
        self.leaders: dict[int, str] = {}
        self.votes: dict[tuple[str, int], str] = {}
        self.entries: dict[tuple[int, int], tuple[bytes, int]] = {}  # (index, term): command, term in front.
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.committed_in: dict[int, int] = {}  # Newest index, by the term of the leader that committed it.
        self.commands: dict[int, bytes] = {}  # As applied first.
        self.chains: dict[int, bytes] = {}  # Hash of all commands and results up to an index.
        self.digests: dict[int, str] = {}  # Of the state whose snapshot was taken at an index.
        self.changes: dict[int, tuple[Change, ...]] = {}  # Of the catalog, by revision.
        self.acknowledged_last = 0
        self.acknowledged: dict[int, bytes] = {}

    def fail(self, rule: str, detail: str) -> ViolationError:
        """Return the violation; the first one is kept, for the engine may catch what we raise in its turn."""
        error = ViolationError(rule, detail)
        self.violation = self.violation or error
        return error

    # Messages.

    def sent(self, sender: str, to: str, message: Message) -> None:
        """Look at a frame that leaves."""
        match message:
            case VoteGranted():
                self._voted(sender, message.term, to)
            case RequestVote():
                self._voted(sender, message.term, sender)
            case Append():
                self._appended(sender, message)

    def _voted(self, voter: str, term: int, candidate: str) -> None:
        before = self.votes.setdefault((voter, term), candidate)
        if before != candidate:
            raise self.fail("one vote in a term", f"{voter} voted for {before} and {candidate} in {term}")

    def _appended(self, sender: str, message: Append) -> None:
        term_in_front = message.prev_term
        for entry in message.entries:
            command, before = self.entries.setdefault(
                (entry.index, entry.term), (entry.command, term_in_front)
            )
            if (command, before) != (entry.command, term_in_front):
                raise self.fail(
                    "log matching", f"{sender} sends another entry {entry.index} of term {entry.term}"
                )
            term_in_front = entry.term

    def lost(self, name: str) -> None:
        """A directory is about to be lost: what it held was rightly counted, what it voted is forgotten.

        The others do not let it elect anybody, so that two of its votes in one term do no harm; were it
        otherwise, two leaders of a term would tell.
        """
        self.platters[name].replaced()
        self.votes = {key: candidate for key, candidate in self.votes.items() if key[0] != name}

    # States.

    def turned(self, member: Observed) -> None:
        """Look at a member after its turn."""
        raft = member.raft
        if raft.is_leader:
            self._leads(member)
        commit = raft.commit_index
        if commit > member.checked_commit:
            self._commits(member, commit)

    def _leads(self, member: Observed) -> None:
        term = member.raft.term
        before = self.leaders.get(term)
        if before == member.name:
            return
        if before is not None:
            raise self.fail("one leader in a term", f"{before} and {member.name} lead in {term}")
        self.leaders[term] = member.name
        # One of an older term may win by votes that were long on their way, and knows nothing of later ones.
        last = max((index for before, index in self.committed_in.items() if before < term), default=1)
        journal = member.store.journal
        here = journal.term_at(last)  # None as well below the base.
        known, _command = self.committed.get(last, (here, b""))
        if here != known and last > journal.base.index:
            raise self.fail(
                "a leader has every committed entry",
                f"{member.name} leads in {term} without committed entry {last}",
            )

    def _commits(self, member: Observed, commit: int) -> None:
        journal = member.store.journal
        if member.raft.is_leader:
            self._check_durable(member, commit)
            self.committed_in[member.raft.term] = commit
        for index in range(max(member.checked_commit, journal.base.index) + 1, commit + 1):
            entry = journal.entries[index - journal.base.index - 1]
            before = self.committed.setdefault(index, (entry.term, entry.command))
            if before != (entry.term, entry.command):
                raise self.fail(
                    "committed entries stay",
                    f"{member.name} commits entry {index} of term {entry.term}, before it was of {before[0]}",
                )
        member.checked_commit = commit

    def _check_durable(self, leader: Observed, commit: int) -> None:
        """What a leader calls committed, a power cut of everybody must leave with a majority."""
        term = leader.store.journal.term_at(commit)
        if term is None:
            return  # Behind a snapshot already.
        for voters in (voter_ids(leader.store.voters), leader.voters_before):
            holders = [name for name in voters if self.platters[name].holds(commit, term)]
            if 2 * len(holders) > len(voters):
                return
        raise self.fail(
            "committed means durable at a majority",
            f"{leader.name} commits entry {commit} of {term}, durable at {holders} of {voters}",
        )

    # State machine.

    def applied(self, name: str, before: bytes, index: int, command: bytes, result: bytes) -> bytes:
        """Compare what a member applied with the first that did; return its new chain."""
        self.commands.setdefault(index, command)
        chain = hashlib.blake2b(
            b"%b %d %d " % (before, index, len(command)) + command + result, digest_size=16
        ).digest()
        if self.chains.setdefault(index, chain) != chain:
            raise self.fail("equal applied prefixes", f"{name} differs at entry {index}")
        return chain

    def restored(self, name: str, index: int, digest: str) -> None:
        """Compare a restored state with the one that was saved."""
        if self.digests.get(index, digest) != digest:
            raise self.fail("a snapshot restores its state", f"{name} differs after snapshot {index}")

    # Callers.

    def acknowledged_write(self, name: str, applied: Applied, command: bytes) -> None:
        """A caller was told that its command is in the log."""
        term, _command = self.committed.get(applied.index, (applied.term, b""))
        if term != applied.term or self.commands.get(applied.index) != command:
            raise self.fail(
                "acknowledged means committed",
                f"{name} acknowledged entry {applied.index} of {applied.term}, which is not that command",
            )
        self.acknowledged[applied.index] = command
        self.acknowledged_last = max(self.acknowledged_last, applied.index)

    def barrier(self, name: str, index: int, *, finished_before: int) -> None:
        """A barrier returned `index`; `finished_before` was acknowledged when it was called."""
        if index < finished_before:
            raise self.fail(
                "no stale read behind a barrier",
                f"{name} read at {index}, entry {finished_before} was acknowledged before",
            )

    def stopped(self, name: str, error: IsthmusError, *, is_excused: bool) -> None:
        """A member stopped by itself."""
        if not is_excused:
            raise self.fail("nobody stops without a fault", f"{name}: {error}")


def first_violation(group: BaseExceptionGroup[ViolationError]) -> ViolationError:
    """Return one of the violations that ended tasks."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ViolationError)
    return error


@contextmanager
def without_logs() -> Iterator[None]:
    """Let the product say nothing meanwhile."""
    config = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**config)

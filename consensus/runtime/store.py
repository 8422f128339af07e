"""One member's durable state: journal, snapshot, and the state machine between them.

On disk, always: the snapshot's index lies within the journal or above it, never below its base.

    journal   base ........ snapshot ........ commit ........ last
                  kept for      applied again     not yet
                  laggards      after a restart   promised to the state machine
"""

import contextlib
from pathlib import Path

import structlog
from msgspec import Struct

from consensus.core.contract import Counters, StateMachine
from consensus.core.membership import KIND_COMMAND, KIND_MEMBERSHIP, Membership, Voters, decode_change
from consensus.core.messages import SnapshotChunk, SnapshotProgress
from consensus.core.records import Base, Entry
from consensus.core.snapshots import Manifest
from consensus.runtime.clock import SYSTEM_CLOCK, Clock
from consensus.runtime.disk import FILE_DISK, Disk, naming_errors
from consensus.runtime.journal import FILE_NAME as JOURNAL_NAME
from consensus.runtime.journal import Journal
from consensus.runtime.room import ROOM_FILE, ROOM_MIN_BYTES
from consensus.runtime.snapshots import (
    IncomingSnapshot,
    OutgoingSnapshot,
    SnapshotWriter,
    read_chunks,
    snapshot_path,
    unfinished_paths,
    verify,
)
from federation.kernel.errors import CorruptError, InvalidInputError, IsthmusError, UnavailableError

# Every log begins behind this entry, which all members agree on without having exchanged it.
FOUNDING_INDEX = 1
FOUNDING_TERM = 0
# Entries up to the snapshot that stay, so that a member which missed a little needs no snapshot.
TAIL_BYTES = 4 * 1024 * 1024
TAIL_ENTRIES_MAX = 10_000
ENTRY_OVERHEAD_BYTES = 32  # Index, term and framing of an entry in the file.

_log = structlog.get_logger(__name__)


class Progress(Struct, frozen=True, kw_only=True):
    """How far a state machine has come, for a store that is opened anew around it."""

    applied_index: int
    applied_term: int  # Of the entry there; a log that was opened anew may have another one.
    membership: Membership


class Store:
    """Belongs to the engine's thread. A disk error is an UnavailableError and final."""

    def __init__(
        self,
        directory: Path,
        *,
        founding_voters: Voters,
        machine: StateMachine,
        counters: Counters,
        snapshot_after_bytes: int,
        disk: Disk = FILE_DISK,
        clock: Clock = SYSTEM_CLOCK,
        progress: Progress | None = None,
    ) -> None:
        """Open or begin the journal and load the snapshot; raises CorruptError.

        With `progress` the state machine is kept as it is, for it never goes back: the log on disk may
        end before it, and what it holds already is not applied again.
        """
        self._directory = directory
        self._disk = disk
        self._machine = machine
        self._counters = counters
        self._snapshot_after_bytes = snapshot_after_bytes
        self._writer: SnapshotWriter | None = None
        self._incoming: IncomingSnapshot | None = None
        self._incoming_from: tuple[str, int] = ("", 0)
        self._remove_unfinished()
        founding = Base(index=FOUNDING_INDEX, term=FOUNDING_TERM, voters=founding_voters)
        has_snapshot = disk.exists(snapshot_path(directory))
        if has_snapshot and not disk.exists(directory / JOURNAL_NAME):
            raise CorruptError(
                f"directory {directory} has a snapshot but no journal: this member forgot its votes"
            )
        self.journal = Journal(directory, founding=founding, counters=counters, disk=disk, clock=clock)
        self.membership = Membership(voters=self.journal.base.voters)
        self.snapshot_index = 0
        self.snapshot_bytes = 0
        self.applied_index, self._applied_term = FOUNDING_INDEX, FOUNDING_TERM
        if progress is not None:
            self.applied_index, self._applied_term = progress.applied_index, progress.applied_term
            self.membership = progress.membership
        try:
            self._open_snapshot(has_snapshot)
        except BaseException:
            self.journal.close()
            raise

    @property
    def voters(self) -> Voters:
        """Who votes, as of `applied_index`."""
        return self.membership.voters

    @property
    def progress(self) -> Progress:
        """What the state machine holds."""
        return Progress(
            applied_index=self.applied_index, applied_term=self._applied_term, membership=self.membership
        )

    @property
    def room_needed_bytes(self) -> int:
        """Return what the next files are likely to need, when this store stopped for want of room."""
        incoming_bytes = 0 if self._incoming is None else self._incoming.total_bytes
        return ROOM_MIN_BYTES + max(self.snapshot_bytes, incoming_bytes)

    @property
    def is_writing_snapshot(self) -> bool:
        """True while `step_snapshot` has more to do."""
        return self._writer is not None or self.journal.is_rewriting

    def apply_next(self) -> tuple[Entry, bytes]:
        """Apply the entry after `applied_index` and return it with the state machine's result."""
        entry = self.journal.entries[self.applied_index - self.journal.base.index]
        kind = entry.command[:1]
        result = b""
        if kind == KIND_COMMAND:
            try:
                result = self._machine.apply(entry.index, entry.command[1:])
            except Exception as error:  # `apply` is total: its state is now nobody's
                raise CorruptError(
                    f"state machine failed at entry {entry.index}, this member stops: {error!r}"
                ) from error
            self._counters.applied += 1
        elif kind == KIND_MEMBERSHIP:
            self.membership = decode_change(entry.command).membership
        self.applied_index, self._applied_term = entry.index, entry.term
        return entry, result

    def step_snapshot(self) -> None:
        """Begin a snapshot if the journal has grown enough, or write the next slice of it, or of the journal behind it."""
        if self.journal.is_rewriting:
            self.journal.step_rewrite()
            return
        if self._writer is None:
            # Half the last snapshot: writing them costs at most twice what the log costs.
            enough = max(self._snapshot_after_bytes, self.snapshot_bytes // 2)
            if self.journal.size_bytes < enough or self.applied_index <= self.snapshot_index:
                return
            if self.journal.term_at(self.applied_index) != self._applied_term:
                # Opened anew on a full disk, this log ends before the state machine for a moment, or has
                # there what the leader is about to cut back.
                return
            manifest = Manifest(
                index=self.applied_index,
                term=self._applied_term,
                voters=self.membership.voters,
                learners=self.membership.learners,
                incarnations=self.membership.incarnations,
            )
            self._writer = SnapshotWriter(self._directory, manifest, self._machine.snapshot(), self._disk)
        if self._writer.step():
            manifest, self.snapshot_bytes = self._writer.manifest, self._writer.size_bytes
            self._writer = None
            self._counters.snapshots_written += 1
            self.snapshot_index = manifest.index
            self._drop_entries(manifest)

    def outgoing(self) -> OutgoingSnapshot:
        """Open this member's snapshot for a member that needs it."""
        return OutgoingSnapshot(self._directory, self.snapshot_index, self._disk)

    def receive(self, leader: str, chunk: SnapshotChunk) -> int | None:
        """Add a piece of a leader's snapshot; return the bytes held so far, None once it is installed."""
        source = (leader, chunk.term)
        incoming = self._incoming
        if incoming is None or source != self._incoming_from or incoming.index != chunk.index:
            self.forget_incoming()
            if chunk.offset != 0:
                return 0
            incoming = IncomingSnapshot(self._directory, chunk.index, chunk.total_bytes, self._disk)
            self._incoming = incoming
            self._incoming_from = source
        if chunk.total_bytes != incoming.total_bytes:
            raise InvalidInputError(
                f"snapshot {chunk.index} of {leader} changed its length while it was sent"
            )
        if not incoming.write(chunk.offset, chunk.data):
            return incoming.received_bytes
        try:
            manifest = incoming.install(chunk.index)
        except IsthmusError as error:
            _log.error("snapshot from leader refused", leader=leader, index=chunk.index, reason=str(error))
            self.forget_incoming()
            return 0
        self.forget_incoming()
        self._install(manifest)
        return None

    def held(self, leader: str, term: int) -> SnapshotProgress | None:
        """Return how much of a copy from this leader has arrived, None when none is on its way."""
        incoming = self._incoming
        if incoming is None or self._incoming_from != (leader, term):
            return None
        return SnapshotProgress(term=term, index=incoming.index, offset=incoming.received_bytes)

    def forget_incoming(self) -> None:
        """Give up an unfinished copy."""
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None

    def close(self) -> None:
        """Release the files; an unfinished snapshot is written again from its beginning."""
        self.forget_incoming()
        if self._writer is not None:
            self._writer.close()
        self.journal.close()
        with contextlib.suppress(UnavailableError):
            self._remove_unfinished()  # They may be what filled the disk.

    def _remove_unfinished(self) -> None:
        for path in (*unfinished_paths(self._directory), self._directory / ROOM_FILE):
            with naming_errors(path, "remove"):
                self._disk.remove(path)

    def _open_snapshot(self, has_snapshot: bool) -> None:
        path = snapshot_path(self._directory)
        if not has_snapshot:
            if self.journal.base.index != FOUNDING_INDEX:
                raise CorruptError(
                    f"journal in {self._directory} begins at {self.journal.base.index}, but its snapshot is gone"
                )
            return
        manifest = verify(path, self._disk)
        if manifest.index < self.journal.base.index:
            raise CorruptError(
                f"snapshot {path} ends at {manifest.index}, the journal begins at {self.journal.base.index}:"
                " entries are missing"
            )
        self._take_state(manifest)
        self._adopt(manifest)

    def _install(self, manifest: Manifest) -> None:
        if self._writer is not None:
            # Ours is older than what was just installed, and must not take its name.
            self._writer.close()
            self._writer = None
        self._take_state(manifest)
        self._adopt(manifest)
        self._counters.snapshots_installed += 1

    def _take_state(self, manifest: Manifest) -> None:
        """Put the snapshot into the state machine unless that is further already."""
        if self.applied_index < manifest.index:
            self._machine.restore(read_chunks(snapshot_path(self._directory), self._disk))
            self.applied_index, self._applied_term = manifest.index, manifest.term
            self.membership = manifest.membership

    def _adopt(self, manifest: Manifest) -> None:
        """Make the journal continue the snapshot, as Raft's InstallSnapshot says (Ongaro, figure 5.3)."""
        if self.journal.term_at(manifest.index) != manifest.term:
            # It ends before the snapshot, or what it has there was never committed.
            self.journal.rewrite(Base(index=manifest.index, term=manifest.term, voters=manifest.voters), [])
        self.journal.commit(manifest.index)
        self.snapshot_index = manifest.index
        path = snapshot_path(self._directory)
        with naming_errors(path, "look at"):
            self.snapshot_bytes = self._disk.size_bytes(path)

    def _drop_entries(self, manifest: Manifest) -> None:
        journal = self.journal
        keep_from = manifest.index + 1
        tail_bytes = 0
        while keep_from > journal.base.index + 1 and manifest.index - keep_from < TAIL_ENTRIES_MAX:
            tail_bytes += ENTRY_OVERHEAD_BYTES + len(
                journal.entries[keep_from - journal.base.index - 2].command
            )
            if tail_bytes > min(TAIL_BYTES, self._snapshot_after_bytes // 4):
                break
            keep_from -= 1
        term = journal.term_at(keep_from - 1)
        assert term is not None
        # The voters of a base matter only where no snapshot is; here one is.
        base = Base(index=keep_from - 1, term=term, voters=manifest.voters)
        journal.begin_rewrite(base)

"""The log of a member that does not run: read to its end, or begun anew from a state.

For restoring a backup and for going on from one survivor. Both leave a log that has no entry in common
with any other member's: the caller gives it another name (`federation` of the engine), so that members of
the old one are refused.
"""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from consensus.core.contract import Counters, StateMachine
from consensus.core.membership import Voters, check_voters
from consensus.core.records import Base
from consensus.core.snapshots import Manifest
from consensus.runtime.disk import FILE_DISK, DirectoryLock, naming_errors, replace_durably
from consensus.runtime.embedded import SNAPSHOT_AFTER_BYTES
from consensus.runtime.journal import FILE_NAME, Journal
from consensus.runtime.snapshots import SnapshotWriter
from consensus.runtime.store import Store
from federation.kernel.errors import AlreadyExistsError, NotFoundError


class LogEnd(Struct, frozen=True, kw_only=True):
    """How far a member's log goes."""

    index: int
    last_term: int  # Of the newest entry. Of two logs, the one with the larger (last_term, index) is newer.
    term: int
    commit_index: int  # Entries above it may or may not have been acknowledged to somebody.
    voters: Voters


def read_log(directory: Path, machine: StateMachine) -> LogEnd:
    """Bring `machine` to the end of the log in `directory`, uncommitted entries included.

    They may have been acknowledged by a majority that is lost now. Raises NotFoundError where there is
    no log, PreconditionError while a member runs on it, CorruptError for damage.
    """
    if not (directory / FILE_NAME).exists():
        raise NotFoundError(f"{directory} holds no log: there is no {FILE_NAME} in it")
    lock = DirectoryLock(directory)
    try:
        store = Store(
            directory,
            founding_voters=(),
            machine=machine,
            counters=Counters(),
            snapshot_after_bytes=SNAPSHOT_AFTER_BYTES,
        )
        try:
            commit_index = store.journal.commit_index
            while store.applied_index < store.journal.last_index:
                store.apply_next()
            return LogEnd(
                index=store.journal.last_index,
                last_term=store.journal.last_term,
                term=max(store.journal.term, store.journal.last_term),
                commit_index=commit_index,
                voters=store.voters,
            )
        finally:
            store.close()
    finally:
        lock.release()


def begin_log(directory: Path, chunks: Iterator[bytes], *, index: int, term: int, voters: Voters) -> None:
    """Begin a log in `directory`, which must not exist, with a snapshot of `chunks` at `index`.

    The directory has its name only when all of it is durable. Raises AlreadyExistsError, UnavailableError
    when the disk refuses.
    """
    check_voters(voters)
    if directory.exists():
        raise AlreadyExistsError(f"{directory} exists: a log is never overwritten, move it away first")
    new = directory.with_name(f"{directory.name}.new")
    with naming_errors(new, "create"):
        _remove_unfinished(new)
        new.mkdir(mode=0o700)
    writer = SnapshotWriter(new, Manifest(index=index, term=term, voters=voters), chunks)
    try:
        while not writer.step():
            pass
    finally:
        writer.close()
    Journal(new, founding=Base(index=index, term=term, voters=voters), counters=Counters()).close()
    with naming_errors(directory, "create"):
        replace_durably(FILE_DISK, new, directory)


def _remove_unfinished(new: Path) -> None:
    """Remove what an attempt left that was cut short; nobody has used it."""
    if new.exists():
        for path in new.iterdir():
            path.unlink()
        new.rmdir()

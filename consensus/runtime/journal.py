"""The log, the term, the vote and a lower bound of the commit index, in memory and in one file.

Nothing that `append`, `truncate` or `vote` recorded may be promised to anybody before `flush` has
returned. A failed write or fdatasync is final: the pages may be lost although a second attempt
would report success, so the journal cuts off what failed and refuses everything after it. Whoever
goes on opens it anew, from what was durable before.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from consensus.core.contract import Counters
from consensus.core.promises import Promise
from consensus.core.records import (
    FILE_HEADER,
    FILE_MAGIC,
    FORMAT_VERSION,
    Base,
    Commit,
    Entry,
    Incarnation,
    Promises,
    Record,
    Truncate,
    Vote,
    decode_file,
    encode_batch,
)
from consensus.runtime.clock import SYSTEM_CLOCK, Clock, new_id
from consensus.runtime.disk import FILE_DISK, Disk, naming_errors, read_file
from consensus.runtime.rewriting import Rewriting
from federation.kernel.errors import CorruptError, UnavailableError

FILE_NAME = "journal"
# `append` writes by itself beyond this, so that a batch stays far below BATCH_BYTES_MAX.
PENDING_BYTES_MAX = 4 * 1024 * 1024


class Journal:
    """The log of one member; entry `index` is `entries[index - base.index - 1]`."""

    def __init__(
        self,
        directory: Path,
        *,
        founding: Base,
        counters: Counters,
        disk: Disk = FILE_DISK,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Open the journal in `directory`; an absent one is begun with `founding`."""
        self._path = directory / FILE_NAME
        self._disk = disk
        self._counters = counters
        self._descriptor = -1
        self._failed = False
        self._rewriting: Rewriting | None = None
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._commit_written = 0
        self.base = founding
        self.entries: list[Entry] = []
        self.term = 0
        self.voted_for: str | None = None
        self.commit_index = founding.index
        self.size_bytes = 0
        # Drawn here for a new directory, and for one that lost the end that names it.
        self.incarnation = _new_incarnation(clock)
        self.is_original = False
        self.promises: tuple[Promise, ...] = ()
        with naming_errors(self._path, "read"):
            disk.remove(directory / f"{FILE_NAME}.new")
            self.is_new = not disk.exists(self._path)
            data = b"" if self.is_new else read_file(disk, self._path)
        if self.is_new:
            self.is_original = True
            self.rewrite(founding, [])
        else:
            self._load(data)

    @property
    def last_index(self) -> int:
        """Index of the newest entry."""
        return self.base.index + len(self.entries)

    @property
    def last_term(self) -> int:
        """Term of the newest entry."""
        return self.entries[-1].term if self.entries else self.base.term

    @property
    def last(self) -> tuple[int, int]:
        """Term and index of the newest entry: what elections compare."""
        return self.last_term, self.last_index

    def term_at(self, index: int) -> int | None:
        """Return the term of entry `index`, None when the log does not reach there."""
        if index == self.base.index:
            return self.base.term
        if not self.base.index < index <= self.last_index:
            return None
        return self.entries[index - self.base.index - 1].term

    def between(self, first: int, last: int, *, bytes_max: int) -> list[Entry]:
        """Return entries `first` to `last`, cut after the one that passes `bytes_max`."""
        size_bytes = 0
        found = []
        for position in range(max(first, self.base.index + 1), min(last, self.last_index) + 1):
            entry = self.entries[position - self.base.index - 1]
            found.append(entry)
            size_bytes += len(entry.command)
            if size_bytes >= bytes_max:
                break
        return found

    def append(self, entry: Entry) -> None:
        """Add the next entry."""
        assert entry.index == self.last_index + 1, "the log has no gaps"
        self.entries.append(entry)
        self._pending.append(entry)
        self._pending_bytes += len(entry.command)
        if self._pending_bytes > PENDING_BYTES_MAX:
            self.flush()

    def truncate(self, index: int) -> None:
        """Remove entry `index` and all behind it: they conflict with a leader's."""
        if index <= self.commit_index:
            raise CorruptError(f"a leader contradicts committed entry {index} of journal {self._path}")
        del self.entries[index - self.base.index - 1 :]
        if self._rewriting is not None and self._rewriting.copied >= index:
            self.begin_rewrite(self._rewriting.base)  # What is gone was copied already.
        self._pending.append(Truncate(index=index))

    def vote(self, term: int, voted_for: str | None) -> None:
        """Enter `term`, durably."""
        self.term, self.voted_for = term, voted_for
        self._pending.append(Vote(term=term, voted_for=voted_for))
        self.flush()

    def renew(self, clock: Clock) -> None:
        """Be another directory from now on, durably: this one forgot a promise."""
        self.incarnation, self.is_original = _new_incarnation(clock), False
        self._pending.append(Incarnation(id=self.incarnation, is_original=False))
        self.flush()

    def remember(self, promises: tuple[Promise, ...]) -> None:
        """Note what others promised; written along with the next batch."""
        self.promises = promises
        self._pending.append(Promises(promises=promises))

    def commit(self, index: int) -> None:
        """Note that entries up to `index` are committed; written along with the next batch."""
        self.commit_index = max(self.commit_index, index)

    def flush(self) -> None:
        """Make everything so far durable; raises UnavailableError, and then always."""
        if self._failed:
            raise UnavailableError(f"journal {self._path} failed earlier; this member stops")
        if not self._pending:
            return
        if self.commit_index > self._commit_written:
            self._pending.append(Commit(index=self.commit_index))
        data = encode_batch(self._pending)
        began_s = time.perf_counter()
        with self._final("write"):
            try:
                self._disk.write(self._descriptor, data)
                self._disk.sync_data(self._descriptor)
            except OSError:
                self._cut_off_unsynced()
                raise
        self._counters.journal_sync.observe(int((time.perf_counter() - began_s) * 1e6))
        self.size_bytes += len(data)
        self._pending, self._pending_bytes = [], 0
        self._commit_written = self.commit_index

    def rewrite(self, base: Base, entries: list[Entry]) -> None:
        """Replace the file in one go by one that begins at `base` and holds `entries`; term and vote stay."""
        self.begin_rewrite(base)
        self.entries, self.base = entries, base
        while not self.step_rewrite():
            continue

    @property
    def is_rewriting(self) -> bool:
        """True while `step_rewrite` has more to do."""
        return self._rewriting is not None

    def begin_rewrite(self, base: Base) -> None:
        """Begin to replace the file by one that begins at `base`, which is in the log; the old one goes on."""
        with self._final("rewrite"):
            self._give_up_rewriting()
            self._rewriting = Rewriting(self._disk, self._path, base)

    def step_rewrite(self) -> bool:
        """Copy the next slice; True when the new file is durable and has its name."""
        new = self._rewriting
        assert new is not None, "begin_rewrite comes first"
        with self._final("rewrite"):
            if not new.copy(self.entries, self.base.index + 1):
                return False
            self.commit_index = max(self.commit_index, new.base.index)
            # Last, so that a file that lost its end does not claim a newer term than its entries.
            descriptor = new.finish(
                [
                    Vote(term=self.term, voted_for=self.voted_for),
                    Commit(index=self.commit_index),
                    Promises(promises=self.promises),
                    Incarnation(id=self.incarnation, is_original=self.is_original),
                ]
            )
        self._rewriting = None
        self.close()
        self._descriptor, self.size_bytes = descriptor, new.size_bytes
        del self.entries[: new.base.index - self.base.index]
        self.base = new.base
        self._pending, self._pending_bytes, self._commit_written = [], 0, self.commit_index
        return True

    def close(self) -> None:
        """Give up the files; what was not flushed is lost, as in a crash."""
        with contextlib.suppress(OSError):
            self._give_up_rewriting()
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._descriptor = -1

    @contextlib.contextmanager
    def _final(self, action: str) -> Iterator[None]:
        """Make a failure within the last thing that this journal does."""
        if self._failed:
            raise UnavailableError(f"journal {self._path} failed earlier; this member stops")
        self._failed = True  # Until everything within has returned.
        with naming_errors(self._path, action):
            yield
        self._failed = False

    def _give_up_rewriting(self) -> None:
        new, self._rewriting = self._rewriting, None
        if new is not None:
            new.give_up()

    def _cut_off_unsynced(self) -> None:
        """Keep later readers from pages that may never reach the disk although they can be read."""
        with contextlib.suppress(OSError):
            self._disk.truncate(self._descriptor, self.size_bytes)

    def _load(self, data: bytes) -> None:
        records, good_bytes = decode_file(data, str(self._path))
        if not records or not isinstance(records[0], Base):
            # The first batch is durable before the file has its name.
            raise CorruptError(f"journal {self._path} has no first batch at offset {len(FILE_HEADER)}")
        is_named = False
        for record in records:
            self._replay(record)
            is_named = is_named or isinstance(record, Incarnation)
        with naming_errors(self._path, "open"):
            self._descriptor = self._disk.open_append(self._path)
            if good_bytes < len(data):
                self._disk.truncate(self._descriptor, good_bytes)
            # What was read may be in the kernel's memory only, left there by a process that was killed
            # before its fdatasync or between a rename and the directory's: from here on it is promised.
            self._disk.sync(self._descriptor)
            self._disk.sync_directory(self._path.parent)
        self.size_bytes = good_bytes
        self.commit_index = self._commit_written = min(
            max(self.commit_index, self.base.index), self.last_index
        )

        if data[len(FILE_MAGIC)] < FORMAT_VERSION:
            self.is_original = True
            self.rewrite(self.base, self.entries)
        elif not is_named:
            self._pending.append(Incarnation(id=self.incarnation, is_original=False))
            self.flush()

    def _replay(self, record: Record) -> None:
        match record:
            case Base():
                self.base, self.entries = record, []
            case Entry():
                if record.index != self.last_index + 1:
                    raise CorruptError(
                        f"journal {self._path} has entry {record.index} where {self.last_index + 1} was expected"
                    )
                self.entries.append(record)
            case Vote():
                self.term, self.voted_for = record.term, record.voted_for
            case Commit():
                self.commit_index = record.index
            case Truncate():
                del self.entries[max(0, record.index - self.base.index - 1) :]
            case Incarnation():
                self.incarnation, self.is_original = record.id, record.is_original
            case Promises():
                self.promises = record.promises


def _new_incarnation(clock: Clock) -> str:
    return f"{new_id(clock):013x}"

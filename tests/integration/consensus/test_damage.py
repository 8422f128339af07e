"""Flipped bits and lost ends: a member refuses to start, or is known to have lost what it promised."""

from pathlib import Path

import pytest

from consensus.core.promises import PromiseTable
from consensus.core.records import BATCH_MAGIC
from federation.kernel.errors import CorruptError, PreconditionError
from tests.integration.consensus.disks import UNSYNCED_DISK
from tests.integration.consensus.one_member import OneMember, Promised
from tests.integration.consensus.test_crash_points import FOUNDERS, follow

FLIP = 0x20


class Before:
    """A follower that has acknowledged and voted, and what a peer remembers of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.promised = Promised()
        member = follow(directory, self.promised, UNSYNCED_DISK)
        self.log = terms(member)
        self.peer = PromiseTable()
        self.since = member.raft._memory.since
        self.peer.note("alpha", self.since, term=member.raft.term, index=max(self.promised.held))
        member.store.close()
        self.journal = (directory / "journal").read_bytes()
        self.snapshot = (directory / "snapshot").read_bytes()
        self.last_batch = self.journal.rindex(BATCH_MAGIC)

    def restore(self, *, journal: bytes | None = None, snapshot: bytes | None = None) -> None:
        (self.directory / "journal").write_bytes(self.journal if journal is None else journal)
        (self.directory / "snapshot").write_bytes(self.snapshot if snapshot is None else snapshot)


def terms(member: OneMember) -> dict[int, int]:
    journal = member.store.journal
    return {entry.index: entry.term for entry in journal.entries}


def check_refused_or_known(before: Before, what: str) -> bool:
    """Start on the damaged files; True when the member started."""
    try:
        member = OneMember(before.directory, FOUNDERS, Promised(), UNSYNCED_DISK)
    except (CorruptError, PreconditionError) as error:
        refusal = error.message
    else:
        refusal = ""
    if refusal:
        assert str(before.directory) in refusal, f"{what}: the error names no file"
        return False
    log = terms(member)
    since = member.raft._memory.since
    is_known = before.peer.broken("alpha", since) is not None or since.incarnation != before.since.incarnation
    member.store.close()
    assert log.items() <= before.log.items(), f"{what}: a silent difference"
    if log != before.log:
        assert is_known, f"{what}: nobody knows that entries are gone"
    return True


def test_a_flipped_bit_in_the_journal_is_refused_or_known(tmp_path: Path) -> None:
    before = Before(tmp_path)
    started = 0
    for position in range(len(before.journal)):
        data = bytearray(before.journal)
        data[position] ^= FLIP
        before.restore(journal=bytes(data))
        started += check_refused_or_known(before, f"flip at {position}")
    # Only a bad last batch may be a write that a crash cut short.
    assert started <= len(before.journal) - before.last_batch


def test_a_journal_that_lost_its_end_at_any_byte_of_its_last_batches_is_known(tmp_path: Path) -> None:
    before = Before(tmp_path)
    third_last = before.journal.rindex(
        BATCH_MAGIC, 0, before.journal.rindex(BATCH_MAGIC, 0, before.last_batch)
    )
    for length in range(third_last, len(before.journal)):
        before.restore(journal=before.journal[:length])
        assert check_refused_or_known(before, f"cut at {length}")


@pytest.mark.parametrize("file", ["journal", "snapshot"])
def test_an_absent_file_is_refused_or_known(tmp_path: Path, file: str) -> None:
    before = Before(tmp_path)
    (tmp_path / file).unlink()
    assert not check_refused_or_known(before, f"no {file}")


def test_a_snapshot_with_a_flipped_bit_or_a_lost_end_is_refused(tmp_path: Path) -> None:
    before = Before(tmp_path)
    for position in range(len(before.snapshot)):
        data = bytearray(before.snapshot)
        data[position] ^= FLIP
        before.restore(snapshot=bytes(data))
        assert not check_refused_or_known(before, f"flip at {position}")
        before.restore(snapshot=before.snapshot[:position])
        assert not check_refused_or_known(before, f"cut at {position}")


def test_what_is_left_when_even_the_directory_is_new_is_another_directory(tmp_path: Path) -> None:
    before = Before(tmp_path)
    for file in ("journal", "snapshot"):
        (tmp_path / file).unlink()
    member = OneMember(tmp_path, FOUNDERS, Promised())
    assert member.raft._memory.since.incarnation != before.since.incarnation
    member.store.close()

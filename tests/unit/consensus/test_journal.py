"""The journal file: what `flush` returned for is there after a crash, in order, and nothing else."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.core.contract import Counters
from consensus.core.records import Base, Entry, decode_file
from consensus.runtime.disk import DirectoryLock
from consensus.runtime.journal import PENDING_BYTES_MAX, Journal
from consensus.runtime.rewriting import SLICE_BYTES
from federation.kernel.errors import CorruptError, PreconditionError, UnavailableError
from tests.unit.consensus.builders import ALPHA

FOUNDING = Base(index=1, term=0, voters=(ALPHA,))


def opened(directory: Path) -> Journal:
    return Journal(directory, founding=FOUNDING, counters=Counters())


def test_a_reopened_journal_has_entries_term_vote_and_commit_index(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal.is_new
    journal.vote(4, "beta")
    journal.append(Entry(2, 4, b"\x00a"))
    journal.append(Entry(3, 4, b"\x00b"))
    journal.commit(2)
    journal.flush()
    journal.close()
    again = opened(tmp_path)
    assert not again.is_new
    assert (again.term, again.voted_for, again.commit_index) == (4, "beta", 2)
    assert again.entries == [Entry(2, 4, b"\x00a"), Entry(3, 4, b"\x00b")]
    assert again.base == FOUNDING
    assert again.size_bytes == (tmp_path / "journal").stat().st_size


def test_what_was_not_flushed_is_gone_after_a_crash(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append(Entry(2, 1, b"\x00kept"))
    journal.flush()
    journal.append(Entry(3, 1, b"\x00lost"))
    journal.close()
    assert opened(tmp_path).entries == [Entry(2, 1, b"\x00kept")]


def test_a_torn_tail_is_cut_off_and_writing_goes_on_behind_the_good_part(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append(Entry(2, 1, b"\x00kept"))
    journal.flush()
    good_bytes = journal.size_bytes
    journal.append(Entry(3, 1, b"\x00torn"))
    journal.flush()
    journal.close()
    os.truncate(tmp_path / "journal", journal.size_bytes - 1)
    again = opened(tmp_path)
    assert again.size_bytes == (tmp_path / "journal").stat().st_size == good_bytes
    again.append(Entry(3, 2, b"\x00new"))
    again.flush()
    again.close()
    assert opened(tmp_path).entries == [Entry(2, 1, b"\x00kept"), Entry(3, 2, b"\x00new")]


def test_one_flush_is_one_sync_however_much_it_holds(tmp_path: Path) -> None:
    counters = Counters()
    journal = Journal(tmp_path, founding=FOUNDING, counters=counters)
    for index in range(2, 500):
        journal.append(Entry(index, 1, b"\x00"))
    journal.flush()
    journal.flush()
    assert counters.journal_syncs == 1


def test_a_large_batch_is_written_in_pieces(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    command = bytes(PENDING_BYTES_MAX // 4)
    for index in range(2, 12):
        journal.append(Entry(index, 1, command))
    journal.flush()
    journal.close()
    again = opened(tmp_path)
    assert again.last_index == 11
    again.rewrite(Base(index=2, term=1, voters=(ALPHA,)), again.entries[1:])
    again.close()
    assert opened(tmp_path).last_index == 11


def test_a_rewritten_journal_keeps_term_vote_and_the_entries_given(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.vote(2, "alpha")
    for index in range(2, 6):
        journal.append(Entry(index, 2, b"\x00%d" % index))
    journal.commit(5)
    journal.rewrite(Base(index=4, term=2, voters=(ALPHA,)), journal.entries[3:])
    journal.close()
    again = opened(tmp_path)
    assert (again.base.index, again.term, again.voted_for, again.commit_index) == (4, 2, "alpha", 5)
    assert again.entries == [Entry(5, 2, b"\x005")]
    assert [again.term_at(index) for index in (3, 4, 5, 6)] == [None, 2, 2, None]


def test_an_unfinished_rewrite_is_ignored(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append(Entry(2, 1, b"\x00"))
    journal.flush()
    journal.close()
    (tmp_path / "journal.new").write_bytes(b"half")
    assert opened(tmp_path).last_index == 2
    assert not (tmp_path / "journal.new").exists()


def sliced(directory: Path) -> Journal:
    """Return a journal of ten entries, of which a rewrite that begins behind entry 3 has copied some but not all."""
    journal = opened(directory)
    for index in range(2, 12):
        journal.append(Entry(index, 1, bytes(SLICE_BYTES // 3)))
    journal.flush()
    journal.begin_rewrite(Base(index=3, term=1, voters=(ALPHA,)))
    assert not journal.step_rewrite()
    assert journal.is_rewriting
    return journal


def finish_rewrite(journal: Journal) -> None:
    while not journal.step_rewrite():
        continue
    assert not journal.is_rewriting


def test_what_happens_while_a_journal_is_rewritten_is_in_both_files(tmp_path: Path) -> None:
    journal = sliced(tmp_path)
    journal.vote(2, "beta")
    journal.append(Entry(12, 2, b"\x00synced"))
    journal.flush()
    records, _good = decode_file((tmp_path / "journal").read_bytes(), "journal")
    assert Entry(12, 2, b"\x00synced") in records
    journal.append(Entry(13, 2, b"\x00pending"))
    finish_rewrite(journal)
    journal.close()
    again = opened(tmp_path)
    assert (again.base.index, again.last_index, again.last_term) == (3, 13, 2)
    assert (again.term, again.voted_for) == (2, "beta")
    assert again.entries == journal.entries


def test_a_journal_whose_rewrite_was_given_up_is_as_before(tmp_path: Path) -> None:
    sliced(tmp_path).close()
    assert not (tmp_path / "journal.new").exists()
    again = opened(tmp_path)
    assert (again.base, again.last_index) == (FOUNDING, 11)


def test_entries_that_a_leader_removes_while_they_are_copied_do_not_come_back(tmp_path: Path) -> None:
    journal = sliced(tmp_path)
    journal.truncate(5)
    journal.append(Entry(5, 2, b"\x00other"))
    finish_rewrite(journal)
    journal.close()
    again = opened(tmp_path)
    assert [(entry.index, entry.term) for entry in again.entries] == [(4, 1), (5, 2)]


def test_after_a_failed_slice_the_journal_promises_nothing_more(tmp_path: Path) -> None:
    journal = sliced(tmp_path)
    os.close(journal._rewriting._descriptor)  # type: ignore[union-attr] # sliced began one
    with pytest.raises(UnavailableError, match="cannot rewrite"):
        finish_rewrite(journal)
    with pytest.raises(UnavailableError, match="failed earlier"):
        journal.vote(2, "alpha")


def test_after_a_failed_write_the_journal_promises_nothing_more(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    good = journal._descriptor
    journal._descriptor = os.open("/dev/full", os.O_WRONLY)  # Every write there fails with ENOSPC.
    journal.append(Entry(2, 1, b"\x00"))
    with pytest.raises(
        UnavailableError, match=f"cannot write {tmp_path / 'journal'}: No space left on device"
    ):
        journal.flush()
    os.close(journal._descriptor)
    journal._descriptor = good
    with pytest.raises(UnavailableError, match="failed earlier"):
        journal.flush()
    with pytest.raises(UnavailableError, match="failed earlier"):
        journal.vote(1, "alpha")
    with pytest.raises(UnavailableError, match="failed earlier"):
        journal.rewrite(FOUNDING, [])


def test_flush_syncs_what_it_wrote_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal.append(Entry(2, 1, b"\x00"))
    journal.flush()
    assert synced == [journal.size_bytes]
    journal.vote(1, "alpha")
    assert synced[1:] == [journal.size_bytes]


def test_a_rewrite_syncs_the_file_before_it_has_its_name_and_the_directory_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        seen.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def noting_replace(source: Path, target: Path) -> Path:
        seen.append(f"rename to {target.name}")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    journal.rewrite(FOUNDING, [])
    assert seen == ["sync journal.new", "rename to journal", f"sync {tmp_path.name}"]


def test_a_failed_sync_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    attempts: list[int] = []

    def failing(descriptor: int) -> None:
        attempts.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    journal.append(Entry(2, 1, b"\x00"))
    for _ in range(2):
        with pytest.raises(UnavailableError):
            journal.flush()
    assert len(attempts) == 1


def test_a_committed_entry_is_never_truncated(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append(Entry(2, 1, b"\x00"))
    journal.commit(2)
    with pytest.raises(CorruptError, match="contradicts committed entry 2"):
        journal.truncate(2)


def test_a_gap_in_the_file_is_named(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal._pending.append(Entry(9, 1, b"\x00"))
    journal.flush()
    journal.close()
    with pytest.raises(CorruptError, match="has entry 9 where 2 was expected"):
        opened(tmp_path)


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path / "member")
    with pytest.raises(PreconditionError, match=f"is in use by process {os.getpid()}"):
        DirectoryLock(tmp_path / "member")
    first.release()
    DirectoryLock(tmp_path / "member").release()


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 400))
def test_between_returns_the_entries_asked_for_cut_behind_the_size(
    first: int, last: int, bytes_max: int
) -> None:
    journal = Journal.__new__(Journal)
    journal.base = FOUNDING
    journal.entries = [Entry(index, 1, bytes(100)) for index in range(2, 8)]
    found = [entry.index for entry in journal.between(first, last, bytes_max=bytes_max)]
    wanted = list(range(max(first, 2), min(last, 7) + 1))
    assert found == wanted[: -(-bytes_max // 100)]


class JournalModel(RuleBasedStateMachine):
    """Any order of calls, crashes and reopenings: the journal equals a list and what was flushed of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name)
        self.journal = opened(self.directory)
        self.term = 0
        self.save()

    def save(self) -> None:
        self.durable = (
            self.journal.base.index,
            list(self.journal.entries),
            self.journal.term,
            self.journal.voted_for,
        )

    @rule(size=st.integers(0, 50), newer=st.booleans())
    def append(self, size: int, newer: bool) -> None:
        self.term += newer
        self.journal.append(Entry(self.journal.last_index + 1, self.term, bytes(size)))

    @precondition(lambda self: self.journal.last_index > self.journal.commit_index)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        self.journal.truncate(data.draw(st.integers(self.journal.commit_index + 1, self.journal.last_index)))

    @rule(name=st.sampled_from(["alpha", "beta", None]))
    def vote(self, name: str | None) -> None:
        self.term += 1
        self.journal.vote(self.term, name)
        self.save()

    @rule()
    def flush(self) -> None:
        self.journal.flush()
        self.save()

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.journal.flush()  # Only what is durable somewhere commits.
        self.journal.commit(data.draw(st.integers(self.journal.commit_index, self.journal.last_index)))
        self.save()

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        journal = self.journal
        index = data.draw(st.integers(journal.base.index, journal.commit_index))
        term = journal.term_at(index)
        assert term is not None
        journal.rewrite(
            Base(index=index, term=term, voters=(ALPHA,)), journal.entries[index - journal.base.index :]
        )
        self.save()

    @rule(torn=st.integers(0, 30))
    def crash(self, torn: int) -> None:
        self.journal.close()
        with (self.directory / "journal").open("ab") as file:
            file.write(bytes(torn))
        committed = self.journal.commit_index
        self.journal = opened(self.directory)
        assert self.journal.commit_index <= committed

    @invariant()
    def is_what_was_flushed(self) -> None:
        again = opened_copy(self.directory)
        assert (again.base.index, again.entries, again.term, again.voted_for) == self.durable

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()


def opened_copy(directory: Path) -> Journal:
    copy = directory / "copy"
    copy.mkdir(exist_ok=True)
    (copy / "journal").write_bytes((directory / "journal").read_bytes())
    journal = opened(copy)
    journal.close()
    return journal


TestJournalModel = JournalModel.TestCase
TestJournalModel.settings = TestJournalModel.settings.__class__(
    TestJournalModel.settings, max_examples=25, stateful_step_count=25
)

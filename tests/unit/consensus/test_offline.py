"""A log read without its member, and one begun from a state."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from consensus.core.contract import Counters
from consensus.core.membership import KIND_COMMAND, Membership, added, encode_change
from consensus.core.records import Base, Entry
from consensus.runtime.disk import DirectoryLock
from consensus.runtime.journal import Journal
from consensus.runtime.offline import begin_log, read_log
from federation.kernel.errors import AlreadyExistsError, CorruptError, NotFoundError, PreconditionError
from tests.unit.consensus.builders import ALPHA, BETA

FAR = 1_763_866_800_000_000  # A time in microseconds, as a restore takes it.


class Words:
    """A state machine that keeps what it was told."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, index: int, command: bytes) -> bytes:
        self.words.append(command)
        return b""

    def snapshot(self) -> Iterator[bytes]:
        return iter(tuple(self.words))

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = list(chunks)


def written(directory: Path) -> None:
    """A log of two committed commands, a third that nobody is known to have acknowledged, and a second voter."""
    directory.mkdir()
    journal = Journal(directory, founding=Base(index=1, term=0, voters=(ALPHA,)), counters=Counters())
    for index, word in ((2, b"a"), (3, b"b")):
        journal.append(Entry(index, 4, KIND_COMMAND + word))
    journal.commit(3)
    change = added(Membership(voters=(ALPHA,)), BETA)
    assert change is not None
    journal.append(Entry(4, 4, encode_change(change)))
    journal.append(Entry(5, 5, KIND_COMMAND + b"c"))
    journal.flush()
    journal.close()


def test_a_survivors_log_is_read_to_its_end_with_what_it_does_not_know_to_be_committed(
    tmp_path: Path,
) -> None:
    written(tmp_path / "raft")
    machine = Words()
    end = read_log(tmp_path / "raft", machine)
    assert machine.words == [b"a", b"b", b"c"]
    assert (end.index, end.term, end.commit_index, end.voters) == (5, 5, 3, (ALPHA, BETA))


def test_a_log_that_a_member_uses_is_not_read(tmp_path: Path) -> None:
    written(tmp_path / "raft")
    lock = DirectoryLock(tmp_path / "raft")
    with pytest.raises(PreconditionError, match="is in use by process"):
        read_log(tmp_path / "raft", Words())
    lock.release()


def test_where_no_log_is_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no log"):
        read_log(tmp_path / "raft", Words())
    assert not (tmp_path / "raft").exists()


def test_a_log_begins_with_the_state_at_its_index_and_its_voters(tmp_path: Path) -> None:
    begin_log(tmp_path / "raft", iter([b"x", b"y"]), index=FAR, term=9, voters=(BETA,))
    machine = Words()
    end = read_log(tmp_path / "raft", machine)
    assert machine.words == [b"x", b"y"]
    assert (end.index, end.term, end.commit_index, end.voters) == (FAR, 9, FAR, (BETA,))
    assert [path.name for path in tmp_path.iterdir()] == ["raft"]


def test_a_log_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "raft")
    before = (tmp_path / "raft" / "journal").read_bytes()
    with pytest.raises(AlreadyExistsError, match="never overwritten"):
        begin_log(tmp_path / "raft", iter([]), index=10, term=1, voters=(ALPHA,))
    assert (tmp_path / "raft" / "journal").read_bytes() == before


def test_a_state_that_cannot_be_read_leaves_nothing_that_looks_like_a_log(tmp_path: Path) -> None:
    def damaged() -> Iterator[bytes]:
        yield b"x"
        raise CorruptError("the rest is damaged")

    with pytest.raises(CorruptError):
        begin_log(tmp_path / "raft", damaged(), index=10, term=1, voters=(ALPHA,))
    assert not (tmp_path / "raft").exists()
    begin_log(tmp_path / "raft", iter([b"x"]), index=10, term=1, voters=(ALPHA,))
    assert read_log(tmp_path / "raft", Words()).index == 10

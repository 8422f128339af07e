"""Snapshot files and what a member does with them when it starts."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from consensus.core.contract import SNAPSHOT_CHUNK_BYTES_MAX, Counters
from consensus.core.membership import KIND_COMMAND, MembershipChange, encode_change
from consensus.core.messages import SnapshotChunk
from consensus.core.records import Base, Entry
from consensus.core.snapshots import FILE_HEADER, FORMAT_VERSION, Manifest
from consensus.runtime.snapshots import (
    SLICE_BYTES,
    SNAPSHOT_BYTES_MAX,
    SnapshotWriter,
    read_chunks,
    snapshot_path,
    verify,
)
from consensus.runtime.store import Store
from federation.kernel.errors import CorruptError, InvalidInputError, LimitExceededError, PreconditionError
from tests.unit.consensus.builders import ALPHA, BETA

MANIFEST = Manifest(index=9, term=3, voters=(ALPHA, BETA))


class Words:
    """A state machine: the list of commands."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, index: int, command: bytes) -> bytes:
        self.words.append(command)
        return b"%d" % index

    def snapshot(self) -> Iterator[bytes]:
        yield from tuple(self.words)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = list(chunks)


def written(directory: Path, chunks: Iterable[bytes], manifest: Manifest = MANIFEST) -> bytes:
    writer = SnapshotWriter(directory, manifest, iter(chunks))
    while not writer.step():
        pass
    return snapshot_path(directory).read_bytes()


def test_chunks_and_manifest_come_back(tmp_path: Path) -> None:
    written(tmp_path, [b"one", b"", b"three"])
    assert verify(snapshot_path(tmp_path)) == MANIFEST
    assert list(read_chunks(snapshot_path(tmp_path))) == [b"one", b"", b"three"]


def test_a_large_state_is_written_in_slices_and_has_its_name_only_at_the_end(tmp_path: Path) -> None:
    chunks = [bytes([number]) * SNAPSHOT_CHUNK_BYTES_MAX for number in range(16)]
    writer = SnapshotWriter(tmp_path, MANIFEST, iter(chunks))
    steps = 1
    while not writer.step():
        assert not snapshot_path(tmp_path).exists()
        steps += 1
    assert steps >= len(chunks) * SNAPSHOT_CHUNK_BYTES_MAX // SLICE_BYTES // 2
    assert writer.size_bytes == snapshot_path(tmp_path).stat().st_size
    assert list(read_chunks(snapshot_path(tmp_path))) == chunks


def test_the_first_chunk_is_drawn_before_anything_more_is_applied(tmp_path: Path) -> None:
    machine = Words()
    machine.words = [b"a", b"b"]
    writer = SnapshotWriter(tmp_path, MANIFEST, machine.snapshot())
    machine.apply(10, b"later")
    while not writer.step():
        pass
    assert list(read_chunks(snapshot_path(tmp_path))) == [b"a", b"b"]


def test_a_chunk_over_the_limit_is_the_state_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(LimitExceededError, match=f"chunk of {SNAPSHOT_CHUNK_BYTES_MAX + 1} bytes"):
        written(tmp_path, [bytes(SNAPSHOT_CHUNK_BYTES_MAX + 1)])


def test_every_cut_and_every_bad_byte_is_noticed(tmp_path: Path) -> None:
    good = written(tmp_path, [b"first chunk", b"second chunk"])
    path = snapshot_path(tmp_path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(CorruptError, match=str(path)):
            verify(path)
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        with pytest.raises((CorruptError, PreconditionError), match=str(path)):
            verify(path)
    path.write_bytes(good + b"more")
    with pytest.raises(CorruptError):
        verify(path)


def test_a_chunk_that_is_missing_between_good_ones_is_noticed(tmp_path: Path) -> None:
    good = written(tmp_path, [b"one", b"two", b"six"])
    block = good[good.index(b"two") - 9 : good.index(b"two") + 3]
    snapshot_path(tmp_path).write_bytes(good.replace(block, b""))
    with pytest.raises(CorruptError, match="its end does not match"):
        verify(snapshot_path(tmp_path))


def test_a_newer_format_asks_for_a_newer_version(tmp_path: Path) -> None:
    good = written(tmp_path, [])
    snapshot_path(tmp_path).write_bytes(
        FILE_HEADER[:-1] + bytes([FORMAT_VERSION + 1]) + good[len(FILE_HEADER) :]
    )
    with pytest.raises(PreconditionError, match=f"has format {FORMAT_VERSION + 1}"):
        verify(snapshot_path(tmp_path))


def opened(directory: Path, *, snapshot_after_bytes: int = 1 << 20) -> tuple[Store, Words]:
    machine = Words()
    store = Store(
        directory,
        founding_voters=(ALPHA,),
        machine=machine,
        counters=Counters(),
        snapshot_after_bytes=snapshot_after_bytes,
    )
    return store, machine


def fill(store: Store, count: int) -> None:
    """Append, commit and apply `count` commands."""
    for _ in range(count):
        index = store.journal.last_index + 1
        store.journal.append(Entry(index, 1, KIND_COMMAND + b"%d" % index))
    store.journal.flush()
    store.journal.commit(store.journal.last_index)
    while store.applied_index < store.journal.commit_index:
        store.apply_next()


def snapshot_now(store: Store) -> None:
    store._snapshot_after_bytes = 0
    store.step_snapshot()
    while store.is_writing_snapshot:
        store.step_snapshot()


def test_a_restart_restores_the_snapshot_and_applies_the_rest(tmp_path: Path) -> None:
    store, machine = opened(tmp_path, snapshot_after_bytes=400)
    fill(store, 40)
    store.step_snapshot()
    fill(store, 5)
    while store.is_writing_snapshot:
        store.step_snapshot()
    assert store.snapshot_index == 41
    assert store.journal.last_index == 46
    assert store.journal.base.index < 41, "some entries stay for members that lag"
    store.journal.flush()
    store.close()
    again, restored = opened(tmp_path)
    assert (again.snapshot_index, again.applied_index) == (41, 41)
    again.journal.commit(again.journal.last_index)  # As a leader says.
    while again.applied_index < again.journal.commit_index:
        again.apply_next()
    assert restored.words == machine.words


def test_membership_is_restored_from_the_snapshot_and_from_the_log(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    change = MembershipChange(op="add", member=BETA, voters=(ALPHA, BETA))
    store.journal.append(Entry(2, 1, encode_change(change)))
    store.journal.commit(2)
    store.apply_next()
    assert store.voters == (ALPHA, BETA)
    fill(store, 3)
    snapshot_now(store)
    store.close()
    assert opened(tmp_path)[0].voters == (ALPHA, BETA)


def test_a_crash_between_installing_a_snapshot_and_the_journal_is_repaired(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    fill(store, 3)
    store.journal.vote(7, "beta")
    store.close()
    written(tmp_path, [b"from the leader"], Manifest(index=90, term=6, voters=(ALPHA, BETA)))
    again, machine = opened(tmp_path)
    assert machine.words == [b"from the leader"]
    assert (again.journal.base.index, again.journal.last_index, again.applied_index) == (90, 90, 90)
    assert (again.journal.term, again.journal.voted_for) == (7, "beta"), "the vote outlives the log"


def test_entries_that_contradict_the_snapshot_are_dropped(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for index in range(2, 12):
        store.journal.append(Entry(index, 1, KIND_COMMAND))
    store.journal.flush()
    store.close()
    written(tmp_path, [b"truth"], Manifest(index=9, term=3, voters=(ALPHA,)))
    again, _ = opened(tmp_path)
    assert (again.journal.base.index, again.journal.last_index) == (9, 9)


def test_entries_behind_an_installed_snapshot_stay_if_they_continue_it(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for index in range(2, 12):
        store.journal.append(Entry(index, 3, KIND_COMMAND))
    store.journal.flush()
    store.close()
    written(tmp_path, [b"truth"], Manifest(index=9, term=3, voters=(ALPHA,)))
    again, _ = opened(tmp_path)
    assert (again.journal.last_index, again.applied_index) == (11, 9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("journal", "has a snapshot but no journal", id="journal"),
        pytest.param("snapshot", "is gone", id="snapshot"),
    ],
)
def test_a_missing_file_stops_the_member(tmp_path: Path, name: str, message: str) -> None:
    store, _ = opened(tmp_path, snapshot_after_bytes=100)
    fill(store, 50)
    snapshot_now(store)
    store.close()
    (tmp_path / name).unlink()
    with pytest.raises(CorruptError, match=message):
        opened(tmp_path)


def test_an_older_snapshot_than_the_journals_begin_stops_the_member(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    fill(store, 10)
    store.journal.rewrite(Base(index=8, term=1, voters=(ALPHA,)), store.journal.entries[7:])
    store.close()
    written(tmp_path, [], Manifest(index=5, term=1, voters=(ALPHA,)))
    with pytest.raises(CorruptError, match="ends at 5, the journal begins at 8"):
        opened(tmp_path)


def pieces(data: bytes, index: int, term: int = 5) -> list[SnapshotChunk]:
    return [
        SnapshotChunk(term=term, index=index, offset=at, total_bytes=len(data), data=data[at : at + 30])
        for at in range(0, len(data), 30)
    ]


def test_a_copied_snapshot_is_installed_when_its_last_piece_arrived(tmp_path: Path) -> None:
    data = written(tmp_path / "..", [b"x" * 50, b"y"], Manifest(index=77, term=5, voters=(BETA,)))
    store, machine = opened(tmp_path)
    *first, last = pieces(data, 77)
    held = [store.receive("beta", piece) for piece in first]
    assert held == [piece.offset + 30 for piece in first]
    assert store.receive("beta", first[0]) == held[-1], "a repeated piece changes nothing"
    assert store.receive("beta", last) is None
    assert machine.words == [b"x" * 50, b"y"]
    assert (store.applied_index, store.voters) == (77, (BETA,))
    store.close()
    assert opened(tmp_path)[0].applied_index == 77


def test_a_copy_from_another_leader_or_term_begins_anew(tmp_path: Path) -> None:
    data = written(tmp_path / "..", [b"x" * 50], Manifest(index=77, term=5, voters=(BETA,)))
    store, _ = opened(tmp_path)
    assert store.receive("beta", pieces(data, 77)[0]) == 30
    assert store.receive("gamma", pieces(data, 77)[1]) == 0
    assert store.receive("gamma", pieces(data, 77)[0]) == 30
    assert store.receive("gamma", pieces(data, 77, term=6)[1]) == 0


def test_a_damaged_copy_is_refused_and_asked_for_again(tmp_path: Path) -> None:
    data = bytearray(written(tmp_path / "..", [b"x" * 50], Manifest(index=77, term=5, voters=(BETA,))))
    data[-40] ^= 1
    store, machine = opened(tmp_path)
    held = [store.receive("beta", piece) for piece in pieces(bytes(data), 77)]
    assert held[-1] == 0
    assert machine.words == []
    assert store.applied_index == 1


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(
            SnapshotChunk(term=1, index=9, offset=0, total_bytes=SNAPSHOT_BYTES_MAX + 1, data=b""),
            id="announced",
        ),
        pytest.param(SnapshotChunk(term=1, index=9, offset=0, total_bytes=5, data=b"123456"), id="sent"),
    ],
)
def test_a_copy_over_its_size_is_refused(tmp_path: Path, chunk: SnapshotChunk) -> None:
    store, _ = opened(tmp_path)
    with pytest.raises(InvalidInputError):
        store.receive("beta", chunk)

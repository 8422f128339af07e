"""The process ends in front of, or in the midst of, each file operation: what was promised is there."""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consensus.core.membership import KIND_COMMAND, KIND_NOOP, Voters
from consensus.core.messages import Append, RequestVote, SnapshotChunk
from consensus.core.records import Entry
from consensus.core.snapshots import KIND_CHUNK, Manifest, encode_block, encode_end, encode_manifest
from consensus.runtime.disk import Disk, NoRoomError
from federation.kernel.errors import UnavailableError
from tests.integration.consensus.disks import UNSYNCED_DISK, FailingDisk, StoppedHere, StoppingDisk
from tests.integration.consensus.one_member import OneMember, Promised
from tests.unit.consensus.builders import ALPHA, BETA, GAMMA

WRITES = 40
PADDING = bytes(150)  # Every twenty writes make a snapshot.
FOUNDERS = (ALPHA, BETA, GAMMA)

Script = Callable[[Path, Promised, Disk], OneMember]


def write_alone(directory: Path, promised: Promised, disk: Disk) -> OneMember:
    """A member alone: votes for itself, appends, writes snapshots, drops entries, restarts in between."""
    member = OneMember(directory, (ALPHA,), promised, disk)
    member.lead_alone()
    for number in range(WRITES):
        if number == WRITES * 3 // 4:
            member.store.close()
            member = OneMember(directory, (ALPHA,), promised, disk)
            member.lead_alone()
        member.write(b"%d " % number + PADDING)
    return member


def follow(directory: Path, promised: Promised, disk: Disk) -> OneMember:
    """A follower: votes, appends, is corrected by a newer leader, gets a snapshot, goes on behind it."""
    member = OneMember(directory, FOUNDERS, promised, disk)
    member.cycle(("beta", RequestVote(term=1, last_index=1, last_term=0)))
    entries = [Entry(2, 1, KIND_NOOP), *(command(index, 1) for index in range(3, 12))]
    for entry in entries:
        member.cycle(("beta", append(1, entry, commit=6)))
    member.raft._elections.heard_s = None
    member.cycle(("gamma", RequestVote(term=2, last_index=40, last_term=1)))
    # The newer leader never saw entries 9 to 11: they were acknowledged to beta in vain.
    for index in range(9, 12):
        promised.held.pop(index, None)
    member.cycle(("gamma", append(2, Entry(9, 2, KIND_NOOP), prev_term=1, commit=8)))
    for piece in snapshot_of(20, term=2):
        member.cycle(("gamma", piece))
    for index in range(21, 26):
        member.cycle(("gamma", append(2, command(index, 2), prev_term=2, commit=index - 1)))
    return member


def command(index: int, term: int) -> Entry:
    return Entry(index, term, KIND_COMMAND + b"%d " % index + PADDING)


def append(term: int, entry: Entry, *, commit: int, prev_term: int | None = None) -> Append:
    if prev_term is None:
        prev_term = 0 if entry.index == 2 else entry.term
    return Append(
        term=term, commit_index=commit, prev_index=entry.index - 1, prev_term=prev_term, entries=(entry,)
    )


def snapshot_of(index: int, *, term: int) -> Iterator[SnapshotChunk]:
    """Return a leader's snapshot at `index` in pieces of a third of it."""
    data = encode_manifest(Manifest(index=index, term=term, voters=FOUNDERS)) + encode_block(KIND_CHUNK, b"")
    data += encode_end(1, hashlib.sha256(data).digest())
    size = len(data) // 3 + 1
    for offset in range(0, len(data), size):
        yield SnapshotChunk(
            term=term,
            index=index,
            offset=offset,
            total_bytes=len(data),
            data=data[offset : offset + size],
        )


def operations(script: Script, directory: Path) -> int:
    disk = StoppingDisk(stop_at=0)
    script(directory, Promised(), disk).store.close()
    return disk.operations


def check_kept(member: OneMember) -> None:
    """Everything that was promised is in the snapshot or in the log, and nothing twice."""
    journal, promised = member.store.journal, member.promised
    for index, term in promised.held.items():
        assert index <= journal.base.index or journal.term_at(index) == term, f"entry {index}"
    for term, candidate in promised.votes.items():
        assert journal.term > term or (journal.term, journal.voted_for) == (term, candidate)


@pytest.mark.parametrize("torn", [False, True], ids=["stopped", "torn"])
def test_a_member_alone_keeps_what_it_answered_wherever_it_ends(tmp_path: Path, torn: bool) -> None:
    total = operations(write_alone, directory_of(tmp_path, 0))
    assert total > 3 * WRITES / 2
    for stop_at in range(1, total + 1):
        directory, promised = directory_of(tmp_path, stop_at), Promised()
        disk = StoppingDisk(stop_at=stop_at, torn=torn)
        with pytest.raises(StoppedHere):
            write_alone(directory, promised, disk)
        disk.process_ended()
        again = OneMember(directory, (ALPHA,), promised, UNSYNCED_DISK)
        again.lead_alone()
        again.write(b"after")
        applied = [command for _index, command in again.machine.commands]
        kept = [command for command in applied if command in set(promised.commands)]
        assert kept == promised.commands, f"operation {stop_at}"
        assert len(applied) - len(kept) <= 1, "at most the one that was not answered yet"
        again.store.close()


@pytest.mark.parametrize("torn", [False, True], ids=["stopped", "torn"])
def test_a_follower_keeps_what_it_acknowledged_and_voted_wherever_it_ends(tmp_path: Path, torn: bool) -> None:
    total = operations(follow, directory_of(tmp_path, 0))
    for stop_at in range(1, total + 1):
        directory, promised = directory_of(tmp_path, stop_at), Promised()
        disk = StoppingDisk(stop_at=stop_at, torn=torn)
        with pytest.raises(StoppedHere):
            follow(directory, promised, disk)
        disk.process_ended()
        again = OneMember(directory, FOUNDERS, promised, UNSYNCED_DISK)
        check_kept(again)
        again.store.close()


@pytest.mark.parametrize(
    ("script", "voters"), [(write_alone, (ALPHA,)), (follow, FOUNDERS)], ids=["alone", "follower"]
)
def test_a_member_that_ends_again_while_it_starts_keeps_what_it_promised(
    tmp_path: Path, script: Script, voters: Voters
) -> None:
    """A start repairs what a torn end left, and may itself end in front of each of its operations."""
    starts_that_changed_files = 0
    for stop_at in range(1, operations(script, directory_of(tmp_path, 0)) + 1):
        left, promised = directory_of(tmp_path, stop_at), Promised()
        disk = StoppingDisk(stop_at=stop_at, torn=True)
        with pytest.raises(StoppedHere):
            script(left, promised, disk)
        disk.process_ended()
        for again_at in itertools.count(1):
            directory = tmp_path / f"{stop_at}-{again_at}"
            shutil.copytree(left, directory)
            disk = StoppingDisk(stop_at=again_at, torn=True)
            try:
                OneMember(directory, voters, promised, disk).store.close()
            except StoppedHere:
                disk.process_ended()
                starts_that_changed_files += 1
            else:
                break
            again = OneMember(directory, voters, promised, UNSYNCED_DISK)
            check_kept(again)
            if script is write_alone:
                again.lead_alone()
                assert [c for _index, c in again.machine.commands][: len(promised.commands)] == (
                    promised.commands
                ), f"operation {stop_at}, then {again_at}"
            again.store.close()
    assert starts_that_changed_files > 0


SNAPSHOT_POINTS = ("create snapshot.new", "write snapshot.new", "sync snapshot.new", "rename snapshot.new")
JOURNAL_POINTS = ("create journal.new", "write journal.new", "sync journal.new", "rename journal.new")


@pytest.mark.parametrize(
    "point",
    ["write journal", "sync journal", *SNAPSHOT_POINTS, "renamed snapshot.new", *JOURNAL_POINTS, "renamed journal.new"],
)  # fmt: skip
def test_a_failing_file_operation_is_not_repeated_and_stops_its_member_with_the_file_named(
    tmp_path: Path, point: str
) -> None:
    promised = Promised()
    first = OneMember(tmp_path, (ALPHA,), promised)  # A new journal is made by the operations of a rewrite.
    first.lead_alone()
    first.store.close()
    disk = FailingDisk(point)
    with pytest.raises(UnavailableError, match=f"cannot .*{tmp_path}.*Input/output error") as caught:
        write_alone(tmp_path, promised, disk)
    assert not isinstance(caught.value, NoRoomError), "there is no waiting for room"
    assert disk.failed == 1
    again = OneMember(tmp_path, (ALPHA,), promised)
    again.lead_alone()
    applied = [command for _index, command in again.machine.commands]
    assert applied[: len(promised.commands)] == promised.commands
    assert len(applied) - len(promised.commands) <= 1, "at most the one that was not answered yet"
    again.store.close()


def directory_of(tmp_path: Path, number: int) -> Path:
    directory = tmp_path / str(number)
    directory.mkdir()
    return directory

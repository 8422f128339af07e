"""The faults do what they say: a simulation that injects nothing would hold whatever the engine did."""

import errno
import random
from pathlib import Path

import pytest

from consensus.runtime.disk import FILE_DISK, Disk, read_file, replace_durably
from tests.simulation.disk import SimDisk, StoppedHere
from tests.simulation.plan import PLANS
from tests.simulation.world import run

SEEDS = 5  # Of each plan.


def sim_disk(seed: int = 0) -> SimDisk:
    return SimDisk(random.Random(seed), spend=lambda _seconds: None)


def written(disk: Disk, path: Path, *parts: bytes, sync: bool = True) -> int:
    descriptor = disk.create(path)
    for part in parts:
        disk.write(descriptor, part)
    if sync:
        disk.sync_data(descriptor)
    return descriptor


@pytest.mark.parametrize("disk", [FILE_DISK, sim_disk()], ids=["files", "simulated"])
def test_both_disks_read_back_what_was_written_whatever_its_name_is_now(disk: Disk, tmp_path: Path) -> None:
    path, new = tmp_path / "f", tmp_path / "f.new"
    disk.close(written(disk, path, b"old", b" text"))
    reader = disk.open_read(path)
    disk.close(written(disk, new, b"new text"))
    replace_durably(disk, new, path)
    assert disk.read(reader, 100, 0) == b"old text"
    assert disk.read(reader, 3, 4) == b"tex"
    assert read_file(disk, path) == b"new text"
    assert not disk.exists(new)
    appended = disk.open_append(path)
    disk.write(appended, b"!")
    assert disk.size_bytes(path) == 9
    disk.truncate(appended, 3)
    disk.write(appended, b".")
    assert read_file(disk, path) == b"new."
    disk.remove(path)
    disk.remove(path)
    assert not disk.exists(path)
    with pytest.raises(FileNotFoundError):
        disk.open_read(path)


@pytest.mark.parametrize("seed", range(30))
def test_a_power_cut_keeps_what_was_synced_and_at_most_a_torn_piece_of_the_rest(seed: int) -> None:
    disk, path = sim_disk(seed), Path("/f")
    descriptor = written(disk, path, b"s" * 100)
    disk.sync_directory(path.parent)
    disk.write(descriptor, b"u" * 100)
    disk.power_cut()
    left = read_file(disk, path)
    assert left[:100] == b"s" * 100
    assert len(left) <= 200
    assert set(left[100:]) <= set(b"u\0")


def test_a_name_that_was_not_synced_may_be_lost_and_may_stay() -> None:
    fates = set()
    for seed in range(20):
        disk, path = sim_disk(seed), Path("/f")
        written(disk, path, b"old")
        disk.sync_directory(path.parent)
        written(disk, Path("/f.new"), b"new")
        disk.rename(Path("/f.new"), path)
        disk.power_cut()
        fates.add(read_file(disk, path))
    assert fates == {b"old", b"new"}


def test_a_killed_process_loses_nothing() -> None:
    disk, path = sim_disk(), Path("/f")
    written(disk, path, b"unsynced", sync=False)
    disk.process_ended()
    assert read_file(disk, path) == b"unsynced"
    assert disk.durable("f") == (None, b"")


def test_a_failed_sync_loses_its_bytes_although_the_next_one_succeeds() -> None:
    disk, path = sim_disk(), Path("/f")
    descriptor = written(disk, path, b"good")
    disk.sync_directory(path.parent)
    disk.write(descriptor, b"lost")
    disk.fail_syncs = True
    with pytest.raises(OSError, match="Input/output") as caught:
        disk.sync_data(descriptor)
    assert caught.value.errno == errno.EIO
    disk.fail_syncs = False
    disk.sync_data(descriptor)
    disk.power_cut()
    assert read_file(disk, path) == b"good\0\0\0\0"


def test_a_full_disk_takes_what_it_has_room_for() -> None:
    disk, path = sim_disk(), Path("/f")
    descriptor = disk.create(path)
    disk.room_bytes = 10
    with pytest.raises(OSError, match="No space"):
        disk.write(descriptor, b"x" * 11)
    assert disk.size_bytes(path) == 10


def test_a_process_can_end_at_each_file_operation() -> None:
    for operation in range(1, 4):
        disk = sim_disk()
        disk.stop_after = operation
        with pytest.raises(StoppedHere):
            written(disk, Path("/f"), b"data")
        assert disk.operations == operation


def test_the_seeds_of_the_suite_meet_every_fault_elections_and_snapshots() -> None:
    faults: set[str] = set()
    leaders = snapshots = 0
    for name in PLANS:
        for seed in range(SEEDS):
            outcome = run(name, seed)
            faults |= {line.split()[1] for line in outcome.faults}
            leaders += outcome.leaders
            snapshots += outcome.snapshots_installed
    assert faults >= {
        "partition", "isolation", "kill", "kill_after_vote", "power_cut", "power_cut_all", "stop_in_file",
        "pause", "full_disk", "failing_sync", "slow_disk", "reset", "membership",
    }  # fmt: skip
    assert leaders > 2 * SEEDS * len(PLANS)
    assert snapshots > 0

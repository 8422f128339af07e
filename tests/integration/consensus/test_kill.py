"""kill -9, frozen processes and full disks, on members in processes of their own that write without pause."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from tests.integration.consensus.cluster import running_cluster
from tests.integration.consensus.crash_loop import FOUNDERS, Members, crash, freeze, kill_in
from tests.support.processes import ProcessSet
from tests.support.tools import tool
from tests.support.wait import eventually

pytestmark = pytest.mark.timeout(300)

WRITES_PER_ROUND = 800  # About two snapshots for each member.
ROOM_BYTES = 4 * 1024 * 1024
ROOM_LEFT_BYTES = 200_000  # About two snapshots and two journals: full after some thousand writes.


@pytest.fixture
def members(tmp_path: Path, processes: ProcessSet) -> Members:
    return Members(tmp_path, processes)


def test_kill_9_of_all_members_loses_no_acknowledged_command(members: Members) -> None:
    for _round in range(2):
        members.start_missing()
        members.wait_for_writes(WRITES_PER_ROUND)
        members.kill(*FOUNDERS)
    assert members.check() > 2 * WRITES_PER_ROUND


def test_random_kills_and_pauses_lose_no_acknowledged_command(members: Members) -> None:
    rng = random.Random(11)
    for _round in range(6):
        members.start_missing()
        members.wait_for_writes(rng.randrange(20, 300))
        crash(members, rng)
    members.end()
    members.check()


def test_a_member_killed_while_its_snapshot_takes_its_place_loses_nothing(members: Members) -> None:
    points = ("sync snapshot.new", "renamed snapshot.new", "rename journal.new", "renamed journal.new")
    members.start_missing()
    for number, point in enumerate(points):
        members.wait_for_writes(50)
        kill_in(members, FOUNDERS[number % 3], point)
        members.start_missing()
    members.wait_for_writes(50)
    members.end()
    members.check()


def test_a_frozen_leader_is_replaced_and_confirms_nothing_when_it_wakes(members: Members) -> None:
    members.start_missing()
    members.wait_for_writes(50)
    for name in FOUNDERS:  # One of them leads.
        freeze(members, name, 2.5)
        members.wait_for_writes(50)
    members.end()
    members.check()


def test_a_disk_that_refuses_a_larger_file_stops_its_member_with_the_reason(members: Members) -> None:
    """Not a full disk: room never comes back, so a person must act."""
    members.addresses = {"alpha": members.addresses["alpha"]}
    process = members.start("alpha", FILE_BYTES_MAX="30000")
    assert process.wait(timeout_s=60) != 0
    journal = members.directory / "alpha" / "journal"
    assert f"cannot write {journal}" in process.log()
    assert journal.stat().st_size <= 30_000

    async def kept() -> set[bytes]:
        async with running_cluster(members.directory, members.addresses, members.ca) as cluster:
            running = await cluster.start("alpha", ["alpha"])
            await cluster.write("alpha", b"end")
            return {command for _index, command in running.machine.commands}

    assert set(members.acknowledged()) <= asyncio.run(kept())


def test_a_member_on_a_full_file_system_comes_back_when_there_is_room(members: Members) -> None:
    """A tmpfs in a mount namespace of the member's own, which ends with it."""
    if os.geteuid() != 0:
        pytest.skip("mount namespaces need root")
    mount = members.directory / "alpha"
    mount.mkdir()
    filler = "filler"
    script = (
        f"mount -t tmpfs -o size={ROOM_BYTES},mode=0700 none {mount} && "
        f'head -c {ROOM_BYTES - ROOM_LEFT_BYTES} /dev/zero >{mount / filler} && exec "$@"'
    )
    prefix = (str(tool("unshare")), "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    alpha = members.start("alpha", prefix)
    members.start_missing()
    alpha.wait_for_log("disk is full", timeout_s=120)
    assert "No space left on device" in alpha.log()
    members.wait_for_writes(100)  # The others go on.
    inside = Path(f"/proc/{alpha.pid}/root") / mount.relative_to("/")
    (inside / filler).unlink()
    alpha.wait_for_log("there is room again", timeout_s=60)
    size_bytes = (inside / "journal").stat().st_size
    eventually(lambda: (inside / "journal").stat().st_size != size_bytes, timeout_s=60, message="it follows")
    members.wait_for_writes(100)
    # What it holds must outlive its mount, to be compared.
    alpha.send(signal.SIGSTOP)
    kept = {file.name: file.read_bytes() for file in inside.iterdir() if file.name in ("journal", "snapshot")}
    members.end()
    for name, data in kept.items():
        (mount / name).write_bytes(data)
    members.check()

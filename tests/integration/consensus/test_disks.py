"""Full, failing and slow disks: nothing false is acknowledged; a full one heals by itself."""

import asyncio
import itertools
from contextlib import suppress
from pathlib import Path

import pytest

from federation.kernel.errors import IsthmusError, OutcomeUnknownError, UnavailableError
from tests.integration.consensus.cluster import Cluster, cluster_of
from tests.integration.consensus.disks import FailingSyncs, FullDisk
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")
SNAPSHOT_AFTER_BYTES = 8_000


async def same_everywhere(cluster: Cluster) -> list[bytes]:
    machines = [member.machine for member in cluster.members.values()]
    await eventually_async(
        lambda: all(machine.commands == machines[0].commands for machine in machines), timeout_s=60
    )
    return [command for _index, command in machines[0].commands]


async def write_once(cluster: Cluster, name: str, command: bytes) -> None:
    """Write until it is certain; each attempt differs, so that what is there twice was applied twice."""
    attempts = itertools.count()

    async def attempt() -> bool:
        text = command + b" attempt %d " % next(attempts) + bytes(200)
        try:
            await cluster.members[name].engine.propose(text, timeout_ms=10_000)
        except (UnavailableError, OutcomeUnknownError):
            return False
        return True

    await eventually_async(attempt, timeout_s=60)


@pytest.mark.parametrize("at_sync", [False, True], ids=["write", "sync"])
@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_a_member_whose_disk_is_full_steps_aside_and_returns_when_there_is_room(
    tmp_path: Path, victim: str, at_sync: bool
) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS, founding=False) as cluster:
            disks = {name: FullDisk(at_sync=at_sync) for name in FOUNDERS}
            for name in FOUNDERS:
                await cluster.start(
                    name, FOUNDERS, disk=disks[name], snapshot_after_bytes=SNAPSHOT_AFTER_BYTES
                )
            leader = await cluster.leader()
            await write_once(cluster, leader, b"before")
            name = leader if victim == "leader" else (await cluster.followers())[0]
            engine = cluster.members[name].engine
            disks[name].is_full = True
            confirmed = []
            with suppress(IsthmusError):  # Of a follower's command the others may confirm in time.
                await engine.propose(b"perhaps", timeout_ms=2_000)
                confirmed.append(b"perhaps")
            await eventually_async(lambda: engine.status().role == "paused", timeout_s=60)
            assert not (confirmed and victim == "leader"), "a leader confirms nothing that it could not write"
            assert "No space left" in engine.status().problem or "no space left" in engine.status().problem
            with pytest.raises(UnavailableError, match="until there is room"):
                await engine.propose(b"never", timeout_ms=2_000)
            others = [other for other in FOUNDERS if other != name]
            for number in range(60):  # Far enough for a snapshot, which it will be behind.
                await write_once(cluster, others[number % 2], b"meanwhile %d" % number)
            state = list(cluster.members[name].machine.commands)
            disks[name].is_full = False
            await eventually_async(lambda: engine.status().role != "paused", timeout_s=60)
            assert cluster.members[name].machine.commands[: len(state)] == state, "it never goes back"
            await write_once(cluster, name, b"after")
            kept = await same_everywhere(cluster)
            assert len(kept) == len(set(kept)), "applied twice"
            assert b"never" not in kept
            assert kept[0].startswith(b"before")
            assert set(confirmed) <= set(kept)
            assert kept[-1].startswith(b"after")

    asyncio.run(scenario())


def test_a_member_alone_on_a_full_disk_goes_on_from_what_it_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", founding=False) as cluster:
            disk = FullDisk()
            alpha = await cluster.start("alpha", ["alpha"], disk=disk)
            await cluster.write("alpha", b"before")
            disk.is_full = True
            with pytest.raises(IsthmusError):
                await alpha.engine.propose(b"perhaps", timeout_ms=2_000)
            await eventually_async(lambda: alpha.engine.status().role == "paused", timeout_s=60)
            refused = disk.refused
            await eventually_async(lambda: disk.refused > refused, timeout_s=60, message="it looks again")
            disk.is_full = False
            await cluster.write("alpha", b"after")
            assert alpha.engine.status().problem == ""
            assert [command for _index, command in alpha.machine.commands] == [b"before", b"after"]
            await cluster.stop("alpha")
            again = await cluster.start("alpha", ["alpha"])
            await eventually_async(lambda: again.machine.commands == alpha.machine.commands, timeout_s=60)

    asyncio.run(scenario())


def test_a_member_that_starts_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", founding=False) as cluster:
            disk = FullDisk()
            disk.is_full = True
            async with asyncio.TaskGroup() as tasks:
                started = tasks.create_task(cluster.start("alpha", ["alpha"], disk=disk))
                await eventually_async(
                    lambda: (
                        "alpha" in cluster.members
                        and cluster.members["alpha"].engine.status().role == "paused"
                    ),
                    timeout_s=60,
                )
                disk.is_full = False
                alpha = await started
            await cluster.write("alpha", b"after")
            assert alpha.engine.status().role == "leader"

    asyncio.run(scenario())


def test_a_failed_sync_is_never_repeated_and_stops_its_member_with_the_file_named(tmp_path: Path) -> None:
    disk = FailingSyncs()

    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", founding=False) as cluster:
            alpha = await cluster.start("alpha", ["alpha"], disk=disk)
            await cluster.write("alpha", b"before")
            disk.is_failing = True
            with pytest.raises(OutcomeUnknownError):
                await alpha.engine.propose(b"never confirmed", timeout_ms=20_000)
            await asyncio.Event().wait()  # The failure of `run` cancels us.

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(UnavailableError, match=r"cannot write .*/journal: Input/output error")
    assert disk.failed == 1


def test_a_slow_disk_makes_writes_slow_and_deposes_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS, founding=False) as cluster:
            disks = {name: FailingSyncs() for name in FOUNDERS}
            for name in FOUNDERS:
                await cluster.start(name, FOUNDERS, disk=disks[name])
            leader = await cluster.leader()
            await cluster.write(leader, b"before")
            term = cluster.members[leader].engine.status().term
            for name in FOUNDERS:
                disks[name].pause_s = 0.2
                for number in range(3):
                    await cluster.write(leader, b"slow %d at " % number + name.encode())
                disks[name].pause_s = 0.0
            assert len(set(await same_everywhere(cluster))) == 10
            assert cluster.members[leader].engine.status().term == term

    asyncio.run(scenario())

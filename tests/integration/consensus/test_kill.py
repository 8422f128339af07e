"""kill -9 of whole clusters, and a disk that takes no more."""

import asyncio
import sys
from pathlib import Path

import msgspec

from consensus.core.contract import MemberAddress
from tests.integration.consensus.cluster import fresh_addresses, running_cluster
from tests.integration.consensus.pki import TestCa
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually, eventually_async

FOUNDERS = ("alpha", "beta", "gamma")
ROUNDS = 3
WRITES_PER_ROUND = 800  # About two snapshots for each member.
MODULE = "tests.integration.consensus.member_process"
REPOSITORY = Path(__file__).parents[3]


def prepare(directory: Path, addresses: dict[str, MemberAddress]) -> TestCa:
    ca = TestCa(directory / "pki")
    for name, member in addresses.items():
        ca.security(member.identity).leaf.rename(directory / "pki" / f"{name}.pem")
    return ca


def start(
    processes: ProcessSet, directory: Path, name: str, members: list[MemberAddress], **env: str
) -> Process:
    arguments = [directory, name, msgspec.json.encode(members).decode(), directory / "acknowledged"]
    command = [sys.executable, "-m", MODULE, *arguments]
    return processes.start(name, command, cwd=REPOSITORY, env=env)


def acknowledged(directory: Path) -> list[bytes]:
    path = directory / "acknowledged"
    # The last line may be cut by the kill.
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def write_and_kill(processes: ProcessSet, directory: Path, members: list[MemberAddress]) -> None:
    """Start all members, let them acknowledge WRITES_PER_ROUND commands, kill all at once."""
    before = len(acknowledged(directory))
    running = [start(processes, directory, name, members) for name in FOUNDERS]

    def enough() -> bool:
        for process in running:
            process.check_running()
        return len(acknowledged(directory)) > before + WRITES_PER_ROUND

    eventually(enough, timeout_s=60, message=lambda: f"writes go on\n{running[0].log()}")
    for process in running:
        process.kill()


def test_kill_9_of_all_members_loses_no_acknowledged_command(tmp_path: Path, processes: ProcessSet) -> None:
    addresses = fresh_addresses(*FOUNDERS)
    ca = prepare(tmp_path, addresses)
    members = list(addresses.values())
    for _round in range(ROUNDS):
        write_and_kill(processes, tmp_path, members)

    async def survivors() -> list[list[bytes]]:
        async with running_cluster(tmp_path, addresses, ca) as cluster:
            for name in FOUNDERS:
                await cluster.start(name, FOUNDERS)
            await cluster.write(await cluster.leader(), b"end")
            machines = [cluster.members[name].machine for name in FOUNDERS]
            await eventually_async(lambda: all(m.commands[-1][1] == b"end" for m in machines), timeout_s=30)
            assert any(member.engine.status().snapshot_index > 0 for member in cluster.members.values())
            assert machines[0].commands == machines[1].commands == machines[2].commands
            return [command for _index, command in machines[0].commands]

    kept = asyncio.run(survivors())
    lost = set(acknowledged(tmp_path)) - set(kept)
    assert not lost
    assert len(kept) == len(set(kept)), "a command that was proposed once applied twice"


def test_a_member_whose_disk_is_full_stops_with_the_reason_and_acknowledges_nothing_more(
    tmp_path: Path, processes: ProcessSet
) -> None:
    addresses = fresh_addresses("alpha")
    ca = prepare(tmp_path, addresses)
    process = start(processes, tmp_path, "alpha", list(addresses.values()), FILE_BYTES_MAX="30000")
    assert process.wait(timeout_s=60) != 0
    assert f"cannot write {tmp_path / 'alpha' / 'journal'}" in process.log()
    assert (tmp_path / "alpha" / "journal").stat().st_size <= 30_000

    async def kept() -> set[bytes]:
        async with running_cluster(tmp_path, addresses, ca) as cluster:
            running = await cluster.start("alpha", ["alpha"])
            await cluster.write("alpha", b"end")
            return {command for _index, command in running.machine.commands}

    assert set(acknowledged(tmp_path)) <= asyncio.run(kept())

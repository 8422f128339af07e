"""A member whose directory lost what it had acknowledged has no vote until it has caught up again."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from consensus.core.records import BATCH_MAGIC, Promises, decode_file
from tests.integration.consensus.cluster import Cluster, Journalled, cluster_of
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")


def emptied(directory: Path, _older: Path) -> None:
    shutil.rmtree(directory)


def older(directory: Path, older: Path) -> None:
    shutil.rmtree(directory)
    shutil.copytree(older, directory)


def shortened(directory: Path, _older: Path) -> None:
    """Cut the journal at the begin of a batch: what is left is flawless."""
    journal = directory / "journal"
    data = journal.read_bytes()
    journal.write_bytes(data[: data.rindex(BATCH_MAGIC, 0, len(data) * 3 // 4)])


def remembered(journal: Path, member: str) -> int:
    """Return up to where the owner of `journal` durably knows that `member` acknowledged the log."""
    records, _end = decode_file(journal.read_bytes(), "journal")
    found = [promise for record in records if isinstance(record, Promises) for promise in record.promises]
    return max((promise.index for promise in found if promise.member == member), default=0)


def distinct(machine: Journalled) -> set[bytes]:
    """Return what was written; one whose outcome was not known may have been repeated."""
    return {command for _index, command in machine.commands}


async def known_directories(cluster: Cluster) -> None:
    """Wait until the log says to which directory each vote belongs."""
    leader = await cluster.leader()
    await eventually_async(
        lambda: len(cluster.members[leader].engine.status().voting_directories) == len(FOUNDERS), timeout_s=60
    )


async def rejoin(cluster: Cluster, name: str, leader: str) -> None:
    engine = cluster.members[leader].engine
    await eventually_async(lambda: engine.status().learners == (name,), timeout_s=60)
    assert name not in engine.status().members
    await engine.promote(name, timeout_ms=20_000)
    await eventually_async(
        lambda: cluster.members[name].engine.status().role in ("follower", "leader"), timeout_s=60
    )


@pytest.mark.parametrize("damage", [emptied, older, shortened])
def test_a_member_that_forgot_a_promise_becomes_a_learner_and_may_be_promoted(
    tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            victim = (await cluster.followers())[0]
            await known_directories(cluster)
            await cluster.write(victim, b"early")
            await cluster.stop(victim)
            shutil.copytree(tmp_path / victim, tmp_path / "older")
            await cluster.start(victim, FOUNDERS)
            for number in range(30):
                await cluster.write(victim, b"acknowledged %d" % number)
            await cluster.stop(victim)
            damage(tmp_path / victim, tmp_path / "older")
            await cluster.start(victim, FOUNDERS)
            await rejoin(cluster, victim, await cluster.leader())
            assert cluster.members[victim].engine.status().problem == ""
            await cluster.write(victim, b"after")
            machines = [cluster.members[name].machine for name in FOUNDERS]
            await eventually_async(
                lambda: machines[0].commands == machines[1].commands == machines[2].commands, timeout_s=60
            )
            assert len(distinct(machines[0])) == 32

    asyncio.run(scenario())


def test_a_member_that_forgot_elects_nobody_who_lacks_what_it_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            victim, behind = await cluster.followers()
            await known_directories(cluster)
            await cluster.write(behind, b"early")
            await cluster.stop(victim)
            shutil.copytree(tmp_path / victim, tmp_path / "older")
            await cluster.start(victim, FOUNDERS)
            applied = await cluster.write(victim, b"seen by all")
            journal = tmp_path / behind / "journal"
            await eventually_async(
                lambda: remembered(journal, victim) >= applied.index,
                timeout_s=60,
                message="it is told, and notes it",
            )
            await cluster.stop(behind)
            for number in range(10):
                await cluster.write(leader, b"by two of three %d" % number)
            await cluster.stop(leader)
            await cluster.stop(victim)
            older(tmp_path / victim, tmp_path / "older")
            victim_member = await cluster.start(victim, FOUNDERS)
            behind_member = await cluster.start(behind, FOUNDERS)
            await eventually_async(
                lambda: victim_member.engine.status().role == "joining", timeout_s=60, message="told"
            )
            assert behind_member.engine.status().role != "leader"
            await cluster.start(leader, FOUNDERS)
            await cluster.write(behind, b"after")
            await eventually_async(
                lambda: victim_member.machine.commands == behind_member.machine.commands, timeout_s=60
            )
            assert len(distinct(behind_member.machine)) == 13

    asyncio.run(scenario())

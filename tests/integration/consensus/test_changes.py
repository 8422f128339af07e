"""Learners, promotion and the transfer of leadership, on members with real sockets and disks."""

import asyncio
from pathlib import Path

import pytest

from federation.kernel.errors import NotFoundError, PreconditionError, UnavailableError
from tests.integration.consensus.cluster import Cluster, cluster_of
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")


async def settled(cluster: Cluster, leader: str) -> None:
    await eventually_async(
        lambda: all(member.engine.status().leader == leader for member in cluster.members.values()),
        timeout_s=60,
    )


def test_leadership_moves_to_whom_any_member_names_and_no_write_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            terms = []
            for turn in range(4):
                old = await cluster.leader()
                await cluster.write(old, b"before %d" % turn)
                target, other = await cluster.followers()
                term = cluster.members[old].engine.status().term
                # By the leader itself, its successor, and the third in turn.
                asked = cluster.members[(old, target, other)[turn % 3]].engine
                await asked.transfer_leadership(target, timeout_ms=20_000)
                await settled(cluster, target)
                terms.append(cluster.members[target].engine.status().term - term)
                await cluster.write(old, b"after %d" % turn)
            assert min(terms) == 1, "one election, no rival, unless the machine slept"
            await cluster.members[target].engine.transfer_leadership(target, timeout_ms=5_000)
            with pytest.raises(NotFoundError, match="no member delta votes"):
                await cluster.members[target].engine.transfer_leadership("delta", timeout_ms=5_000)
            written = [command for _index, command in cluster.members[target].machine.commands]
            assert len(set(written)) == 8

    asyncio.run(scenario())


def test_a_transfer_to_a_member_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            gone = (await cluster.followers())[0]
            await cluster.stop(gone)
            engine = cluster.members[leader].engine
            await eventually_async(lambda: gone not in engine.status().connected, timeout_s=60)
            with pytest.raises(
                (PreconditionError, UnavailableError), match=f"{gone} is not connected|leads after"
            ):
                await engine.transfer_leadership(gone, timeout_ms=500)
            await cluster.write(leader, b"goes on")
            assert engine.status().role == "leader"

    asyncio.run(scenario())


def test_a_learner_gets_the_log_without_a_vote_until_it_is_promoted_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS, founding=False) as cluster:
            alpha = await cluster.start("alpha", ["alpha"], snapshot_after_bytes=20_000)
            await cluster.write("alpha", b"first")
            newcomer = cluster.addresses["beta"]
            await alpha.engine.add_learner(newcomer, timeout_ms=5_000)
            await alpha.engine.add_learner(newcomer, timeout_ms=5_000)
            assert (alpha.engine.status().members, alpha.engine.status().learners) == (("alpha",), ("beta",))
            await cluster.start("beta", ["alpha"])
            await cluster.write("alpha", bytes(30_000))  # The membership is in a snapshot from here on.
            await cluster.write("alpha", b"second")
            await eventually_async(lambda: alpha.engine.status().snapshot_index > 0, timeout_s=60)
            for name in ("alpha", "beta"):
                await cluster.stop(name)
            alpha = await cluster.start("alpha", ["alpha"])
            beta = await cluster.start("beta", ["alpha"])
            await eventually_async(lambda: beta.engine.status().role == "learner", timeout_s=60)
            await eventually_async(lambda: beta.machine.commands == alpha.machine.commands, timeout_s=60)
            assert alpha.engine.status().learners == ("beta",)
            await beta.engine.promote("beta", timeout_ms=10_000)
            await eventually_async(lambda: beta.engine.status().role == "follower", timeout_s=60)
            status = beta.engine.status()
            assert (status.members, status.learners) == (("alpha", "beta"), ())
            await eventually_async(
                lambda: [peer.id for peer in alpha.engine.status().peers if peer.is_voter] == ["beta"],
                timeout_s=60,
            )
            with pytest.raises(NotFoundError, match="no member gamma is a learner"):
                await alpha.engine.promote("gamma", timeout_ms=5_000)

    asyncio.run(scenario())

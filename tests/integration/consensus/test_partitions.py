"""What a member that is cut off may do, and what its return may not disturb."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consensus.core.timing import Timing
from federation.kernel.errors import IsthmusError, UnavailableError
from tests.integration.consensus.cluster import ROUND_TRIP_MS, Cluster, cluster_of
from tests.integration.consensus.links import CuttableSecurity, Forwarder
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")
LONGEST_ELECTION_MS = Timing(round_trip_ms=ROUND_TRIP_MS).election_max_ms


class Links:
    """Three members whose connections can be cut."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._security: dict[str, CuttableSecurity] = {}
        self._forwarders: list[Forwarder] = []

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        for name in FOUNDERS:
            member = self.cluster.addresses[name]
            host, port = member.address.split(":")
            listen = f"{host}:{int(port) + 100}"
            self._security[name] = CuttableSecurity(self.cluster.ca.security(member.identity))
            forwarder = Forwarder(member, listen)
            await forwarder.run(tasks)
            self._forwarders.append(forwarder)
            security = self._security[name]
            await self.cluster.start(name, FOUNDERS, listen=listen, security=security)

    def cut(self, name: str) -> None:
        self._security[name].is_cut = True
        for forwarder in self._forwarders:
            forwarder.break_connections()

    def heal(self, name: str) -> None:
        self._security[name].is_cut = False


@asynccontextmanager
async def linked(directory: Path) -> AsyncIterator[Links]:
    async with cluster_of(directory, *FOUNDERS, founding=False) as cluster, asyncio.TaskGroup() as tasks:
        links = Links(cluster)
        forwarding = tasks.create_task(_forward(links))
        await eventually_async(lambda: len(cluster.members) == 3, timeout_s=60)
        yield links
        for name in FOUNDERS:
            await cluster.stop(name)
        forwarding.cancel()


async def _forward(links: Links) -> None:
    async with asyncio.TaskGroup() as tasks:
        await links.start(tasks)
        await asyncio.Event().wait()


def test_a_follower_that_was_cut_off_does_not_depose_the_leader_when_it_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as links:
            cluster = links.cluster
            leader = await cluster.leader()
            await cluster.write(leader, b"before")
            cut = cluster.members[(await cluster.followers())[0]].engine
            term = cut.status().term
            links.cut(cut.status().id)
            # Without pre-vote its term would grow with each election timeout.
            await eventually_async(
                lambda: (cut.status().last_leader_contact_ms_ago or 0) > 2 * LONGEST_ELECTION_MS, timeout_s=60
            )
            await cluster.write(leader, b"meanwhile")
            assert cut.status().term == term
            assert cut.status().leader is None
            links.heal(cut.status().id)
            await cluster.write(cut.status().id, b"after")
            assert {member.engine.status().term for member in cluster.members.values()} == {term}
            assert await cluster.leader() == leader

    asyncio.run(scenario())


def test_a_leader_that_was_cut_off_confirms_nothing_and_follows_when_it_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as links:
            cluster = links.cluster
            old = await cluster.leader()
            await cluster.write(old, b"before")
            isolated = cluster.members[old]
            links.cut(old)
            with pytest.raises(IsthmusError):
                await isolated.engine.propose(b"never confirmed", timeout_ms=300)
            with pytest.raises(UnavailableError):
                await isolated.engine.read_barrier(timeout_ms=300)
            others = [name for name in FOUNDERS if name != old]

            def new_leader() -> str | None:
                return next((n for n in others if cluster.members[n].engine.status().role == "leader"), None)

            new = await eventually_async(new_leader, timeout_s=60)
            await cluster.write(new, b"after")
            await eventually_async(lambda: isolated.engine.status().role != "leader", timeout_s=60)
            links.heal(old)

            def is_same() -> bool:
                first, *rest = [cluster.members[name].machine.commands for name in FOUNDERS]
                return all(commands == first for commands in rest) and first[-1][1] == b"after"

            await eventually_async(is_same, timeout_s=60)
            assert b"never confirmed" not in [command for _index, command in isolated.machine.commands]

    asyncio.run(scenario())

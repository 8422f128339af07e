"""Members tell each other what their wall clocks show, and none of them alone moves federation time."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

from structlog.testing import capture_logs

from consensus.runtime.clock import SYSTEM_CLOCK, SystemClock
from discovery.core.catalog import Catalog
from federation.api.proposer import Proposer
from federation.app.duties import LeaderDuties
from federation.kernel.versions import SCHEMA_VERSION
from tests.integration.consensus.cluster import Cluster, Journalled, cluster_of
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")
YEAR_MS = 365 * 86_400_000
DAY_MS = 86_400_000


class Settable(SystemClock):
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def unix_ms(self) -> int:
        return super().unix_ms() + self.ahead_ms


class Catalogued(Journalled):
    """The catalog as state machine."""

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog()

    def apply(self, index: int, command: bytes) -> bytes:
        return self.catalog.apply(index, command)

    def snapshot(self) -> Iterator[bytes]:
        return self.catalog.snapshot()

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.catalog.restore(chunks)


async def start_all(cluster: Cluster, clocks: dict[str, Settable]) -> dict[str, Catalog]:
    catalogs = {}
    for name in FOUNDERS:
        machine = Catalogued()
        await cluster.start(name, FOUNDERS, machine=machine, clock=clocks[name])
        catalogs[name] = machine.catalog
    return catalogs


async def tick(cluster: Cluster, name: str, catalog: Catalog) -> None:
    """Do what a leader does for everybody, until cancelled."""
    engine = cluster.members[name].engine
    proposer = Proposer(engine, cluster=name, schema=lambda: SCHEMA_VERSION)
    duties = LeaderDuties(engine, proposer, catalog=catalog, members=lambda: (), standings=dict)
    await duties.run()


def test_each_member_knows_what_the_clocks_of_those_show_that_are_connected(tmp_path: Path) -> None:
    async def scenario() -> None:
        clocks = {name: Settable() for name in FOUNDERS}
        clocks["beta"].ahead_ms = YEAR_MS
        async with cluster_of(tmp_path, *FOUNDERS, founding=False) as cluster:
            await start_all(cluster, clocks)
            for name in FOUNDERS:
                engine = cluster.members[name].engine
                await eventually_async(lambda e=engine: set(e.clocks()) == set(FOUNDERS), timeout_s=60)
                shown = engine.clocks()
                now_ms = SYSTEM_CLOCK.unix_ms()
                assert abs(shown["beta"] - now_ms - YEAR_MS) < DAY_MS
                assert abs(shown["gamma"] - now_ms) < DAY_MS
            await cluster.stop("beta")
            alpha = cluster.members["alpha"].engine
            await eventually_async(lambda: set(alpha.clocks()) == {"alpha", "gamma"}, timeout_s=60)

    asyncio.run(scenario())


def test_a_leader_whose_clock_is_set_a_year_ahead_ticks_the_others_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        clocks = {name: Settable() for name in FOUNDERS}
        async with cluster_of(tmp_path, *FOUNDERS, founding=False) as cluster:
            catalogs = await start_all(cluster, clocks)
            async with asyncio.TaskGroup() as tasks:
                ticking = [tasks.create_task(tick(cluster, name, catalogs[name])) for name in FOUNDERS]
                follower = (await cluster.followers())[0]
                await eventually_async(
                    lambda: catalogs[follower].now_ms > SYSTEM_CLOCK.unix_ms() - DAY_MS, timeout_s=60
                )
                before_ms = catalogs[follower].now_ms
                with capture_logs() as logs:
                    clocks[await cluster.leader()].ahead_ms = YEAR_MS
                    await eventually_async(
                        lambda: any(line["event"] == "clock_is_off" for line in logs), timeout_s=60
                    )
                await eventually_async(lambda: catalogs[follower].now_ms >= before_ms + 2_000, timeout_s=60)
                for catalog in catalogs.values():
                    assert catalog.now_ms < SYSTEM_CLOCK.unix_ms() + DAY_MS
                for task in ticking:
                    task.cancel()

    asyncio.run(scenario())

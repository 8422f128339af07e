"""What agents said and the catalog has not is on disk soon, and no longer once the catalog has it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from discovery.core.declarations import Declaration
from discovery.core.model import Endpoint, EndpointKey
from federation.api.registry import ClusterRegistry
from federation.app import remembering
from federation.app.remembering import LocalMemory
from federation.replication.local_journal import FOLDER, LocalJournal
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import Log, endpoint, founded

WAIT_S = 60.0
ROW, OTHER = endpoint(name="one"), endpoint(name="two")


class World:
    """A controller of alpha and the folder that it keeps when it starts again."""

    def __init__(self, folder: Path, log: Log | None = None) -> None:
        self.folder = folder
        self.log = log or founded()
        self.registries: dict[str, ClusterRegistry] = {}
        self.memory = LocalMemory(
            self.journal(), tables=lambda: self.log.catalog.tables, registries=self.registries
        )
        self.registry = ClusterRegistry(
            "alpha",
            catalog=self.log.catalog,
            lease_ms=10_000,
            clock=lambda: 0.0,
            changed=lambda _cluster, changes: self.memory.touched(change.key for change in changes),
        )
        self.registries["alpha"] = self.registry
        self.registry.recall(*self.memory.recall("alpha"))

    def journal(self) -> LocalJournal:
        return LocalJournal(self.folder, controller="alpha-c1", federation="fed-1")

    def declare(self, *rows: Endpoint, sequence: int = 1) -> None:
        session = object()
        self.registry.open("agent-1", 1, session)
        said = Declaration(agent="agent-1", incarnation=1, sequence=sequence, put=rows, complete=True)
        assert self.registry.declare(said, session).refused == ()

    def publish(self, *rows: Endpoint) -> None:
        assert self.log.publish("alpha", *rows).code == 0
        self.memory.touched(row.key.encode() for row in rows)

    def names(self) -> set[str]:
        return {EndpointKey.decode(key).name for key, _ in self.registry.rows()}

    def held(self) -> set[str]:
        return {EndpointKey.decode(key).name for key in self.journal().load()}

    async def holds(self, *names: str) -> None:
        await eventually_async(lambda: self.held() == set(names), timeout_s=WAIT_S)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.memory.run())
            yield
            task.cancel()


async def test_a_controller_that_starts_again_has_what_only_it_was_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        world.declare(ROW, OTHER)
        await world.holds("one", "two")
        world.publish(ROW)
        await world.holds("two")
    after = World(tmp_path, world.log)
    assert after.names() == {"one", "two"}
    assert after.registry.difference().put == ()  # Nobody has said so since.
    after.declare(ROW, OTHER)
    assert after.registry.difference().put == (OTHER,)


async def test_what_the_catalog_took_while_the_controller_was_away_is_held_no_longer(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        world.declare(ROW, OTHER)
        await world.holds("one", "two")
    world.publish(ROW)
    after = World(tmp_path, world.log)
    async with after.running():
        await after.holds("two")


async def test_a_withdrawal_that_is_not_global_is_remembered(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(ROW, OTHER)
    async with world.running():
        world.declare(OTHER, sequence=2)
        await world.holds("one")
    after = World(tmp_path, world.log)
    assert after.names() == {"two"}
    assert [key.name for key, *_ in after.registry.difference().remove] == ["one"]


async def test_of_a_cluster_that_is_served_no_longer_nothing_is_held(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        world.declare(ROW)
        await world.holds("one")
    registries: dict[str, ClusterRegistry] = {}
    world.memory = LocalMemory(
        world.journal(), tables=lambda: world.log.catalog.tables, registries=registries
    )
    async with world.running():
        await world.holds()


async def test_a_cluster_that_joins_under_the_name_of_a_removed_one_has_nothing_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running():
        world.declare(ROW)
        await world.holds("one")
        world.registries.clear()
        world.memory.leave("alpha")
        await world.holds()


async def test_a_disk_that_fails_costs_only_the_memory_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembering, "RETRY_S", 0.0)
    folder = tmp_path / FOLDER
    world = World(tmp_path)
    folder.write_text("in the way")
    async with world.running():
        world.declare(ROW)
        await eventually_async(lambda: world.memory.failing, timeout_s=WAIT_S)
        folder.unlink()
        await world.holds("one")

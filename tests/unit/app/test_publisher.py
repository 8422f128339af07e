"""Publishing against a real catalog: fences, retries and batches."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from discovery.core.commands import AcquireLease, Command, Delete, PublishEndpoints
from discovery.core.declarations import Declaration, Difference
from discovery.core.model import Endpoint, unpack_endpoint
from discovery.core.room import Takes
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.app.publisher import BATCHES_BURST, BATCHES_PER_S, HELD_PAUSE_SHARE, LEASE_TTL_MS, Publisher
from federation.kernel.errors import InvalidInputError, OutcomeUnknownError
from tests.support.wait import eventually_async
from tests.unit.api.logs import CatalogLog
from tests.unit.discovery.builders import Log, endpoint, founded, key, put

WAIT_S = 60.0


class World:
    """One controller of alpha with one agent."""

    def __init__(
        self,
        before: Callable[[Command], None] = lambda _command: None,
        *,
        registry: type[ClusterRegistry] = ClusterRegistry,
    ) -> None:
        self.log = founded()
        self.wire = CatalogLog(self.log, before)
        self.registry = registry(
            "alpha", catalog=self.log.catalog, lease_ms=10_000, clock=lambda: 0.0, changed=lambda *_: None
        )
        self.log.catalog.on_change(lambda _revision, changes: self.registry.absorb(changes))
        self.session = object()
        self.registry.open("agent-1", 1, self.session)

    def declare(self, *rows: Endpoint, sequence: int = 1, complete: bool = True) -> None:
        said = Declaration(agent="agent-1", incarnation=1, sequence=sequence, put=rows, complete=complete)
        assert self.registry.declare(said, self.session).refused == ()

    def published(self) -> set[str]:
        return {key.decode().rpartition("\0")[2] for key, _ in self.log.catalog.tables.endpoints.items()}

    def kinds(self) -> list[type]:
        return [type(command.body) for command in self.wire.proposed]

    async def publishing(self, condition: Callable[[], bool], *, holder: str = "alpha-c1") -> None:
        """Run a publisher until the condition holds."""
        publisher = Publisher(
            self.registry,
            holder=holder,
            catalog=self.log.catalog,
            proposer=Proposer(self.wire, cluster="alpha"),
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(publisher.run())
            await eventually_async(condition, timeout_s=WAIT_S)
            running.cancel()

    def settled(self) -> bool:
        return self.registry.published_version == self.registry.version and not self.registry.held


def rows(count: int) -> list[Endpoint]:
    return [endpoint(name=f"e{number}") for number in range(count)]


async def test_what_was_declared_becomes_global_and_is_acknowledged_with_its_revision() -> None:
    world = World()
    world.declare(*rows(3))
    await world.publishing(world.settled)
    assert world.published() == {"e0", "e1", "e2"}
    assert world.kinds() == [AcquireLease, PublishEndpoints]
    assert await world.registry.wait_published(1, "agent-1") == world.log.catalog.revision


async def test_many_endpoints_go_in_several_batches_under_one_fence() -> None:
    world = World()
    world.declare(*rows(600))
    await world.publishing(world.settled)
    assert len(world.published()) == 600
    batches = [one.body for one in world.wire.proposed if isinstance(one.body, PublishEndpoints)]
    assert len(batches) > 2
    assert len({batch.fence for batch in batches}) == 1
    assert sum(len(batch.put) for batch in batches) == 600


async def test_who_changes_all_the_time_sends_few_batches_and_what_is_newest() -> None:
    world = World()
    clock = asyncio.get_running_loop().time
    began_s = clock()

    async def change_all_the_time() -> None:
        for sequence in range(2, 400):
            row = endpoint(name="e0", version=(1, sequence), ready=sequence % 2 == 0)
            world.declare(row, sequence=sequence, complete=sequence == 2)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        changing = tasks.create_task(change_all_the_time())
        await world.publishing(lambda: changing.done() and world.settled())
    batches = world.kinds().count(PublishEndpoints)
    assert 1 < batches <= BATCHES_BURST + BATCHES_PER_S * (clock() - began_s) + 1
    assert row_of(world, "e0").version == (1, 399)


async def test_nothing_new_is_not_proposed() -> None:
    world = World()
    world.declare(*rows(2))
    await world.publishing(world.settled)
    count = len(world.wire.proposed)
    world.declare(*rows(2), sequence=1)
    await world.publishing(world.settled)
    assert len(world.wire.proposed) == count


async def test_a_withdrawn_endpoint_goes_globally() -> None:
    world = World()
    world.declare(*rows(2))
    await world.publishing(world.settled)
    said = Declaration(agent="agent-1", incarnation=1, sequence=2, remove=(rows(1)[0].key,))
    world.registry.declare(said, world.session)
    await world.publishing(world.settled)
    assert world.published() == {"e1"}


async def test_a_publisher_that_lost_its_fence_acquires_the_lease_again() -> None:
    stolen = iter([True])
    log: list[Log] = []

    def before(command: Command) -> None:
        if isinstance(command.body, PublishEndpoints) and next(stolen, False):
            # Meanwhile the lease ran out, another controller had it, and its own ran out as well.
            for moment in (1, 2):
                log[0].wait(LEASE_TTL_MS)
                if moment == 1:
                    assert log[0].lease("publish/alpha", "alpha-c2", ttl_ms=1).lease.granted  # type: ignore[union-attr]

    world = World(before)
    log.append(world.log)
    world.declare(*rows(2))
    await world.publishing(world.settled)
    assert world.published() == {"e0", "e1"}
    assert world.kinds() == [AcquireLease, PublishEndpoints, AcquireLease, PublishEndpoints]
    fences = [one.body.fence for one in world.wire.proposed if isinstance(one.body, PublishEndpoints)]
    assert fences[0] < fences[1]


async def test_while_another_holds_the_lease_nothing_is_published_and_afterwards_everything() -> None:
    world = World()
    assert world.log.lease("publish/alpha", "alpha-c2", ttl_ms=LEASE_TTL_MS).lease is not None
    world.declare(*rows(2))
    await world.publishing(lambda: world.kinds().count(AcquireLease) >= 2)
    assert PublishEndpoints not in world.kinds()
    assert world.published() == set()
    assert not world.settled()
    assert len(dict(world.registry.rows())) == 2  # Nothing of the cluster's own stopped.
    world.log.wait(LEASE_TTL_MS)
    await world.publishing(world.settled)
    assert world.published() == {"e0", "e1"}


@pytest.mark.parametrize("error", [OutcomeUnknownError("lost"), InvalidInputError("nonsense")])
async def test_a_failed_batch_is_repeated_without_harm(error: Exception) -> None:
    failing = iter([True, True, False])

    def before(command: Command) -> None:
        if isinstance(command.body, PublishEndpoints) and next(failing, False):
            raise error

    world = World(before)
    world.declare(*rows(3))
    await world.publishing(world.settled)
    assert world.published() == {"e0", "e1", "e2"}


async def test_what_is_declared_while_a_batch_travels_is_published_by_the_next() -> None:
    more = iter([True])
    worlds: list[World] = []

    def before(command: Command) -> None:
        if isinstance(command.body, PublishEndpoints) and next(more, False):
            said = Declaration(
                agent="agent-1", incarnation=1, sequence=2, put=(endpoint(name="late", version=(1, 2)),)
            )
            worlds[0].registry.declare(said, worlds[0].session)

    world = World(before)
    worlds.append(world)
    world.declare(*rows(1))
    await world.publishing(lambda: world.settled() and world.published() == {"e0", "late"})
    assert world.registry.published_version == 2


async def test_agents_that_never_pause_hear_that_what_they_said_is_global() -> None:
    worlds: list[World] = []
    acknowledged: list[int] = []

    def before(command: Command) -> None:
        """Each batch finds something new to say, up to the twentieth."""
        world, sequence = worlds[0], len(worlds[0].wire.proposed) + 2
        if isinstance(command.body, PublishEndpoints):
            acknowledged.append(world.registry.published_version)
            if sequence < 20:
                row = endpoint(name="e0", version=(1, sequence))
                world.declare(row, sequence=sequence, complete=False)

    world = World(before)
    worlds.append(world)
    world.declare(*rows(1))
    await world.publishing(world.settled)
    assert len(acknowledged) > 10
    assert acknowledged == list(range(len(acknowledged)))


async def test_a_limit_keeps_new_endpoints_out_until_there_is_room_and_nothing_else() -> None:
    world = World()
    world.declare(*rows(3))
    await world.publishing(world.settled)
    # The limit falls after the rows were believed here: only the log stands against them.
    world.registry.declare(
        Declaration(agent="agent-1", incarnation=1, sequence=2, put=(endpoint(name="new", version=(1, 2)),)),
        world.session,
    )
    world.log.accept("beta", put(key("Quota", "alpha"), {"endpoints": 3}))
    world.declare(endpoint(name="e0", version=(1, 3), ready=False), sequence=3, complete=False)
    await world.publishing(lambda: not row_of(world, "e0").ready)
    assert world.published() == {"e0", "e1", "e2"}
    assert (
        "cluster alpha: 4 endpoints, at most 3 are allowed by Quota/alpha spec.endpoints"
        in world.registry.limited
    )
    assert not world.settled()  # Nobody was told that it is global.
    world.log.accept("beta", put(key("Quota", "alpha"), {"endpoints": 4}))
    await world.publishing(world.settled)
    assert world.published() == {"e0", "e1", "e2", "new"}
    assert world.registry.limited == ""


async def test_a_namespace_that_is_full_keeps_out_nothing_of_the_others_nor_more_than_it_must() -> None:
    world = World()
    world.declare(*rows(600), *(endpoint(name=f"b{number}", namespace="bank") for number in range(3)))
    world.log.accept("beta", put(key("Quota", "alpha"), {"namespaces": {"shop": {"endpoints": 2}}}))
    await world.publishing(lambda: len(world.published()) == 5)
    assert {"b0", "b1", "b2"} < world.published()
    assert "in namespace shop, at most 2 are allowed" in world.registry.limited
    world.declare(endpoint(name="b3", namespace="bank", version=(1, 2)), sequence=2, complete=False)
    await world.publishing(lambda: "b3" in world.published())
    world.log.accept("beta", Delete(key=key("Quota", "alpha")))
    await world.publishing(world.settled)
    assert len(world.published()) == 604


async def test_a_namespace_beyond_its_own_rate_waits_and_the_others_do_not() -> None:
    world = World()
    limits: dict[str, object] = {"namespaces": {"shop": {"changesPerSecond": 1, "changesBurst": 2}}}
    world.log.accept("beta", put(key("Quota", "alpha"), limits))
    world.declare(*rows(600), *(endpoint(name=f"b{number}", namespace="bank") for number in range(3)))
    await world.publishing(lambda: {"b0", "b1", "b2"} < world.published())
    assert len(world.published()) < 600
    world.declare(endpoint(name="b3", namespace="bank", version=(1, 2)), sequence=2, complete=False)
    await world.publishing(lambda: "b3" in world.published())
    assert not world.settled()  # Nobody was told that it is global.
    world.log.accept("beta", Delete(key=key("Quota", "alpha")))
    await world.publishing(world.settled)
    assert len(world.published()) == 604


@pytest.mark.parametrize(
    "limits", [{"endpoints": 2}, {"changesPerSecond": 1, "changesBurst": 2}], ids=["room", "pace"]
)
async def test_only_agents_whose_rows_have_to_wait_hear_of_nothing_newer_that_it_is_global(
    limits: dict[str, int],
) -> None:
    world = World()
    other = object()
    world.registry.open("agent-2", 1, other)
    row = endpoint(name="b0", namespace="bank", agent="agent-2")
    said = Declaration(agent="agent-2", incarnation=1, sequence=1, put=(row,), complete=True)
    world.registry.declare(said, other)
    world.declare(*rows(5))
    world.log.accept("beta", put(key("Quota", "alpha"), {"namespaces": {"shop": limits}}))
    version, told = world.registry.version, set[str]()

    async def wait(agent: str) -> None:
        await world.registry.wait_published(version, agent)
        told.add(agent)

    async with asyncio.TaskGroup() as tasks:
        for agent in ("agent-1", "agent-2"):
            tasks.create_task(wait(agent))
        await world.publishing(lambda: "agent-2" in told)
        assert told == {"agent-2"}
        world.log.accept("beta", Delete(key=key("Quota", "alpha")))
        await world.publishing(lambda: "agent-1" in told)
    assert len(world.published()) == 6


async def test_the_first_batch_goes_by_the_quota_of_now() -> None:
    world = World()
    world.declare(*rows(300))
    world.log.accept(
        "beta", put(key("Quota", "alpha"), {"namespace": {"changesPerSecond": 1, "changesBurst": 3}})
    )
    await world.publishing(lambda: PublishEndpoints in world.kinds())
    batch = next(one.body for one in world.wire.proposed if isinstance(one.body, PublishEndpoints))
    assert len(batch.put) == 3


async def test_who_waits_for_a_rate_keeps_nobody_from_the_room_that_there_is_again() -> None:
    world = World()
    # There is more of the shop than this test has time for.
    slow = {"changesPerSecond": 1, "changesBurst": 1}
    both: dict[str, object] = {"namespaces": {"shop": slow, "bank": {"endpoints": 1}}}
    world.declare(*rows(600), *(endpoint(name=f"b{number}", namespace="bank") for number in range(2)))
    world.log.accept("beta", put(key("Quota", "alpha"), both))

    def has_room() -> bool:
        if world.registry.limited:
            world.log.accept("beta", put(key("Quota", "alpha"), {"namespaces": {"shop": slow}}))
        return {"b0", "b1"} < world.published()

    await world.publishing(has_room)
    assert len(world.published()) < 600


class Slow(ClusterRegistry):
    """It works for some time on each look at what there is to publish, as if that were much."""

    def __init__(self, cluster: str, **given: Any) -> None:
        self.looks_s: list[tuple[float, float]] = []  # When each began and ended.
        super().__init__(cluster, **given)

    def difference(self, takes: Takes | None = None) -> Difference:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        found = super().difference(takes)
        while clock() < began_s + 0.02:
            pass
        self.looks_s.append((began_s, clock()))
        return found


@pytest.mark.parametrize(
    "limits", [{"endpoints": 2}, {"changesPerSecond": 1000, "changesBurst": 1}], ids=["room", "pace"]
)
async def test_to_look_at_much_that_is_held_leaves_the_loop_to_others_most_of_the_time(
    limits: dict[str, int],
) -> None:
    world = World(registry=Slow)
    assert isinstance(world.registry, Slow)
    looks_s = world.registry.looks_s
    world.declare(*rows(100))
    world.log.accept("beta", put(key("Quota", "alpha"), {"namespace": limits}))

    def looked() -> bool:
        world.registry.dirty.set()
        return len(looks_s) > 6

    await world.publishing(looked)
    held_s = looks_s[2:]  # The first was refused by the log, or let its burst go.
    for (began_s, ended_s), (next_s, _) in itertools.pairwise(held_s):
        assert next_s - ended_s >= HELD_PAUSE_SHARE * (ended_s - began_s) - 0.001


async def test_rows_that_grow_at_a_full_quota_of_bytes_hold_up_nothing() -> None:
    world = World()
    world.declare(*rows(100))
    await world.publishing(world.settled)
    full = world.log.catalog.usage.count("bytes", "alpha")
    world.log.accept("beta", put(key("Quota", "alpha"), {"bytes": full}))
    labelled = [
        endpoint(name=f"e{number}", version=(1, 2), labels=(("team", "x" * 60),)) for number in range(99)
    ]
    world.declare(*labelled, sequence=2, complete=False)
    said = Declaration(agent="agent-1", incarnation=1, sequence=3, remove=(endpoint(name="e99").key,))
    world.registry.declare(said, world.session)
    await world.publishing(world.settled)
    assert "e99" not in world.published()
    assert row_of(world, "e98").labels


async def test_changes_beyond_the_rate_wait_and_what_changes_twice_meanwhile_goes_once() -> None:
    more = iter([True])
    worlds: list[World] = []

    def before(command: Command) -> None:
        if isinstance(command.body, PublishEndpoints) and next(more, False):
            for sequence in range(2, 6):
                row = endpoint(name="e0", version=(1, sequence))
                worlds[0].declare(row, sequence=sequence, complete=False)

    world = World(before)
    worlds.append(world)
    world.log.accept("beta", put(key("Quota", "alpha"), {"changesPerSecond": 1, "changesBurst": 1}))
    world.declare(*rows(1))
    await world.publishing(lambda: world.settled() and row_of(world, "e0").sequence == 5)
    assert world.kinds().count(PublishEndpoints) == 2
    assert world.registry.delayed_s > 0


def row_of(world: World, name: str) -> Endpoint:
    value = world.log.catalog.tables.endpoints.get(endpoint(name=name).key.encode())
    assert value is not None
    return unpack_endpoint(value)


async def test_what_the_holder_of_the_lease_has_published_needs_no_publishing_again() -> None:
    world = World()
    assert world.log.lease("publish/alpha", "alpha-c2", ttl_ms=LEASE_TTL_MS).lease is not None
    world.declare(*rows(2))
    fence = world.log.catalog.lease("publish/alpha").fence  # type: ignore[union-attr]
    await world.publishing(lambda: AcquireLease in world.kinds())
    world.log.publish("alpha", *rows(2), fence=fence)
    await world.publishing(world.settled)
    assert PublishEndpoints not in world.kinds()
    assert world.published() == {"e0", "e1"}

"""One change costs the same in a small catalog and in a large one (invariant C3): counted in calls, not in time."""

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import msgspec
import pytest

from bench.catalog_growth import Filled
from bench.catalogs import endpoints
from discovery.core.commands import ClaimToken, Operation
from discovery.core.declarations import Declaration
from discovery.core.model import Change, Endpoint, unpack_endpoint
from federation.api.registry import ClusterRegistry
from federation.replication.feed import Feed
from federation.replication.followed_view import FollowedView
from federation.replication.messages import Delta
from federation.replication.state import FollowerState, Image
from tests.unit.discovery.builders import (
    Log,
    founded,
    key,
    put,
    put_external,
    put_token,
    put_trust_domain,
)

SMALL, LARGE = 300, 4_500
CLUSTERS = 3
# A search takes a step more now and then, a shard is split: never as much as the catalog grew.
MORE = 1.25


def calls_of(act: Callable[[], object]) -> int:
    """Return how many functions, of Python or C, `act` calls."""
    count = 0

    def counted(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def filled(size: int) -> Filled:
    catalog = Filled(CLUSTERS)
    catalog.fill(size)
    return catalog


def apply_one(one: Filled) -> int:
    changes = one.changes()
    for _ in range(3):  # What is remembered of clusters and names is there from here on.
        one.send(next(changes)[1])
    command = next(changes)[1]
    return calls_of(lambda: one.send(command))


def follow_one(one: Filled) -> int:
    """One change at a follower: its copy, and its view."""
    state = FollowerState(one.names[0])
    tables = one.catalog.tables
    own = type(tables.endpoints)()
    state.restore(Image(history="bench", cluster=one.names[0], tables=tables, own=own, synced_unix_ms=0))
    view = FollowedView(state)
    news: list[Delta] = []
    one.catalog.on_change(lambda revision, changes: news.append(Delta(revision=revision, changes=changes)))
    commands = one.changes()
    for _ in range(4):
        one.send(next(commands)[1])
    for delta in news[:-1]:
        view.take(state.apply(delta))
    return calls_of(lambda: view.take(state.apply(news[-1])))


def feed_one(one: Filled) -> int:
    feed = Feed(one.catalog, unix_ms=lambda: 0)
    key, value = next(one.catalog.tables.endpoints.items())
    changes = (Change("endpoints", key, value),)
    return calls_of(lambda: feed.changed(one.catalog.revision, changes))


def declare_one(one: Filled) -> int:
    """One declaration at a controller of its cluster: merged, given out, and the difference to publish."""
    told: list[tuple[Change, ...]] = []
    registry = ClusterRegistry(
        one.names[0],
        catalog=one.catalog,
        lease_ms=1_000,
        clock=lambda: 0.0,
        changed=lambda _cluster, changes: told.append(changes),
    )
    key, value = next(one.catalog.tables.endpoints.items())
    row = unpack_endpoint(value)
    registry.open(row.agent, row.incarnation + 1, registry)
    rows = [row]
    registry.declare(said(row.agent, row.incarnation + 1, 1, rows, complete=True), registry)

    registry.difference()  # At its start it looks at each of its rows once.

    def again() -> None:
        registry.declare(said(row.agent, row.incarnation + 1, 2, rows, complete=False), registry)
        registry.difference()
        registry.absorb((Change("endpoints", key, value),))

    return calls_of(again)


def declare_one_of(count: int) -> Callable[[], object]:
    """Return what declares one endpoint of an agent that has so many."""
    one = filled(SMALL)
    registry = ClusterRegistry(
        one.names[0],
        catalog=one.catalog,
        lease_ms=1_000,
        clock=lambda: 0.0,
        changed=lambda _cluster, _changes: None,
    )
    rows = [
        msgspec.structs.replace(row, agent="large")
        for row in endpoints(one.names[0], count, address="10.0.0.1")
    ]
    registry.open("large", 1, registry)
    registry.declare(said("large", 1, 1, rows, complete=True), registry)
    declaration = said("large", 1, 2, rows[:1], complete=False)
    return lambda: registry.declare(declaration, registry)


def peak_bytes_of(act: Callable[[], object]) -> int:
    """Return how much memory `act` takes at once, beyond what was there."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def said(agent: str, incarnation: int, sequence: int, rows: list[Endpoint], *, complete: bool) -> Declaration:
    put = tuple(msgspec.structs.replace(row, incarnation=incarnation, sequence=sequence) for row in rows)
    return Declaration(
        agent=agent,
        incarnation=incarnation,
        sequence=sequence,
        put=put,
        complete=complete,
    )


@pytest.mark.parametrize("cost", [apply_one, follow_one, feed_one, declare_one])
def test_a_change_calls_no_more_in_a_catalog_fifteen_times_as_large(cost: Callable[[Filled], int]) -> None:
    small, large = cost(filled(SMALL)), cost(filled(LARGE))
    assert 0 < large <= small * MORE


def with_tokens(count: int) -> Log:
    log = founded()
    for first in range(0, count, 50):
        rows = range(first, min(first + 50, count))
        log.accept("alpha", *(put_token(f"t-{n}", "alpha", f"{n:064x}") for n in rows))
    return log


@pytest.mark.parametrize(
    "operation",
    [
        put_token("new", "alpha", "f" * 64),
        ClaimToken(secret_sha256=f"{7:064x}", purpose="agent", claimant="1" * 64),
    ],
    ids=["made", "claimed"],
)
def test_a_join_token_costs_no_more_among_many(operation: Operation) -> None:
    few, many = with_tokens(20), with_tokens(400)
    # What is remembered of names and clusters is there from here on.
    before = put_token("before", "alpha", "e" * 64)
    costs = [
        log.accept("alpha", before) and calls_of(lambda log=log: log.accept("alpha", operation))
        for log in (few, many)
    ]  # type: ignore[misc]
    assert 0 < costs[1] <= costs[0] * MORE


def test_each_address_of_an_external_service_costs_no_more_among_many_clusters() -> None:
    """The ranges of all clusters are looked at, but once: not for each address anew."""
    many = tuple(f"203.0.113.{n}" for n in range(1, 65))
    costs = []
    for others in (2, 60):
        log = founded()
        for number in range(others):
            domain, ranges = f"c{number}.test", [f"10.{number}.{part}.0/24" for part in range(4)]
            spec: dict[str, object] = {"role": "primary", "trustDomain": domain, "ranges": ranges}
            log.accept("alpha", put(key("Cluster", f"c{number}"), spec), put_trust_domain(domain))
        log.accept("beta", put_external("beta", "shop", "before", *many))
        one, all_of_them = put_external("beta", "shop", "one"), put_external("beta", "shop", "all", *many)
        few = calls_of(lambda log=log, one=one: log.accept("beta", one))  # type: ignore[misc]
        costs.append(calls_of(lambda log=log, put=all_of_them: log.accept("beta", put)) - few)  # type: ignore[misc]
    assert 0 < costs[1] <= costs[0] * MORE


def test_a_declaration_calls_no_more_for_an_agent_with_many_endpoints() -> None:
    few, many = calls_of(declare_one_of(20)), calls_of(declare_one_of(300))
    assert 0 < many <= few * MORE


def test_a_declaration_copies_no_list_of_its_agent() -> None:
    """A set of 9,000 keys takes 512 KiB; a shard of the table, which is copied, 16 KiB."""
    assert peak_bytes_of(declare_one_of(9_000)) < 128 * 1024

"""What the holder of the lease does with a drain: steps, waits, gives up; and what operators may begin."""

from collections.abc import Callable

import pytest

from discovery.core.catalog import Catalog
from discovery.core.kinds import decode_spec
from discovery.core.model import Endpoint, ServiceKey
from discovery.core.specs import DrainSpec
from discovery.core.views import ViewIndex
from federation.api.cluster_requests import DrainRequest
from federation.api.health import Facts
from federation.api.proposer import Proposer
from federation.api.understanding import Served
from federation.app.draining import LEASE_TTL_MS, TURNS_ALONE_MAX, DrainDesk
from federation.kernel.errors import IsthmusError, NotFoundError, PreconditionError, UnavailableError
from gateways.core.compile import ViewCompiler
from tests.unit.app.direct_log import DirectLog
from tests.unit.discovery.builders import (
    endpoint,
    founded,
    gateway,
    key,
    put_drain,
    put_export,
    put_grant,
)

ADMIN = "spiffe://alpha.test/isthmus/alpha/operator/admin"
EVERY_MS = 1_000


class FreshViews:
    """The views of all clusters, as of the newest revision."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.missing: set[str] = set()

    def served(self, cluster: str) -> Served | None:
        if cluster in self.missing:
            return None
        view = ViewIndex(cluster)
        view.reset(self.catalog.tables)
        return Served(view, ViewCompiler(cluster, view))


class Federation:
    """alpha and beta, primaries that show each other everything, and alpha's remote delta; orders in alpha and beta."""

    def __init__(self, facts: Facts | None = None) -> None:
        self.log = founded()
        self.views = FreshViews(self.log.catalog)
        self._facts = facts or Facts(asked="alpha", leader_id="alpha", voters=(), members=())
        for owner in ("alpha", "beta"):
            self.log.accept(owner, put_export(owner, "shop", "*"), put_grant(owner, "shop", "*"))
            self.publish(owner, endpoint(owner))
            self.publish(owner, gateway(owner))
        self.desk = self.desk_of("alpha")

    def desk_of(self, cluster: str, *, log: DirectLog | None = None) -> DrainDesk:
        return DrainDesk(
            holder=f"{cluster}-1",
            proposer=Proposer(log or DirectLog(self.log), cluster=cluster),
            catalog=self.log.catalog,
            views=self.views,
            facts=self.facts,
        )

    async def facts(self) -> Facts:
        return self._facts

    def publish(self, cluster: str, *rows: Endpoint) -> None:
        assert self.log.publish(cluster, *rows).code == 0

    async def drain(self, cluster: str, *, force: bool = False) -> DrainSpec:
        return await self.desk.drain(cluster, DrainRequest(every_ms=EVERY_MS, force=force), ADMIN)

    async def turn(self, count: int = 1) -> None:
        for _ in range(count):
            await self.desk._turn()

    def row(self, cluster: str) -> DrainSpec:
        row = self.log.catalog.tables.resource(key("Drain", cluster))
        assert row is not None
        spec = decode_spec("Drain", row.spec, where="test")
        assert isinstance(spec, DrainSpec)
        return spec

    def share(self, cluster: str) -> int:
        return self.row(cluster).share_percent


async def test_a_cluster_is_drained_in_steps_by_the_time_of_the_federation() -> None:
    federation = Federation()
    begun = await federation.drain("beta")
    assert (begun.share_percent, begun.started_by) == (100, ADMIN)
    shares = []
    for _ in range(5):
        await federation.turn(2)  # The second one comes too early.
        shares.append(federation.share("beta"))
        federation.log.wait(EVERY_MS)
    assert shares == [75, 50, 25, 0, 0]
    served = federation.views.served("beta")
    assert served is not None
    found = served.view.service(ServiceKey("shop", "orders"))
    assert found is not None
    assert [owner.cluster for owner in found.owners] == ["alpha", "beta"]


async def test_another_controller_goes_on_when_the_holder_of_the_lease_is_gone() -> None:
    federation = Federation()
    await federation.drain("beta")
    await federation.turn()
    other = federation.desk_of("beta")
    federation.log.wait(EVERY_MS)
    await other._turn()
    assert federation.share("beta") == 75  # The lease is held.
    federation.log.wait(LEASE_TTL_MS)
    await other._turn()
    assert federation.share("beta") == 50


def unready(federation: Federation) -> None:
    federation.publish("alpha", endpoint("alpha", ready=False, version=(1, 2)))


async def test_a_drain_is_rolled_back_when_nobody_else_can_serve_any_longer() -> None:
    federation = Federation()
    await federation.drain("beta")
    await federation.turn()
    unready(federation)
    federation.log.wait(EVERY_MS)
    await federation.turn(TURNS_ALONE_MAX - 1)
    assert federation.share("beta") == 75  # It waits: a probe may fail once.
    await federation.turn()
    given_up = federation.row("beta")
    assert given_up.share_percent == 100
    assert "shop/orders:8080 for callers in alpha" in given_up.rolled_back
    federation.publish("alpha", endpoint("alpha", version=(1, 3)))
    again = await federation.drain("beta")
    assert (again.share_percent, again.rolled_back) == (100, "")
    assert again.started_ms > given_up.started_ms


async def test_a_drain_that_follows_at_once_is_told_apart_from_the_one_that_was_given_up() -> None:
    federation = Federation()
    first = await federation.drain("beta")
    federation.log.accept("alpha", put_drain("beta", startedMs=first.started_ms, rolledBack="why"))
    assert (await federation.drain("beta")).started_ms == first.started_ms + 1


async def test_a_controller_that_is_behind_catches_up_before_it_tells_of_a_drain() -> None:
    federation = Federation()
    federation.log.accept("alpha", put_drain("beta", startedMs=1, rolledBack="why"))

    class Behind(DirectLog):
        async def read_barrier(self, *, timeout_ms: int) -> int:
            federation.log.accept("alpha", put_drain("beta", startedMs=2))
            return federation.log.index

    found = await federation.desk_of("alpha", log=Behind(federation.log)).state("beta")
    assert (found.started_ms, found.rolled_back) == (2, "")


async def test_a_drain_goes_on_when_the_others_serve_again() -> None:
    federation = Federation()
    await federation.drain("beta")
    await federation.turn()
    unready(federation)
    federation.log.wait(EVERY_MS)
    await federation.turn(TURNS_ALONE_MAX - 1)
    federation.publish("alpha", endpoint("alpha", version=(1, 3)))
    await federation.turn(TURNS_ALONE_MAX)
    assert federation.share("beta") == 50


async def test_turns_of_an_earlier_holding_of_the_lease_are_not_in_a_row_with_those_of_now() -> None:
    federation = Federation()
    await federation.drain("beta")
    await federation.turn()
    unready(federation)
    await federation.turn(TURNS_ALONE_MAX - 1)
    other = federation.desk_of("beta")
    federation.log.wait(LEASE_TTL_MS)
    await other._turn()  # It has the lease now, and sees the first of its own turns alone.
    federation.publish("alpha", endpoint("alpha", version=(1, 3)))
    await other._turn()
    federation.publish("alpha", endpoint("alpha", ready=False, version=(1, 4)))
    federation.log.wait(LEASE_TTL_MS)
    await federation.turn(TURNS_ALONE_MAX - 1)
    assert not federation.row("beta").rolled_back
    await federation.turn()
    assert federation.row("beta").rolled_back


async def test_turns_of_an_earlier_drain_are_not_in_a_row_with_those_of_the_next() -> None:
    federation = Federation()
    await federation.drain("beta")
    unready(federation)
    await federation.turn(TURNS_ALONE_MAX - 1)
    await federation.desk.undrain("beta", ADMIN)
    federation.publish("alpha", endpoint("alpha", version=(1, 3)))
    federation.log.wait(1)
    await federation.drain("beta")
    federation.publish("alpha", endpoint("alpha", ready=False, version=(1, 4)))
    await federation.turn(TURNS_ALONE_MAX - 1)
    assert not federation.row("beta").rolled_back


async def test_a_drain_by_force_asks_nobody() -> None:
    federation = Federation()
    unready(federation)
    await federation.drain("beta", force=True)
    for _ in range(4):
        await federation.turn()
        federation.log.wait(EVERY_MS)
    assert federation.share("beta") == 0


def only_in_beta(federation: Federation) -> None:
    federation.publish("beta", endpoint("beta", "pay-1", service="pay"))


def beta_goes_as_well(federation: Federation) -> None:
    federation.log.accept("alpha", put_drain("alpha", 25))


@pytest.mark.parametrize(
    ("happened", "message"),
    [
        pytest.param(only_in_beta, "shop/pay:8080 for callers in alpha", id="served-nowhere-else"),
        pytest.param(unready, "shop/orders:8080 for callers in alpha", id="unready-elsewhere"),
        pytest.param(beta_goes_as_well, "shop/orders:8080 for callers in alpha", id="the-other-is-drained-already"),
    ],
)  # fmt: skip
async def test_a_drain_that_would_leave_a_service_alone_is_refused_and_changes_nothing(
    happened: Callable[[Federation], None], message: str
) -> None:
    federation = Federation()
    happened(federation)
    with pytest.raises(PreconditionError) as refused:
        await federation.drain("beta")
    assert message in refused.value.message
    assert federation.log.catalog.tables.resource(key("Drain", "beta")) is None


def grown(federation: Federation, weight: int) -> None:
    """orders: weight 1 in alpha, `weight` in beta."""
    federation.publish("beta", endpoint("beta", version=(1, 2), weight=weight))


@pytest.mark.parametrize(("percent", "refused"), [(0, False), (25, False), (26, True), (100, True)])
async def test_so_much_of_the_ready_weight_must_be_elsewhere(percent: int, refused: bool) -> None:
    federation = Federation()
    grown(federation, 3)
    request = DrainRequest(every_ms=EVERY_MS, min_capacity=percent)
    if not refused:
        assert (await federation.desk.drain("beta", request, ADMIN)).capacity_percent_min == percent
        return
    with pytest.raises(PreconditionError) as error:
        await federation.desk.drain("beta", request, ADMIN)
    assert f"less than {percent}% of the ready weight" in error.value.message
    assert "shop/orders:8080 for callers in alpha, 1 of 4 left" in error.value.message
    assert federation.log.catalog.tables.resource(key("Drain", "beta")) is None


async def test_a_drain_is_rolled_back_when_too_little_is_left_elsewhere_and_force_asks_nobody() -> None:
    federation = Federation()
    await federation.desk.drain("beta", DrainRequest(every_ms=EVERY_MS, min_capacity=50), ADMIN)
    await federation.turn()
    grown(federation, 3)
    await federation.turn(TURNS_ALONE_MAX)
    assert (
        "less than 50% of the ready weight was left of shop/orders:8080" in federation.row("beta").rolled_back
    )
    forced = DrainRequest(every_ms=EVERY_MS, min_capacity=50, force=True)
    await federation.desk.drain("beta", forced, ADMIN)
    await federation.turn(TURNS_ALONE_MAX + 1)
    assert federation.share("beta") == 75


async def test_what_a_caller_may_not_see_does_not_serve_it() -> None:
    """delta sees what is exported; within its trust domain that is enough."""
    federation = Federation()
    federation.log.accept("alpha", put_export("alpha", "shop", "carts"))
    with pytest.raises(PreconditionError, match="callers in beta"):
        await federation.drain("beta")


async def test_what_has_nothing_ready_loses_nothing() -> None:
    federation = Federation()
    federation.publish("beta", endpoint("beta", "pay-1", service="pay", ready=False))
    await federation.drain("beta")
    await federation.turn()
    assert federation.share("beta") == 75


async def test_a_drain_that_is_under_way_is_not_begun_again() -> None:
    federation = Federation()
    begun = await federation.drain("beta")
    await federation.turn()
    assert (await federation.drain("beta")).started_ms == begun.started_ms
    assert federation.share("beta") == 75


async def test_of_two_drains_that_leave_nobody_only_the_later_one_is_rolled_back() -> None:
    federation = Federation()
    federation.log.accept("alpha", put_drain("alpha", startedMs=5), put_drain("beta", startedMs=6))
    federation.log.wait(EVERY_MS)
    await federation.turn(TURNS_ALONE_MAX + 1)
    assert federation.row("beta").rolled_back
    assert not federation.row("alpha").rolled_back
    assert federation.share("alpha") < 100


async def test_while_a_view_is_not_ready_there_is_no_step() -> None:
    federation = Federation()
    await federation.drain("beta")
    federation.views.missing = {"delta"}
    with pytest.raises(UnavailableError, match="not ready yet"):
        await federation.turn()
    assert federation.share("beta") == 100


async def test_a_member_without_which_the_log_would_stop_is_not_drained() -> None:
    facts = Facts(asked="alpha", leader_id="alpha", voters=("alpha", "beta"), members=())
    federation = Federation(facts)
    with pytest.raises(PreconditionError, match="the log would stop"):
        await federation.drain("beta")
    assert (await federation.drain("beta", force=True)).forced


@pytest.mark.parametrize("act", ["drain", "undrain", "state"])
async def test_an_unknown_cluster_is_named(act: str) -> None:
    federation = Federation()
    calls: dict[str, Callable[[], object]] = {
        "drain": lambda: federation.drain("mars"),
        "undrain": lambda: federation.desk.undrain("mars", ADMIN),
        "state": lambda: federation.desk.state("mars"),
    }
    with pytest.raises(NotFoundError, match="mars"):
        await calls[act]()  # type: ignore[misc]  # each returns something to wait for


async def test_an_undrained_cluster_has_its_share_again_and_nothing_is_left() -> None:
    federation = Federation()
    await federation.drain("beta")
    await federation.turn()
    await federation.desk.undrain("beta", ADMIN)
    assert federation.log.catalog.tables.resource(key("Drain", "beta")) is None
    await federation.turn()
    with pytest.raises(IsthmusError, match="is not drained"):
        await federation.desk.undrain("beta", ADMIN)

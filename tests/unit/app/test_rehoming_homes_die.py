"""A home that dies in the middle of a move: in each phase the other one brings it to an end, as the processes can change."""

import pytest

from discovery.core.model import ServiceKey
from discovery.core.rehoming import endpoints_of
from discovery.core.specs import ClusterSpec
from discovery.core.views import ViewIndex
from federation.api.cluster_requests import RehomeRequest
from federation.app.rehoming import ANNOUNCE_MS_MAX, OTHER_WAITS_MS, RehomeDesk
from federation.kernel.errors import PreconditionError
from tests.unit.app.test_rehoming import ADMIN, WITHIN_MS, Federation
from tests.unit.discovery.builders import (
    endpoint,
    key,
    put,
    put_cluster,
    put_controller,
    put_grant,
    put_trust_domain,
)

HOMES = {"alpha.test": "alpha", "beta.test": "beta"}
NAMES = ("orders-1", "orders-2", "orders-3")
TURN_MS = 5_000
# A move, its return and its way on take this long each at most, with the time that a home waits for the other one.
TURNS_MAX = 3 * (WITHIN_MS + OTHER_WAITS_MS + ANNOUNCE_MS_MAX) // TURN_MS


class Homes:
    """alpha, which has two controllers, and beta with one lead delta's move; gamma looks on. The dead do nothing."""

    def __init__(self) -> None:
        self.federation = Federation()
        self.log = self.federation.log
        self.alive = {"alpha", "beta"}
        self.may_change: set[str] = set()  # Endpoints whose processes get round to it.
        self.log.accept(
            "alpha", put_cluster("gamma"), put_trust_domain("gamma.test"), put_controller("gamma-1", "gamma")
        )
        self.log.accept("alpha", put_grant("delta", "shop", "*", name="everybody"))
        self._versions = 1
        for name in NAMES:
            self._publish(name, "alpha.test", "alpha")
        desks = [("alpha", self.federation.desk_of("alpha")), ("alpha", self.federation.desk_of("alpha"))]
        self.desks: list[tuple[str, RehomeDesk]] = [*desks, ("beta", self.federation.desk_of("beta"))]

    @property
    def spec(self) -> ClusterSpec:
        found = self.log.catalog.tables.cluster("delta")
        assert found is not None
        return found

    @property
    def state(self) -> str:
        return "" if self.spec.rehoming is None else self.spec.rehoming.state

    async def turn(self, passed_ms: int = TURN_MS) -> None:
        """Let time pass, processes change what they may, and every controller that lives take its turn."""
        self.log.wait(passed_ms)
        signer = HOMES[self.spec.shown_trust_domain]
        for one in list(endpoints_of(self.log.catalog.tables, "delta")):
            late = not one.identity.startswith(f"spiffe://{self.spec.shown_trust_domain}/")
            if late and signer in self.alive and one.key.name in self.may_change:
                self._publish(one.key.name, self.spec.shown_trust_domain, min(self.alive))
        for home, desk in self.desks:
            if home in self.alive:
                await desk._turn()
        self.check()

    async def until(self, state: str) -> None:
        for _ in range(TURNS_MAX):
            if self.state == state:
                return
            await self.turn()
        raise AssertionError(f"delta is {self.spec}, expected to be {state}")

    def die(self, home: str) -> None:
        """Let a home die, and those who are left say so."""
        self.alive.discard(home)
        for observer in (*self.alive, "gamma"):
            missed = {"controlLost": True, "dataLost": True}
            self.log.accept(observer, put(key("Observation", home, scope=observer), missed))

    def check(self) -> None:
        """Callers accept what the endpoints show."""
        view = ViewIndex("gamma")
        view.reset(self.log.catalog.tables)
        service = view.service(ServiceKey("shop", "orders"))
        assert service is not None
        accepted = {identity for owner in service.owners for identity in owner.identities}
        assert {one.identity for one in endpoints_of(self.log.catalog.tables, "delta")} <= accepted

    def _publish(self, name: str, domain: str, proposer: str) -> None:
        self._versions += 1
        identity = f"spiffe://{domain}/ns/shop/sa/orders"
        row = endpoint("delta", name, identity=identity, version=(1, self._versions))
        outcome = self.log.publish("delta", row, proposer=proposer)
        assert outcome.code == 0, outcome.message


async def homes_when(phase: str) -> Homes:
    """Bring a move to a phase: its state, and how many endpoints have changed or, of two that had, changed back."""
    homes = Homes()
    state, _, changed = phase.partition(", ")
    await homes.federation.begin()
    if state == "announced":
        return homes
    await homes.until("moving")
    homes.may_change = {"returning": set(NAMES[:2])}.get(state, set(NAMES[: int(changed)]))
    await homes.turn()
    if state == "returning":
        await homes.federation.desk.abort("delta", ADMIN)
        homes.may_change = set(NAMES[: int(changed)])
        await homes.turn()
    found = await homes.federation.desk.progress("delta")
    shown = 1 + int(changed) if state == "returning" else int(changed)
    assert (found.state, found.changed) == (state, shown)
    return homes


@pytest.mark.parametrize(
    ("phase", "dies", "ends_at"),
    [
        ("announced", "alpha", "beta"),
        ("announced", "beta", "alpha"),
        ("moving, 0", "alpha", "beta"),
        ("moving, 0", "beta", "alpha"),
        ("moving, 1", "alpha", "beta"),
        ("moving, 1", "beta", "alpha"),
        ("returning, 0", "alpha", "beta"),
        ("returning, 0", "beta", "alpha"),
        ("returning, 1", "alpha", "beta"),
        ("returning, 1", "beta", "alpha"),
    ],
)
async def test_when_a_home_dies_for_good_the_cluster_ends_at_the_one_that_lives(
    phase: str, dies: str, ends_at: str
) -> None:
    homes = await homes_when(phase)
    homes.die(dies)
    homes.may_change = set(NAMES)
    await homes.until("done")
    assert (homes.spec.home, homes.spec.trust_domains) == (ends_at, (f"{ends_at}.test",))
    shown = {one.identity for one in endpoints_of(homes.log.catalog.tables, "delta")}
    assert shown == {f"spiffe://{ends_at}.test/ns/shop/sa/orders"}


@pytest.mark.parametrize("phase", ["announced", "moving, 1", "returning, 1"])
@pytest.mark.parametrize("back", ["alpha", "beta"])
async def test_when_both_homes_die_the_first_that_is_back_goes_on_with_it(phase: str, back: str) -> None:
    homes = await homes_when(phase)
    homes.die("alpha")
    homes.die("beta")
    homes.may_change = set(NAMES)
    before = homes.spec
    for _ in range(TURNS_MAX):
        await homes.turn()
    assert homes.spec == before  # Callers accept both meanwhile.
    homes.alive = {back}
    await homes.until("done")
    assert (homes.spec.home, homes.spec.trust_domains) == (back, (f"{back}.test",))


async def test_a_home_that_was_away_for_a_while_is_returned_to_all_the_same() -> None:
    homes = await homes_when("returning, 1")
    homes.die("alpha")
    await homes.turn(WITHIN_MS // 2)
    homes.alive.add("alpha")
    homes.may_change = set(NAMES)
    await homes.until("done")
    assert homes.spec.home == "alpha"


async def test_who_cannot_change_is_led_back_by_the_old_home_only() -> None:
    homes = await homes_when("moving, 1")
    homes.die("alpha")
    for _ in range(TURNS_MAX):
        await homes.turn()  # orders-3 does not change, and nobody could go back.
    assert homes.state == "moving"
    homes.alive.add("alpha")
    await homes.until("returning")


async def test_an_operator_of_the_new_home_goes_on_without_another_leave_and_by_force_if_need_be() -> None:
    homes = await homes_when("returning, 1")
    ask = RehomeRequest(to="beta")
    with pytest.raises(PreconditionError, match="if alpha is gone, ask beta to go on"):
        await homes.federation.desk.begin("delta", ask, ADMIN)
    with pytest.raises(PreconditionError, match="are not missed: wait for its return, or force it"):
        await homes.federation.other.begin("delta", ask, ADMIN)
    found = await homes.federation.other.begin("delta", RehomeRequest(to="beta", force=True), ADMIN)
    assert (found.state, found.reason) == ("moving", f"{ADMIN} asked for it")
    homes.may_change = set(NAMES)
    await homes.until("done")
    assert homes.spec.home == "beta"

"""What the controllers of the two homes do with a move: wait for callers, for the cluster, give up; what operators may begin."""

import msgspec
import pytest

from discovery.core.declarations import Declaration
from discovery.core.model import Endpoint
from federation.api.cluster_requests import RehomeRequest
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.api.tracing import Acknowledged, ControllerTrace, Trace
from federation.app.rehoming import (
    ANNOUNCE_MS,
    ANNOUNCE_MS_MAX,
    NAMED_MAX,
    OTHER_WAITS_MS,
    SETTLE_MS,
    SETTLE_MS_MAX,
    RehomeDesk,
)
from federation.kernel.errors import NotAllowedError, NotFoundError, PreconditionError
from tests.unit.app.direct_log import DirectLog
from tests.unit.discovery.builders import endpoint, founded, put_export, put_grant, put_token

ADMIN = "spiffe://alpha.test/isthmus/alpha/operator/admin"
SECRET = "c" * 64
WITHIN_MS = 60_000
REQUEST = RehomeRequest(to="beta", secret_sha256=SECRET, within_ms=WITHIN_MS)


def heard(state: str = "applied", *, waiting: int = 0) -> ControllerTrace:
    """What a controller says of the write that announced the move."""
    way = Acknowledged(cluster="alpha", compiled_ms=1.0, waiting=waiting)
    trace = Trace(revision=1, committed_unix_ms=0, changed=(), rows=1, proxies=(way,))
    return ControllerTrace(controller="one", state=state, trace=trace if state == "applied" else None)


class Federation:
    """alpha with its remote delta, which has orders; beta, which has given leave for it."""

    def __init__(self) -> None:
        self.log = founded()
        self.traces: tuple[ControllerTrace, ...] = (heard(),)
        self.registries: dict[str, ClusterRegistry] = {}
        self.log.accept("alpha", put_export("delta", "shop", "*"))
        self.log.accept("alpha", put_grant("delta", "shop", "*", trustDomains=["alpha.test", "beta.test"]))
        self.log.accept("beta", put_token("leave", "delta", SECRET, purpose="cluster", expires_ms=10**9))
        self.show("alpha.test", 1)
        self.desk, self.other = self.desk_of("alpha"), self.desk_of("beta")

    def desk_of(self, cluster: str) -> RehomeDesk:
        return RehomeDesk(
            cluster=cluster,
            proposer=Proposer(DirectLog(self.log), cluster=cluster),
            catalog=self.log.catalog,
            registries=self.registries,
            trace=self.trace,
            clock=lambda: self.log.catalog.now_ms / 1000,
        )

    async def trace(self, revision: int) -> tuple[ControllerTrace, ...]:
        return self.traces

    def show(self, domain: str, version: int) -> Endpoint:
        row = endpoint("delta", identity=f"spiffe://{domain}/ns/shop/sa/orders", version=(1, version))
        assert self.log.publish("delta", row, proposer="alpha").code == 0
        return row

    async def begin(self, request: RehomeRequest = REQUEST) -> None:
        await self.desk.begin("delta", request, ADMIN)

    async def state(self) -> str:
        return (await self.desk.progress("delta")).state

    async def after(self, passed_ms: int, *desks: RehomeDesk) -> str:
        """Let time pass, then let the homes take a turn each; return the state that this leads to."""
        self.log.wait(passed_ms)
        for desk in desks or (self.desk, self.other):
            await desk._turn()
        return await self.state()


async def moving() -> Federation:
    federation = Federation()
    await federation.begin()
    assert await federation.after(ANNOUNCE_MS) == "moving"
    return federation


async def test_a_move_goes_on_when_callers_know_and_ends_when_every_endpoint_has_changed() -> None:
    federation = Federation()
    await federation.begin()
    assert await federation.after(ANNOUNCE_MS - 1) == "announced"
    assert await federation.after(1) == "moving"
    assert await federation.after(1_000) == "moving"
    found = await federation.desk.progress("delta")
    assert (found.endpoints, found.changed, found.late) == (1, 0, ("shop/orders/orders-1",))
    federation.show("beta.test", 2)
    assert await federation.after(0) == "done"
    found = await federation.other.progress("delta")
    assert (found.home, found.trust_domain, found.other_home) == ("beta", "beta.test", "alpha")
    assert (found.endpoints, found.changed) == (1, 1)


@pytest.mark.parametrize(
    ("traces", "waits"),
    [
        pytest.param((heard(),), False, id="all-have-taken-it"),
        pytest.param((heard("forgotten"),), False, id="long-ago"),
        pytest.param((heard(), heard(waiting=1)), True, id="a-proxy-has-not-answered"),
        pytest.param((heard("behind"),), True, id="a-controller-is-behind"),
        pytest.param((heard(), heard("silent")), True, id="a-controller-does-not-answer"),
    ],
)
async def test_no_process_changes_before_the_callers_that_are_there_have_taken_the_move(
    traces: tuple[ControllerTrace, ...], waits: bool
) -> None:
    federation = Federation()
    federation.traces = traces
    await federation.begin()
    assert await federation.after(ANNOUNCE_MS) == ("announced" if waits else "moving")
    assert await federation.after(ANNOUNCE_MS_MAX) == "moving"  # Not for ever.


async def test_an_agent_that_is_connected_by_its_old_identity_holds_up_the_end() -> None:
    class Session:
        trust_domain = "alpha.test"

        def dismiss(self) -> None:
            pass

    federation = await moving()
    registry = ClusterRegistry(
        "delta",
        catalog=federation.log.catalog,
        lease_ms=10_000,
        clock=lambda: 0.0,
        changed=lambda _cluster, _changes: None,
    )
    session = Session()
    registry.open("without-endpoints", 1, session)
    federation.registries["delta"] = registry
    federation.show("beta.test", 2)
    assert await federation.after(0) == "moving"
    assert (await federation.desk.progress("delta")).agents == ("without-endpoints",)
    session.trust_domain = "beta.test"
    assert await federation.after(0) == "done"


async def test_a_move_that_is_not_done_in_its_time_takes_itself_back() -> None:
    federation = await moving()
    assert await federation.after(WITHIN_MS - 1) == "moving"
    assert await federation.after(1) == "returning"
    assert await federation.after(0) == "returning"
    assert await federation.after(SETTLE_MS_MAX) == "done"  # No endpoint had changed.
    found = await federation.desk.progress("delta")
    assert (found.home, found.other_home) == ("alpha", "beta")
    assert found.reason == f"not finished within {WITHIN_MS} ms: shop/orders/orders-1"


async def test_of_many_that_are_late_some_are_named() -> None:
    federation = await moving()
    rows = [endpoint("delta", f"more-{number:02}") for number in range(20)]
    assert federation.log.publish("delta", *rows, proposer="alpha").code == 0
    found = await federation.desk.progress("delta")
    assert (found.endpoints, found.changed, len(found.late)) == (21, 0, NAMED_MAX)
    assert await federation.after(WITHIN_MS) == "returning"
    assert (await federation.desk.progress("delta")).reason.endswith(f"and {21 - NAMED_MAX} more")


async def test_an_operator_takes_a_move_back_and_it_waits_for_what_had_changed() -> None:
    federation = await moving()
    federation.show("beta.test", 2)
    taken_back = await federation.desk.abort("delta", ADMIN)
    assert (taken_back.state, taken_back.changed) == ("returning", 0)
    assert await federation.after(WITHIN_MS) == "returning"
    federation.show("alpha.test", 3)
    assert await federation.after(SETTLE_MS_MAX) == "done"
    assert (await federation.desk.progress("delta")).home == "alpha"
    with pytest.raises(PreconditionError, match="is not moving"):
        await federation.desk.abort("delta", ADMIN)


async def test_the_new_home_goes_on_alone_after_a_while() -> None:
    federation = Federation()
    await federation.begin()
    assert await federation.after(OTHER_WAITS_MS - 1, federation.other) == "announced"
    assert await federation.after(1, federation.other) == "moving"
    federation.show("beta.test", 2)
    assert await federation.after(OTHER_WAITS_MS - 1, federation.other) == "moving"
    assert await federation.after(1, federation.other) == "done"


async def test_a_move_from_which_somebody_would_lose_is_refused_unless_it_is_forced() -> None:
    federation = Federation()
    federation.log.accept("alpha", put_grant("delta", "shop", "*", trustDomains=["beta.test"]))
    with pytest.raises(PreconditionError, match="alpha would no longer see shop/orders of delta"):
        await federation.begin()
    assert await federation.state() == ""
    assert (await federation.desk.forecast("delta", "beta")).losses
    await federation.begin(msgspec.structs.replace(REQUEST, force=True))
    assert await federation.state() == "announced"


async def test_who_begins_it_again_is_told_how_far_it_is() -> None:
    federation = await moving()
    again = await federation.desk.begin("delta", REQUEST, ADMIN)
    assert (again.state, again.other_home, again.started_by) == ("moving", "beta", ADMIN)
    with pytest.raises(PreconditionError, match="is moving already, between alpha and beta"):
        await federation.desk.begin("delta", msgspec.structs.replace(REQUEST, to="alpha"), ADMIN)


async def test_only_the_home_lets_go_and_only_with_leave() -> None:
    federation = Federation()
    with pytest.raises(PreconditionError, match="is let go by its home alpha"):
        await federation.other.begin("delta", REQUEST, ADMIN)
    with pytest.raises(NotAllowedError, match="no join token"):
        await federation.begin(msgspec.structs.replace(REQUEST, secret_sha256="d" * 64))
    with pytest.raises(NotFoundError):
        await federation.desk.progress("omega")
    assert await federation.state() == ""


class Stream:
    """An agent's session at a controller."""

    def __init__(self, trust_domain: str) -> None:
        self.trust_domain = trust_domain

    def dismiss(self) -> None:
        pass


def with_registry(federation: Federation) -> ClusterRegistry:
    """Let alpha's controller hear delta's agent, by its old identity."""
    registry = ClusterRegistry(
        "delta",
        catalog=federation.log.catalog,
        lease_ms=10_000,
        clock=lambda: 0.0,
        changed=lambda _cluster, _changes: None,
    )
    federation.registries["delta"] = registry
    return registry


async def test_a_way_back_does_not_end_while_a_process_may_have_changed_a_moment_ago() -> None:
    """Its row shows the old identity, it itself the new one: callers would refuse it."""
    federation = await moving()
    agent = endpoint("delta").agent
    with_registry(federation)
    await federation.desk.abort("delta", ADMIN)
    assert await federation.after(SETTLE_MS_MAX - 1, federation.desk) == "returning"  # It is not connected.
    assert await federation.after(1, federation.desk) == "returning"
    assert await federation.after(SETTLE_MS_MAX, federation.desk) == "done"
    federation = await moving()
    with_registry(federation).open(agent, 1, Stream("alpha.test"))
    await federation.desk.abort("delta", ADMIN)
    assert await federation.after(0, federation.desk) == "returning"
    assert await federation.after(SETTLE_MS - 1, federation.desk) == "returning"
    assert await federation.after(1, federation.desk) == "done"


async def test_what_an_agent_said_here_and_the_log_has_not_yet_counts() -> None:
    federation = await moving()
    registry = with_registry(federation)
    agent = endpoint("delta").agent
    stream = Stream("alpha.test")
    registry.open(agent, 1, stream)
    changed = endpoint("delta", identity="spiffe://beta.test/ns/shop/sa/orders", version=(1, 5))
    registry.declare(
        Declaration(agent=agent, incarnation=1, sequence=5, put=(changed,), complete=True), stream
    )
    await federation.desk.abort("delta", ADMIN)
    for _ in range(3):
        assert await federation.after(SETTLE_MS, federation.desk) == "returning"
    again = endpoint("delta", version=(1, 6), identity="spiffe://alpha.test/ns/shop/sa/orders")
    registry.declare(Declaration(agent=agent, incarnation=1, sequence=6, put=(again,), complete=True), stream)
    assert await federation.after(0, federation.desk) == "done"

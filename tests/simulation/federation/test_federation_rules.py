"""The rules themselves: what each finds wrong, and what it must not."""

from types import SimpleNamespace

import pytest

from discovery.core.commands import (
    AcquireLease,
    Body,
    Command,
    Operation,
    PublishEndpoints,
    Write,
    encode_command,
)
from discovery.core.drains import start
from discovery.core.model import Change, Endpoint, EndpointKey, EndpointPort, ResourceKey, pack
from discovery.core.publishing import publish_lease
from discovery.core.tables import Table
from federation.replication.messages import LocalRows, Resumed
from federation.replication.state import Image
from tests.simulation.federation.founding import belongings, founding, joining, put
from tests.simulation.federation.lifecycle_rules import ALONE, ALONE_MAX_S
from tests.simulation.federation.parts import Parts
from tests.simulation.federation.planted import BelievesWhoKnowsLess
from tests.simulation.federation.rules import NEWER, REASON, Rules, WatchedCopy, WatchedRegistry

CLUSTERS = ("alpha", "beta")
LATER_S = ALONE_MAX_S + 5


def row_of(cluster: str, *, version: int, ready: bool = True) -> Endpoint:
    return Endpoint(
        key=EndpointKey("shop", "stock", cluster, f"{cluster}-a0-0"),
        address="10.0.0.1",
        ports=(EndpointPort(name="http", service_port=8080, listen_port=15_006),),
        identity=f"spiffe://{cluster}.test/ns/shop/sa/shop",
        ready=ready,
        agent=f"{cluster}-a0",
        incarnation=1,
        sequence=version,
    )


class Told:
    """Rules that are told of entries by hand; alpha and beta have joined and export everything."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rules = Rules(Parts(), lambda: self.now_s)
        self._index = 0
        for cluster in CLUSTERS:
            self.write(*(founding() if cluster == "alpha" else []), *joining(cluster, CLUSTERS), by="alpha")
            own = belongings(cluster, f"{cluster}.test", controllers=(), agents=(), exports_all=True)
            self.write(*own, by=cluster)
            self.entry(AcquireLease(name=publish_lease(cluster), holder=cluster, ttl_ms=60_000), by=cluster)

    def entry(self, body: Body, *, by: str) -> None:
        self._index += 1
        command = Command(request_id=f"r{self._index}", proposer=by, body=body)
        self.rules.committed(self._index, encode_command(command))

    def write(self, *operations: Operation, by: str) -> None:
        self.entry(Write(operations=operations), by=by)

    def publish(self, cluster: str, *, version: int, ready: bool = True) -> None:
        row = row_of(cluster, version=version, ready=ready)
        before, lease = self.rules.truth.revision, self.rules.truth.lease(publish_lease(cluster))
        assert lease is not None
        self.entry(PublishEndpoints(cluster=cluster, fence=lease.fence, put=(row,)), by=cluster)
        assert self.rules.truth.revision > before

    def drain(self, cluster: str) -> None:
        begun = start(
            step_percent=50, every_ms=500, forced=False, started_by="admin", now_ms=self.rules.truth.now_ms
        )
        self.write(put(ResourceKey("", "Drain", "", cluster), begun, new=True), by=cluster)
        assert self.rules.truth.tables.resource(ResourceKey("", "Drain", "", cluster)) is not None

    def found(self) -> str:
        return "" if self.rules.violation is None else self.rules.violation.rule


def test_who_alone_serves_something_for_long_hands_nothing_over() -> None:
    told = Told()
    told.publish("alpha", version=0)
    told.rules.lifecycle.look()
    told.now_s = LATER_S
    told.drain("alpha")
    assert told.found() == ALONE


def test_a_drain_may_begin_as_soon_as_another_cluster_serves_it_too() -> None:
    """Though nobody looked at the rows since: the desk that began it did."""
    told = Told()
    told.publish("alpha", version=0)
    told.rules.lifecycle.look()
    told.now_s = LATER_S
    told.publish("beta", version=0)
    told.drain("alpha")
    assert told.found() == ""


@pytest.mark.parametrize(("after_s", "wrong"), [(0.1, ""), (LATER_S, ALONE)])
def test_who_was_not_alone_for_a_moment_has_been_alone_since_then_only(after_s: float, wrong: str) -> None:
    told = Told()
    told.publish("alpha", version=0)
    told.rules.lifecycle.look()
    told.now_s = LATER_S
    told.publish("beta", version=0)
    told.publish("beta", version=1, ready=False)
    told.rules.lifecycle.look()
    told.now_s += after_s
    told.drain("alpha")
    assert told.found() == wrong


class FollowedController:
    """A process that follows alpha's controller, told of a row that this controller's log has at an older version."""

    def __init__(self) -> None:
        self.lives = True
        self.told = Told()
        rules, new = self.told.rules, row_of("alpha", version=4)
        self.told.publish("alpha", version=3)
        self.agent = SimpleNamespace(declared=None, withdrawn={})
        rules.agents = {"alpha-a0": self.agent}  # type: ignore[dict-item] # what is asked of an agent
        self.start("alpha-1")
        state = BelievesWhoKnowsLess("alpha")  # The product's own would not take what is to be found wrong.
        self.copy = WatchedCopy("alpha-dns", state, rules)
        image = Image(
            history="f1", cluster="alpha", tables=rules.truth.tables, own=_own(new), synced_unix_ms=0
        )
        self.copy.took(state.restore(image))

    def start(self, name: str) -> WatchedRegistry:
        table = WatchedRegistry(name, "alpha", self.told.rules, lives=lambda: self.lives)
        table.began(SimpleNamespace(rows=_own(row_of("alpha", version=3)).items))  # type: ignore[arg-type] # asked for rows
        return table

    def list_again(self, *, version: int | None) -> str:
        """The controller, started anew, gives out its list; returns the rule that finds that wrong."""
        state = self.copy.state
        rows = () if version is None else (_set(row_of("alpha", version=version)),)
        self.copy.took(state.apply(Resumed(history="f1", revision=state.revision)))
        self.copy.took(state.apply(LocalRows(changes=rows, first=True, complete=True)))
        return self.told.found()


def _set(row: Endpoint) -> Change:
    return Change("endpoints", row.key.encode(), pack(row))


def _own(row: Endpoint) -> Table:
    return Table.of_sorted([(row.key.encode(), pack(row))])


@pytest.mark.parametrize("version", [3, None])
def test_what_died_with_all_that_knew_it_is_taken_back_by_no_wrong(version: int | None) -> None:
    assert FollowedController().list_again(version=version) == ""


@pytest.mark.parametrize(("version", "wrong"), [(3, NEWER), (None, REASON)])
@pytest.mark.parametrize("knows", ["the log", "a journal", "a controller", "its agent"])
def test_what_somebody_knows_still_is_not_taken_back(knows: str, version: int | None, wrong: str) -> None:
    followed, row = FollowedController(), row_of("alpha", version=4)
    match knows:
        case "the log":
            followed.told.publish("alpha", version=4)
        case "a journal":
            followed.told.rules.journalled([row])
        case "a controller":
            followed.start("alpha-2").told((_set(row),))
        case _:
            followed.agent.declared = SimpleNamespace(rows={row.key: row})
    assert followed.list_again(version=version) == wrong


def test_what_a_controller_knew_that_has_died_is_known_no_more() -> None:
    followed = FollowedController()
    followed.start("alpha-2").told((_set(row_of("alpha", version=4)),))
    followed.lives = False
    assert followed.list_again(version=3) == ""

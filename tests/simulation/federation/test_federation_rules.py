"""The rules themselves: what each finds wrong, and what it must not."""

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
from discovery.core.model import Endpoint, EndpointKey, EndpointPort, ResourceKey
from discovery.core.publishing import publish_lease
from tests.simulation.federation.founding import belongings, founding, joining, put
from tests.simulation.federation.lifecycle_rules import ALONE, ALONE_MAX_S
from tests.simulation.federation.parts import Parts
from tests.simulation.federation.rules import Rules

CLUSTERS = ("alpha", "beta")
LATER_S = ALONE_MAX_S + 5


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

    def publish(self, cluster: str, *, version: int, ready: bool) -> None:
        row = Endpoint(
            key=EndpointKey("shop", "stock", cluster, f"{cluster}-a0-0"),
            address="10.0.0.1",
            ports=(EndpointPort(name="http", service_port=8080, listen_port=15_006),),
            identity=f"spiffe://{cluster}.test/ns/shop/sa/shop",
            ready=ready,
            agent=f"{cluster}-a0",
            incarnation=1,
            sequence=version,
        )
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
    told.publish("alpha", version=0, ready=True)
    told.rules.lifecycle.look()
    told.now_s = LATER_S
    told.drain("alpha")
    assert told.found() == ALONE


def test_a_drain_may_begin_as_soon_as_another_cluster_serves_it_too() -> None:
    """Though nobody looked at the rows since: the desk that began it did."""
    told = Told()
    told.publish("alpha", version=0, ready=True)
    told.rules.lifecycle.look()
    told.now_s = LATER_S
    told.publish("beta", version=0, ready=True)
    told.drain("alpha")
    assert told.found() == ""


@pytest.mark.parametrize(("after_s", "wrong"), [(0.1, ""), (LATER_S, ALONE)])
def test_who_was_not_alone_for_a_moment_has_been_alone_since_then_only(after_s: float, wrong: str) -> None:
    told = Told()
    told.publish("alpha", version=0, ready=True)
    told.rules.lifecycle.look()
    told.now_s = LATER_S
    told.publish("beta", version=0, ready=True)
    told.publish("beta", version=1, ready=False)
    told.rules.lifecycle.look()
    told.now_s += after_s
    told.drain("alpha")
    assert told.found() == wrong

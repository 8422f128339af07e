"""Addresses that were let in and that the rules of now refuse: nobody is sent there, and they are back when the rules are."""

import json

import pytest

from discovery.core.catalog import Catalog
from discovery.core.external_duties import duties
from discovery.core.model import Change, ServiceKey
from discovery.core.views import ViewIndex
from federation.kernel.errors import Code
from gateways.core.compile import ViewCompiler
from gateways.core.explain import Caller, explain
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    gateway,
    key,
    put,
    put_cluster,
    put_controller,
    put_export,
    put_external,
    put_grant,
)

ORDERS = ServiceKey("shop", "orders")
OUTSIDE = "203.0.113.5"


class Federation:
    """Beta exports orders to alpha; views of both follow the log."""

    def __init__(self) -> None:
        self.log = founded()
        self.log.accept("beta", put_export("beta", "shop", "*"), put_grant("beta", "shop", "*"))
        self.views = {cluster: ViewIndex(cluster) for cluster in ("alpha", "beta")}
        for view in self.views.values():
            view.reset(self.log.catalog.tables)
        self.told: dict[str, frozenset[ServiceKey]] = {}
        self.log.catalog.on_change(self._changed)

    def _changed(self, _revision: int, changes: tuple[Change, ...]) -> None:
        for cluster, view in self.views.items():
            self.told[cluster] = view.update(self.log.catalog.tables, changes)
            fresh = ViewIndex(cluster)
            fresh.reset(self.log.catalog.tables)
            assert view.service(ORDERS) == fresh.service(ORDERS)

    def ranges(self, *found: str) -> None:
        self.log.accept("beta", put_cluster("beta", ranges=list(found)))

    def listens(self, *places: str) -> None:
        """A controller of beta listens there."""
        spec = json.loads(put_controller("beta-1", "beta").spec or b"")
        self.log.accept(
            "beta",
            put(key("Controller", "beta-1"), spec | dict(zip(("raft", "control"), places, strict=False))),
        )

    def seen(self, viewer: str) -> list[str]:
        service = self.views[viewer].service(ORDERS)
        owners = () if service is None else service.owners
        return [row.address for owner in owners for row in owner.endpoints]

    def seen_by_all(self) -> list[str]:
        assert self.seen("alpha") == self.seen("beta")
        return self.seen("alpha")

    def why(self, address: str) -> str:
        """What explain says of an address."""
        view = self.views["alpha"]
        compiler = ViewCompiler("alpha", view)
        compiler.update(frozenset(view.services()))
        told = explain(view, compiler, Caller("alpha"), ORDERS, ())
        [fact] = [fact for owner in told.owners for fact in owner.endpoints if fact.address == address]
        assert fact.called == "no"
        assert fact.why.startswith("not served: ")
        return fact.why


def publish(federation: Federation, *addresses: str) -> None:
    rows = [endpoint("beta", f"e{number}", address=address) for number, address in enumerate(addresses)]
    assert federation.log.publish("beta", *rows).code == 0


def test_an_endpoint_outside_of_the_ranges_of_now_is_served_to_nobody_until_they_allow_it_again():
    federation = Federation()
    publish(federation, "10.1.0.1", "10.2.0.1")
    federation.ranges("10.1.0.0/16")
    assert federation.seen_by_all() == ["10.1.0.1"]
    assert "10.2.0.1 is outside the cluster's ranges 10.1.0.0/16" in federation.why("10.2.0.1")
    federation.ranges("10.9.0.0/16")
    assert federation.seen_by_all() == []
    assert "10.1.0.1 is outside the cluster's ranges" in federation.why("10.1.0.1")
    federation.ranges()
    assert federation.seen_by_all() == ["10.1.0.1", "10.2.0.1"]
    assert federation.told == {"alpha": {ORDERS}, "beta": {ORDERS}}


@pytest.mark.parametrize("address", ["10.1.0.1", "64:ff9b::a01:1"])
def test_where_a_controller_comes_to_listen_no_endpoint_is_served(address):
    federation = Federation()
    publish(federation, address, "10.2.0.1")
    federation.listens("10.1.0.1:15006")
    assert federation.seen_by_all() == ["10.2.0.1"]
    assert "is a controller's own" in federation.why(address)
    federation.listens("10.1.0.1:7443")
    assert federation.seen_by_all() == [address, "10.2.0.1"]


def test_a_gateway_outside_of_the_ranges_of_now_is_no_way_to_anybody():
    federation = Federation()
    publish(federation, "10.1.0.1")
    assert federation.log.publish("beta", gateway("beta", address="10.2.0.1")).code == 0
    federation.ranges("10.1.0.0/16")
    assert federation.views["alpha"].gateways("beta") == ()
    assert federation.views["alpha"].service(ORDERS).owners[0].gateways == ()
    federation.ranges("10.1.0.0/16", "10.2.0.0/16")
    assert [one.address for one in federation.views["alpha"].service(ORDERS).owners[0].gateways] == [
        "10.2.0.1"
    ]


def test_an_address_outside_is_served_and_checked_as_long_as_the_rules_of_now_let_it_in():
    federation = Federation()
    federation.ranges("127.9.0.0/16")
    federation.log.accept("beta", put_external("beta", "shop", "orders", OUTSIDE, "127.9.0.1"))
    assert federation.seen_by_all() == ["127.9.0.1", OUTSIDE]
    federation.ranges("10.1.0.0/16")
    assert federation.seen_by_all() == [OUTSIDE]
    assert "127.9.0.1 means another host for each caller" in federation.why("127.9.0.1")
    assert checked(federation.log) == {OUTSIDE}
    federation.listens(f"{OUTSIDE}:8080")
    assert federation.seen_by_all() == []
    assert "is a controller's own" in federation.why(OUTSIDE)
    assert checked(federation.log) == set()
    federation.ranges("127.0.0.0/8")
    federation.listens()
    assert federation.seen_by_all() == ["127.9.0.1", OUTSIDE]
    assert checked(federation.log) == {OUTSIDE, "127.9.0.1"}


def checked(log: Log) -> set[str]:
    found, _ = duties(log.catalog.tables, "beta")
    return {address for spec in found.values() for address in spec.addresses}


@pytest.mark.parametrize(
    ("address", "ranges", "is_refused"),
    [
        (OUTSIDE, ["203.0.113.0/24"], True),
        (OUTSIDE, ["10.0.0.0/8", "203.0.113.5/32"], True),
        (OUTSIDE, ["0.0.0.0/0"], True),
        (OUTSIDE, ["203.0.114.0/24", "::/0"], False),
        ("64:ff9b::a01:1", ["10.1.0.0/16"], True),
    ],
)
def test_no_range_takes_an_address_outside_from_who_declared_it_first(address, ranges, is_refused):
    log = founded()
    log.accept("beta", put_external("beta", "shop", "orders", address))
    outcome = log.write("alpha", put_cluster("alpha", ranges=ranges))
    assert outcome.code == (Code.PERMISSION_DENIED if is_refused else 0), outcome.message
    if is_refused:
        assert (
            f"cluster alpha: spec.ranges contain {address}, an address of clusters/beta/ExternalService/"
            in outcome.message
        )
        assert log.write("alpha", put_cluster("gamma", ranges=ranges)).code == Code.PERMISSION_DENIED
    log.accept("beta", put_cluster("beta", ranges=ranges))  # Its own may.


def test_ranges_that_stay_as_they_are_are_not_judged_again():
    log = founded()
    log.accept("alpha", put_cluster("alpha", ranges=["10.0.0.0/8"]))
    refused = log.write("beta", put_external("beta", "shop", "orders", "10.7.0.1"))
    assert "lies in the ranges of cluster alpha" in refused.message
    log.accept("alpha", put_cluster("alpha", ranges=["10.0.0.0/8"], region="east"))
    copy = Catalog()
    copy.restore(log.catalog.snapshot())
    assert copy.digest() == log.catalog.digest()

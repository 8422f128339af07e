"""Addresses that were let in and that the rules of now refuse: nobody is sent there, and they are back when the rules are."""

import json
from typing import Any

import pytest

from discovery.core.catalog import Catalog
from discovery.core.commands import Put, RemoveCluster
from discovery.core.external_duties import duties
from discovery.core.model import Change, ServiceKey
from discovery.core.views import ViewIndex
from federation.kernel.errors import Code
from federation.kernel.versions import PROTOCOL_VERSION
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
    put_trust_domain,
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


def put_mirror(cluster: str, *places: str) -> Put:
    identity = f"spiffe://alpha.test/isthmus/{cluster}/controller/m1"
    spec = {"cluster": cluster, "role": "mirror", "identity": identity, "protocol": PROTOCOL_VERSION}
    return put(key("Controller", f"{cluster}-m1"), spec | dict(zip(("control", "api"), places, strict=False)))


def test_a_mirror_takes_nobodys_address_from_callers_by_what_it_says_of_itself():
    federation = Federation()
    log, outside = federation.log, f"{OUTSIDE}:8080"
    publish(federation, "10.1.0.1", "10.2.0.1")
    log.accept("alpha", put_external("alpha", "shop", "outside", OUTSIDE))
    log.accept("delta", put_mirror("delta", "10.1.0.1:15006", outside))
    assert federation.seen_by_all() == ["10.1.0.1", "10.2.0.1"]
    assert federation.views["alpha"].service(ServiceKey("shop", "outside")).owners[0].endpoints
    publish(federation, "10.1.0.1", "10.3.0.1")
    log.accept("alpha", put_external("alpha", "shop", "outside", OUTSIDE, "203.0.113.6"))


def test_the_place_of_a_mirror_is_none_of_its_own_clusters_endpoints():
    federation = Federation()
    log, view = federation.log, ViewIndex("delta")
    assert log.publish("delta", endpoint("delta", "e", address="10.1.0.1"), proposer="alpha").code == 0
    view.reset(log.catalog.tables)
    log.catalog.on_change(lambda _revision, changes: view.update(log.catalog.tables, changes))
    assert view.service(ORDERS) is not None
    log.accept("delta", put_mirror("delta", "10.1.0.1:15006"))
    assert view.service(ORDERS) is None
    moved = endpoint("delta", "e", address="10.1.0.1", version=(9, 9))
    assert log.publish("delta", moved, proposer="alpha").code == Code.PERMISSION_DENIED
    log.accept("delta", put_mirror("delta", "10.1.0.1:7443"))
    assert view.service(ORDERS) is not None


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


def condition(log: Log) -> dict[str, Any]:
    """What the owner of the external service is told; {} as long as there was nothing to tell."""
    row = log.catalog.tables.resource(key("ExternalService", "orders", scope="beta", namespace="shop"))
    [told] = json.loads(row.status).get("conditions", [{}])
    return told


def test_a_range_that_comes_later_takes_no_address_outside_from_who_declared_it():
    federation = Federation()
    log = federation.log
    log.accept("beta", put_external("beta", "shop", "orders", OUTSIDE, "198.51.100.7"))
    log.accept("alpha", put_cluster("alpha", ranges=["10.0.0.0/8"]))
    assert condition(log) == {}
    log.accept("alpha", put_cluster("alpha", ranges=["10.0.0.0/8", "203.0.113.0/24"]))
    assert federation.seen_by_all() == ["198.51.100.7", OUTSIDE]
    assert checked(log) == {"198.51.100.7", OUTSIDE}
    told = condition(log)
    assert (told["type"], told["status"], told["reason"]) == ("Conflict", "True", "RangeOverlap")
    assert told["message"] == (
        f"address {OUTSIDE} lies in 203.0.113.0/24, a range of cluster alpha: served until the service gives it up"
    )
    # The service may change, and keeps it; once given up it is as any other.
    log.accept("beta", put_external("beta", "shop", "orders", OUTSIDE))
    refused = log.write("beta", put_external("beta", "shop", "orders", OUTSIDE, "203.0.113.6"))
    assert "203.0.113.6 lies in 203.0.113.0/24, a range of cluster alpha" in refused.message
    log.accept("alpha", put_cluster("alpha", ranges=["10.0.0.0/8"]))
    assert (condition(log)["status"], condition(log)["message"]) == ("False", "")
    log.accept("beta", put_external("beta", "shop", "orders", "198.51.100.7"))
    log.accept("alpha", put_cluster("alpha", ranges=["203.0.113.0/24"]))
    assert log.write("beta", put_external("beta", "shop", "orders", OUTSIDE)).code == Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("address", "ranges", "within"),
    [
        (OUTSIDE, ["203.0.113.0/24"], "203.0.113.0/24"),
        (OUTSIDE, ["10.0.0.0/8", "203.0.113.5/32"], "203.0.113.5/32"),
        (OUTSIDE, ["0.0.0.0/0", "203.0.0.0/16"], "203.0.0.0/16"),
        (OUTSIDE, ["0.0.0.0/0"], "0.0.0.0/0"),
        (OUTSIDE, ["203.0.114.0/24", "::/0"], ""),
        ("64:ff9b::a01:1", ["10.1.0.0/16"], "10.1.0.0/16"),
        ("fd00::1", ["fd00::/64", "10.1.0.0/16"], "fd00::/64"),
    ],
)
def test_a_cluster_has_its_ranges_whatever_others_declared_in_them(address, ranges, within):
    log = founded()
    log.accept("beta", put_external("beta", "shop", "orders", address))
    log.accept("alpha", put_cluster("alpha", ranges=ranges))
    assert checked(log) == {address}
    assert (f" lies in {within}, a range of cluster alpha" in condition(log).get("message", "")) == bool(
        within
    )
    copy = Catalog()
    copy.restore(log.catalog.snapshot())
    assert copy.digest() == log.catalog.digest()


@pytest.mark.parametrize(
    ("own", "others", "is_refused"),
    [
        ([], ["10.0.0.0/8"], True),
        (["10.7.0.0/16"], ["10.0.0.0/8"], False),
        (["10.0.0.0/8"], ["10.0.0.0/8"], False),
        (["10.0.0.0/8"], ["10.7.0.0/16"], True),
        (["0.0.0.0/0"], ["10.7.0.1/32"], True),
        (["192.0.2.0/24"], ["10.0.0.0/8"], True),
        ([], ["10.8.0.0/16"], False),
    ],
)
def test_an_address_outside_is_for_whoever_has_the_narrowest_range_around_it(own, others, is_refused):
    log = founded()
    log.accept("beta", put_cluster("beta", ranges=own))
    log.accept("alpha", put_cluster("alpha", ranges=others))
    outcome = log.write("beta", put_external("beta", "shop", "orders", "10.7.0.1"))
    assert outcome.code == (Code.PERMISSION_DENIED if is_refused else 0), outcome.message
    if is_refused:
        assert f"10.7.0.1 lies in {others[0]}, a range of cluster alpha" in outcome.message


def test_an_overlap_is_over_when_the_own_range_is_as_narrow_and_back_when_it_is_not():
    log = founded()
    log.accept("beta", put_external("beta"))
    log.accept("alpha", put_cluster("alpha", ranges=["203.0.113.0/24"]))
    seen = []
    for own in (["203.0.113.0/28"], [], ["203.0.113.0/24"], ["203.0.0.0/16"]):
        log.accept("beta", put_cluster("beta", ranges=own))
        seen.append(condition(log)["status"])
    assert seen == ["False", "True", "False", "True"]


def test_who_joins_is_in_nobodys_way_and_leaves_nothing_behind():
    log = founded()
    log.accept("beta", put_external("beta"))
    log.accept("alpha", put_cluster("gamma", ranges=["203.0.113.0/24"]), put_trust_domain("gamma.test"))
    assert "a range of cluster gamma" in condition(log)["message"]
    assert checked(log) == {OUTSIDE}
    removal = RemoveCluster(
        cluster="gamma", removed_by="spiffe://alpha.test/isthmus/alpha/admin", forced=True
    )
    outcome = log.send("alpha", removal)
    assert outcome.code == 0, outcome.message
    assert condition(log)["status"] == "False"

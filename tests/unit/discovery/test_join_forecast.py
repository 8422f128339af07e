"""A dry run of a join: what would change, what the state machine would refuse, and what somebody may regret."""

from typing import Any

import pytest

from discovery.core.commands import Put
from discovery.core.join_forecast import ExpectedService, Forecast, Newcomer, foresee_join
from discovery.core.specs import ClusterSpec, ControllerSpec
from federation.api.joining import forecast_records
from federation.api.messages import NamedController
from federation.cli.join_forecast import read_service
from federation.kernel.errors import InvalidInputError
from federation.kernel.versions import PROTOCOL_VERSION
from tests.unit.discovery.builders import (
    PORT,
    Log,
    endpoint,
    founded,
    key,
    put,
    put_cluster,
    put_export,
    put_external,
    put_grant,
)

ADDRESS = "10.9.0.1"


def federation() -> Log:
    """alpha shows its orders to everybody; its controller and its range are known."""
    log = founded()
    log.accept("alpha", put_cluster("alpha", network="lan", ranges=["10.1.0.0/16"]))
    identity = "spiffe://alpha.test/isthmus/alpha/controller/alpha-1"
    spec = {"cluster": "alpha", "role": "member", "identity": identity, "raft": "10.1.0.1:7443"}
    spec |= {"protocol": PROTOCOL_VERSION}
    log.accept("alpha", put(key("Controller", "alpha-1"), spec))
    log.accept("alpha", put_export("alpha", "shop", "*"), put_grant("alpha", "shop", "*"))
    assert log.publish("alpha", endpoint("alpha", ports=(PORT,))).code == 0
    return log


def controller(cluster: str, *, raft: str = f"{ADDRESS}:7443", name: str = "") -> NamedController:
    identity = f"spiffe://{cluster}.test/isthmus/{cluster}/controller/c1"
    spec = ControllerSpec(
        cluster=cluster,
        role="member",
        identity=identity,
        raft=raft,
        control=f"{ADDRESS}:7444",
        api=f"{ADDRESS}:7445",
    )
    return NamedController(name=name or f"{cluster}-c1", spec=spec)


def foreseen(
    cluster: str = "gamma",
    *services: str,
    raft: str = f"{ADDRESS}:7443",
    name: str = "",
    **spec: Any,
) -> Forecast:
    log = federation()
    digest = log.catalog.digest()
    wanted = ClusterSpec(**{"role": "primary", "trust_domain": f"{cluster}.test", **spec})
    named = controller(cluster, raft=raft, name=name) if wanted.role == "primary" else None
    newcomer = Newcomer(
        cluster=cluster,
        spec=wanted,
        controllers=() if named is None else ((named.name, named.spec),),
        services=tuple(read_service(text) for text in services),
    )
    puts: list[Put] = forecast_records(cluster, wanted, named)
    found = foresee_join(log.catalog.tables, newcomer, puts, proposer="alpha", now_ms=log.catalog.now_ms)
    assert log.catalog.digest() == digest
    return found


def test_a_join_adds_and_changes_nothing_else():
    assert foreseen() == Forecast(
        changes=("create Cluster/gamma", "create TrustDomain/gamma.test", "create Controller/gamma-c1"),
        conflicts=(),
        warnings=(),
    )
    remote = foreseen("epsilon", role="remote", home="alpha", trust_domain="alpha.test")
    assert (remote.changes, remote.conflicts) == (("create Cluster/epsilon",), ())


@pytest.mark.parametrize(
    ("changes", "conflict"),
    [
        pytest.param({"cluster": "beta"}, "Cluster/beta exists since", id="the-name"),
        pytest.param({"trust_domain": "beta.test"}, "trust domain beta.test belongs to cluster beta", id="the-trust-domain"),
        pytest.param({"name": "alpha-1"}, "Controller/alpha-1 exists since", id="the-controllers-name"),
        pytest.param({"raft": "10.1.0.1:7443"}, "10.1.0.1:7443 is where the controller of alpha listens", id="an-address"),
        pytest.param({"role": "remote", "home": "mars", "trust_domain": "alpha.test"}, "home 'mars' is no primary", id="a-home-there-is-not"),
        pytest.param({"epoch": 3}, "epoch is 3, expected 1", id="an-epoch"),
    ],
)  # fmt: skip
def test_what_is_taken_stands_in_the_way(changes, conflict):
    found = foreseen(**changes)
    assert any(conflict in one for one in found.conflicts), found


def test_everything_in_the_way_is_named_at_once():
    found = foreseen("beta", trust_domain="alpha.test", raft="10.1.0.1:7443")
    assert len(found.conflicts) == 3


@pytest.mark.parametrize(
    ("spec", "overlaps"),
    [
        pytest.param({"network": "lan", "ranges": ("10.1.2.0/24",)}, True, id="on-the-same-network"),
        pytest.param({"network": "other", "ranges": ("10.1.2.0/24",)}, False, id="on-another-network"),
        pytest.param({"ranges": ("10.1.2.0/24",)}, False, id="behind-gateways"),
        pytest.param({"network": "lan", "ranges": ("10.2.0.0/16", "fd00::/64")}, False, id="beside"),
    ],
)
def test_ranges_that_overlap_are_a_warning_where_endpoints_are_reached_directly(spec, overlaps):
    found = foreseen(**spec)
    assert found.conflicts == ()
    assert [
        one for one in found.warnings if "range 10.1.2.0/24 overlaps 10.1.0.0/16 of cluster alpha" in one
    ] == (list(found.warnings) if overlaps else [])
    assert bool(found.warnings) == overlaps


def test_external_addresses_within_the_ranges_are_a_warning_and_nothing_in_the_way():
    log = federation()
    log.accept("alpha", put_external("alpha", "shop", "db", "203.0.113.5", "203.0.113.6", "198.51.100.7"))
    spec = ClusterSpec(role="primary", trust_domain="gamma.test", ranges=("203.0.113.0/24",))
    found = foresee_join(
        log.catalog.tables,
        Newcomer(cluster="gamma", spec=spec),
        forecast_records("gamma", spec, controller("gamma")),
        proposer="alpha",
        now_ms=log.catalog.now_ms,
    )
    assert found.conflicts == ()
    assert found.warnings == tuple(
        f"range 203.0.113.0/24 contains 203.0.113.{last} of external service shop/db of cluster alpha, which"
        " keeps it"
        for last in (5, 6)
    )


@pytest.mark.parametrize(
    ("service", "words"),
    [
        pytest.param("orders.shop", ["merged with that of cluster alpha"], id="shown"),
        pytest.param("orders.shop:8080/http", ["merged with that of cluster alpha"], id="the-same-port"),
        pytest.param("orders.shop:8080/tcp", ["merged with", "port 8080 is http in cluster alpha and tcp here"], id="another-protocol"),
        pytest.param("orders.pay", [], id="nobodys"),
    ],
)  # fmt: skip
def test_services_of_the_same_name_are_merged(service, words):
    found = foreseen("gamma", service)
    assert found.conflicts == ()
    assert len(found.warnings) == len(words)
    assert all(word in one for word, one in zip(words, found.warnings, strict=True))


@pytest.mark.parametrize(
    "text", ["orders", "orders.shop:", "orders.shop:80/udp", "a.b.c", "Orders.shop", "orders.shop:123456", ""]
)
def test_what_is_no_service_is_refused(text):
    with pytest.raises(InvalidInputError, match="--service"):
        read_service(text)


def test_a_service_is_read_with_and_without_port():
    assert read_service("orders.shop") == ExpectedService(namespace="shop", service="orders")
    assert read_service("db.shop:5432/tcp") == ExpectedService(
        namespace="shop", service="db", port=5432, protocol="tcp"
    )

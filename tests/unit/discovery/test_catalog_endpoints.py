"""Which endpoint rows the catalog takes: well-formed, of the publishing cluster, newer than what is there."""

import msgspec
import pytest

from discovery.core.commands import PublishEndpoints
from discovery.core.model import EndpointKey, EndpointPort
from discovery.core.rules import check_endpoint
from discovery.core.specs import ClusterSpec
from federation.kernel.errors import Code, IsthmusError
from tests.unit.discovery.builders import PORT, endpoint, founded, gateway, put_cluster

ANYWHERE = ClusterSpec(role="primary", trust_domain="alpha.test")
LAN = msgspec.structs.replace(ANYWHERE, ranges=("10.0.0.0/8", "127.0.0.0/8", "fd00::/8"))
ROW = endpoint()


def with_key(**parts: str) -> EndpointKey:
    return ROW.key._replace(**parts)


def with_port(**fields: object) -> tuple[EndpointPort, ...]:
    return (msgspec.structs.replace(PORT, **fields),)


@pytest.mark.parametrize(
    ("spec", "address", "expected"),
    [
        pytest.param(LAN, "10.255.0.1", None, id="inside"),
        pytest.param(LAN, "127.105.0.1", None, id="inside-a-range-of-loopback"),
        pytest.param(LAN, "fd00::1", None, id="inside-of-the-second-version"),
        pytest.param(LAN, "11.0.0.1", Code.PERMISSION_DENIED, id="outside"),
        pytest.param(LAN, "::ffff:10.0.0.1", Code.INVALID_ARGUMENT, id="inside-but-spelt-as-ipv6"),
        pytest.param(ANYWHERE, "192.0.2.1", None, id="no-ranges"),
        pytest.param(ANYWHERE, "2001:db8::1", None, id="no-ranges-ipv6"),
        pytest.param(ANYWHERE, "127.0.0.1", Code.PERMISSION_DENIED, id="loopback"),
        pytest.param(ANYWHERE, "::1", Code.PERMISSION_DENIED, id="loopback-ipv6"),
        pytest.param(ANYWHERE, "::ffff:127.0.0.1", Code.INVALID_ARGUMENT, id="loopback-mapped"),
        pytest.param(ANYWHERE, "169.254.169.254", Code.PERMISSION_DENIED, id="metadata"),
        pytest.param(ANYWHERE, "169.254.1.1", Code.PERMISSION_DENIED, id="link-local"),
        pytest.param(ANYWHERE, "fe80::1", Code.PERMISSION_DENIED, id="link-local-ipv6"),
        pytest.param(ANYWHERE, "fe80::1%eth0", Code.INVALID_ARGUMENT, id="zone"),
        pytest.param(ANYWHERE, "224.0.0.1", Code.PERMISSION_DENIED, id="multicast"),
        pytest.param(ANYWHERE, "0.0.0.0", Code.PERMISSION_DENIED, id="unspecified"),
        pytest.param(ANYWHERE, "::", Code.PERMISSION_DENIED, id="unspecified-ipv6"),
        pytest.param(ANYWHERE, "example.com", Code.INVALID_ARGUMENT, id="name"),
        pytest.param(ANYWHERE, "", Code.INVALID_ARGUMENT, id="empty"),
        pytest.param(ANYWHERE, "2001:0db8::1", Code.INVALID_ARGUMENT, id="long-form"),
        pytest.param(ANYWHERE, "010.0.0.1", Code.INVALID_ARGUMENT, id="leading-zero"),
    ],
)
def test_an_address_lies_inside_the_clusters_ranges_or_at_least_on_a_network(spec, address, expected):
    assert refusal(msgspec.structs.replace(ROW, address=address), spec) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(ROW, None, id="as-it-should-be"),
        pytest.param(gateway("alpha"), None, id="gateway"),
        pytest.param(msgspec.structs.replace(ROW, key=with_key(cluster="beta")), Code.PERMISSION_DENIED, id="another-cluster"),
        pytest.param(msgspec.structs.replace(ROW, key=with_key(service="a\0b")), Code.INVALID_ARGUMENT, id="separator"),
        pytest.param(msgspec.structs.replace(ROW, key=with_key(namespace="")), Code.INVALID_ARGUMENT, id="no-namespace"),
        pytest.param(msgspec.structs.replace(ROW, key=with_key(name="x" * 64)), Code.INVALID_ARGUMENT, id="long-name"),
        pytest.param(msgspec.structs.replace(ROW, ports=()), Code.INVALID_ARGUMENT, id="no-port"),
        pytest.param(msgspec.structs.replace(ROW, ports=with_port(service_port=0)), Code.INVALID_ARGUMENT, id="port-0"),
        pytest.param(msgspec.structs.replace(ROW, ports=with_port(listen_port=65_536)), Code.INVALID_ARGUMENT, id="port-65536"),
        pytest.param(msgspec.structs.replace(ROW, ports=with_port(name="")), Code.INVALID_ARGUMENT, id="port-name"),
        pytest.param(msgspec.structs.replace(ROW, ports=(PORT, *with_port(name="other"))), Code.INVALID_ARGUMENT, id="service-port-twice"),
        pytest.param(msgspec.structs.replace(ROW, ports=(PORT, *with_port(service_port=1))), Code.INVALID_ARGUMENT, id="port-name-twice"),
        pytest.param(msgspec.structs.replace(ROW, ports=(PORT,) * 33), Code.INVALID_ARGUMENT, id="33-ports"),
        pytest.param(msgspec.structs.replace(ROW, weight=-1), Code.INVALID_ARGUMENT, id="weight"),
        pytest.param(msgspec.structs.replace(ROW, sequence=2**63), Code.INVALID_ARGUMENT, id="sequence"),
        pytest.param(msgspec.structs.replace(ROW, region="a\nb"), Code.INVALID_ARGUMENT, id="region"),
        pytest.param(msgspec.structs.replace(ROW, labels=(("a", "x" * 5_000),)), Code.RESOURCE_EXHAUSTED, id="large"),
    ],
)  # fmt: skip
def test_a_row_is_well_formed_and_in_its_place(row, expected):
    assert refusal(row, ANYWHERE) == expected


@pytest.mark.parametrize(
    ("row", "identity", "accepted"),
    [
        pytest.param(ROW, "spiffe://alpha.test/ns/shop/sa/orders", True, id="workload"),
        pytest.param(ROW, "spiffe://beta.test/ns/shop/sa/orders", False, id="another-trust-domain"),
        pytest.param(ROW, "spiffe://alpha.test.evil/ns/shop/sa/orders", False, id="longer-trust-domain"),
        pytest.param(ROW, "https://alpha.test/ns/shop/sa/orders", False, id="no-spiffe-id"),
        pytest.param(ROW, "spiffe://alpha.test/ns/shop/sa", False, id="short"),
        pytest.param(ROW, "spiffe://alpha.test/ns/shop/sa/", False, id="empty-part"),
        pytest.param(ROW, "spiffe://alpha.test/ns/shop/sa/a/b", False, id="long"),
        pytest.param(ROW, "spiffe://alpha.test/isthmus/alpha/controller/c", False, id="a-controllers"),
        pytest.param(gateway("alpha"), "spiffe://alpha.test/isthmus/alpha/gateway/g", True, id="gateway"),
        pytest.param(
            gateway("alpha"), "spiffe://alpha.test/isthmus/delta/gateway/g", False, id="gateway-of-a-remote"
        ),
        pytest.param(
            gateway("alpha"), "spiffe://alpha.test/ns/shop/sa/orders", False, id="a-workload-as-gateway"
        ),
    ],
)
def test_an_identity_is_of_the_clusters_trust_domain_and_of_the_right_sort(row, identity, accepted):
    expected = None if accepted else Code.PERMISSION_DENIED
    assert refusal(msgspec.structs.replace(row, identity=identity), ANYWHERE) == expected


def refusal(row: object, spec: ClusterSpec) -> Code | None:
    try:
        check_endpoint(row, "alpha", spec)
    except IsthmusError as error:
        return error.code
    return None


def test_the_state_machine_applies_the_same_rules_and_refuses_a_batch_as_a_whole():
    log = founded()
    log.accept("alpha", put_cluster("alpha", ranges=["10.0.0.0/8"]))
    outcome = log.publish("alpha", ROW, endpoint(name="orders-2", address="192.0.2.1"))
    assert (outcome.code, outcome.message) == (
        Code.PERMISSION_DENIED,
        "endpoint shop/orders/orders-2: address 192.0.2.1 is outside the cluster's ranges 10.0.0.0/8",
    )
    assert len(log.catalog.tables.endpoints) == 0


@pytest.mark.parametrize(
    ("version", "taken"),
    [((1, 6), True), ((2, 0), True), ((1, 5), False), ((1, 4), False), ((0, 9), False)],
)
def test_only_a_newer_row_replaces_a_row(version, taken):
    log = founded()
    log.publish("alpha", endpoint(version=(1, 5)))
    log.publish("alpha", endpoint(version=version, ready=False))
    row = log.catalog.tables.endpoint(ROW.key)
    assert row is not None
    assert row.ready != taken


@pytest.mark.parametrize(("ended", "gone"), [((1, 5), True), ((1, 6), True), ((2, 0), True), ((1, 4), False)])
def test_a_removal_takes_only_what_it_has_seen(ended, gone):
    log = founded()
    log.publish("alpha", endpoint(version=(1, 5)))
    log.publish("alpha", remove=((ROW.key, *ended),))
    assert (log.catalog.tables.endpoint(ROW.key) is None) == gone


def test_a_row_may_be_removed_and_set_again_in_one_batch():
    log = founded()
    log.publish("alpha", endpoint(version=(9, 9), agent="old"))
    log.publish("alpha", endpoint(version=(1, 1), agent="new"), remove=((ROW.key, 9, 9),))
    row = log.catalog.tables.endpoint(ROW.key)
    assert row is not None
    assert row.agent == "new"


def test_a_repeated_batch_changes_nothing():
    log = founded()
    first = log.publish("alpha", ROW)
    again = log.publish("alpha", ROW, remove=((with_key(name="never-there"), 5, 5),))
    assert (again.code, again.revision) == (0, first.revision)


def test_an_older_holder_of_the_publish_lease_is_fenced_off():
    log = founded()
    old = log.lease("publish/alpha", "a", ttl_ms=10).lease
    log.tick(1_000)
    new = log.lease("publish/alpha", "b").lease
    assert old is not None
    assert new is not None
    for fence, accepted in ((old.fence, False), (new.fence + 1, False), (new.fence, True)):
        outcome = log.send("alpha", PublishEndpoints(cluster="alpha", fence=fence, put=(ROW,)))
        assert (outcome.code == 0) == accepted
        if not accepted:
            assert outcome.code == Code.FAILED_PRECONDITION
            assert "expected that of the newest lease" in outcome.message


def test_without_a_lease_nobody_publishes():
    outcome = founded().send("alpha", PublishEndpoints(cluster="alpha", fence=0, put=(ROW,)))
    assert (outcome.code, outcome.message) == (
        Code.FAILED_PRECONDITION,
        "publish for alpha: fence is 0, expected that of the newest lease: none",
    )


def test_a_cluster_has_a_bounded_number_of_endpoints(monkeypatch):
    monkeypatch.setattr("discovery.core.publishing.ENDPOINTS_PER_CLUSTER_MAX", 2)
    log = founded()
    assert log.publish("alpha", ROW, endpoint(name="b")).code == 0
    assert log.publish("delta", endpoint("delta")).code == 0
    outcome = log.publish("alpha", endpoint(name="c"))
    assert (outcome.code, outcome.message) == (
        Code.RESOURCE_EXHAUSTED,
        "publish for alpha: 3 endpoints, at most 2 are allowed",
    )
    assert log.publish("alpha", endpoint(name="c"), remove=((ROW.key, 1, 1),)).code == 0

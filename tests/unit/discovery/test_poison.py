"""Addresses and names by which one cluster could deceive the callers of another."""

import msgspec
import pytest

from discovery.core.commands import Command, PublishEndpoints, encode_command
from discovery.core.poison import check_not_poisoned, controller_places
from discovery.core.rules import check_endpoint
from discovery.core.specs import ClusterSpec
from federation.kernel.errors import Code, IsthmusError
from tests.unit.discovery.builders import endpoint, founded, key, put, put_cluster, put_export, put_grant

EVERYTHING = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    ("address", "ranges", "words"),
    [
        pytest.param("10.0.0.1", (), "", id="private"),
        pytest.param("10.0.0.1", ("10.0.0.0/8",), "", id="in-range"),
        pytest.param("127.1.2.3", ("127.1.0.0/16",), "", id="a-laboratory-on-loopback"),
        pytest.param("127.1.2.3", EVERYTHING, "means another host", id="loopback-in-a-range-of-everything"),
        pytest.param("127.1.2.3", ("127.2.0.0/16", *EVERYTHING), "means another host", id="loopback-of-another-range"),
        pytest.param("::1", EVERYTHING, "means another host", id="loopback-v6"),
        pytest.param("169.254.7.7", EVERYTHING, "means another host", id="link-local"),
        pytest.param("169.254.7.7", ("169.254.7.0/24",), "", id="link-local-that-is-meant"),
        pytest.param("fe80::7", EVERYTHING, "means another host", id="link-local-v6"),
        pytest.param("169.254.169.254", ("169.254.0.0/16",), "metadata service", id="metadata"),
        pytest.param("fd00:ec2::254", ("fd00::/8",), "metadata service", id="metadata-v6"),
        pytest.param("168.63.129.16", (), "metadata service", id="metadata-azure"),
        pytest.param("100.100.100.200", EVERYTHING, "metadata service", id="metadata-alibaba"),
        pytest.param("224.0.0.1", EVERYTHING, "no address of one host", id="multicast"),
        pytest.param("ff02::1", EVERYTHING, "no address of one host", id="multicast-v6"),
        pytest.param("0.0.0.0", EVERYTHING, "no address of one host", id="unspecified"),
        pytest.param("::", EVERYTHING, "no address of one host", id="unspecified-v6"),
        pytest.param("255.255.255.255", EVERYTHING, "no address of one host", id="broadcast"),
        pytest.param("64:ff9b::a9fe:a9fe", EVERYTHING, "metadata service", id="metadata-behind-nat64"),
        pytest.param("2002:7f00:1::", EVERYTHING, "means another host", id="loopback-behind-6to4"),
        pytest.param("64:ff9b::a00:1", EVERYTHING, "", id="private-behind-nat64"),
    ],
)  # fmt: skip
def test_no_range_of_a_cluster_makes_a_deceiving_address_good(address, ranges, words):
    row = endpoint(address=address)
    message = refusal(row, ranges)
    assert (words in message) if words else message == "", message


def refusal(row, ranges=(), places=frozenset()):
    spec = ClusterSpec(role="primary", trust_domain="alpha.test", ranges=ranges)
    try:
        check_endpoint(row, "alpha", spec)
        check_not_poisoned(row, ranges, places)
    except IsthmusError as error:
        return error.message
    return ""


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe"])
def test_an_ipv4_address_has_one_spelling(address):
    assert "address is" in refusal(endpoint(address=address), EVERYTHING)


def test_the_place_of_a_controller_is_no_endpoints():
    log = founded()
    identity = "spiffe://beta.test/isthmus/beta/controller/beta-1"
    spec = {
        "cluster": "beta",
        "role": "member",
        "identity": identity,
        "control": "10.9.0.1:15006",
        "protocol": 2,
    }
    log.accept("beta", put(key("Controller", "beta-1"), spec))
    assert controller_places(log.catalog.tables).of("alpha") == {("10.9.0.1", 15006)}
    outcome = log.publish("alpha", endpoint(address="10.9.0.1"))
    assert (outcome.code, outcome.message) == (
        Code.PERMISSION_DENIED,
        "endpoint shop/orders/orders-1: address 10.9.0.1:15006 is a controller's own",
    )
    assert log.publish("alpha", endpoint(address="10.9.0.2")).code == 0


@pytest.mark.parametrize(
    ("row", "code"),
    [
        pytest.param(endpoint(service="Orders"), Code.INVALID_ARGUMENT, id="case"),
        pytest.param(endpoint(service="orders.shop"), Code.INVALID_ARGUMENT, id="dot"),
        pytest.param(endpoint(service="orders."), Code.INVALID_ARGUMENT, id="dot-at-the-end"),
        pytest.param(endpoint(service="\u043erders"), Code.INVALID_ARGUMENT, id="cyrillic"),
        pytest.param(endpoint(service="orders\u200b"), Code.INVALID_ARGUMENT, id="zero-width"),
        pytest.param(endpoint(service="xn--rders-vze"), Code.INVALID_ARGUMENT, id="encoded-cyrillic"),
        pytest.param(endpoint(namespace="xn--shp-0na"), Code.INVALID_ARGUMENT, id="encoded-namespace"),
        pytest.param(endpoint(name="ab--c"), Code.INVALID_ARGUMENT, id="reserved-hyphens"),
        pytest.param(endpoint(name="a--b"), 0, id="two-hyphens-elsewhere"),
        pytest.param(endpoint(labels=(("a", "v" * 64),)), Code.RESOURCE_EXHAUSTED, id="long-value"),
        pytest.param(endpoint(labels=(("a" * 254, "v"),)), Code.RESOURCE_EXHAUSTED, id="long-name"),
        pytest.param(endpoint(labels=tuple((f"l{n}", "v") for n in range(65))), Code.RESOURCE_EXHAUSTED, id="65-labels"),
        pytest.param(endpoint(labels=(("a\n", "v"),)), Code.INVALID_ARGUMENT, id="line-break"),
    ],
)  # fmt: skip
def test_what_looks_like_another_name_is_not_published(row, code):
    outcome = founded().publish("alpha", row)
    assert outcome.code == code, outcome.message


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        pytest.param(put_export("alpha", "shop", "xn--rders-vze"), Code.INVALID_ARGUMENT, id="exported-service"),
        pytest.param(put_export("alpha", "shop", "Orders"), Code.INVALID_ARGUMENT, id="exported-case"),
        pytest.param(put_export("alpha", "xn--shp-0na", "*"), Code.INVALID_ARGUMENT, id="namespace"),
        pytest.param(put_grant("alpha", "shop", "ab--c"), Code.INVALID_ARGUMENT, id="granted-service"),
        pytest.param(put_export("alpha", "isthmus-system", "*"), Code.PERMISSION_DENIED, id="system-namespace-exported"),
        pytest.param(put_grant("alpha", "isthmus-system", "*"), Code.PERMISSION_DENIED, id="system-namespace-granted"),
        pytest.param(put(key("Cluster", "xn--lpha-53d"), {"role": "primary", "trustDomain": "x.test"}), Code.INVALID_ARGUMENT, id="cluster"),
        pytest.param(put(key("Agent", "agent.a1", scope="alpha"), {"role": "agent", "namespace": "isthmus-system", "serviceAccount": "x"}), Code.PERMISSION_DENIED, id="agent-of-the-system"),
        pytest.param(put_export("alpha", "shop", "a--b"), 0, id="two-hyphens-elsewhere"),
    ],
)  # fmt: skip
def test_a_policy_names_nothing_that_looks_like_another_name_or_is_the_systems_own(operation, code):
    outcome = founded().write("alpha", operation)
    assert outcome.code == code, outcome.message


def test_what_an_older_build_has_proposed_is_judged_by_the_rules_of_then():
    log = founded()
    log.accept("alpha", put_cluster("alpha", ranges=["127.0.0.0/8", "10.0.0.0/8"]))
    fence = log.lease("publish/alpha", "p").lease.fence
    batch = PublishEndpoints(cluster="alpha", fence=fence, put=(endpoint(name="ab--c"),))
    old = Command(request_id="old", proposer="alpha", body=batch, schema=1)
    assert log.entry(encode_command(old)).code == 0
    new = msgspec.structs.replace(batch, put=(endpoint(name="ab--d"),))
    assert log.send("alpha", new).code == Code.INVALID_ARGUMENT

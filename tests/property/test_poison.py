"""No spelling of an address gets past the rules for it, wherever addresses enter: endpoints, gateways, services outside."""

import ipaddress
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.poison import METADATA_ADDRESSES, controller_places
from discovery.core.specs import ClusterSpec
from discovery.core.vetting import refusal
from federation.kernel.errors import Code
from tests.unit.discovery.builders import (
    PORT,
    Log,
    endpoint,
    founded,
    gateway,
    key,
    put,
    put_cluster,
    put_controller,
    put_external,
)

CONTROLLER = ipaddress.IPv4Address("10.9.0.1")
RANGES = ((), ("0.0.0.0/0", "::/0"), ("10.0.0.0/8", "fd00::/8", "64:ff9b::/32", "2001::/16", "::/8"))

poisoned = st.one_of(
    st.sampled_from(sorted(one for one in METADATA_ADDRESSES if isinstance(one, ipaddress.IPv4Address))),
    st.ip_addresses(network="127.0.0.0/8"),
    st.ip_addresses(network="169.254.0.0/16"),
    st.ip_addresses(network="224.0.0.0/4"),
    st.sampled_from([ipaddress.IPv4Address("255.255.255.255"), CONTROLLER]),
)
prefixes = st.integers(0, 2**64 - 1)


def v6(number: int) -> str:
    return str(ipaddress.IPv6Address(number))


def base(text: str) -> int:
    return int(ipaddress.IPv6Address(text))


def isatap(meant: int, more: int) -> str:
    return v6((more << 64) | (0x0000_5EFE << 32) | meant)


def teredo(meant: int, more: int) -> str:
    """As the client, whose address is inverted."""
    return v6(base("2001::") | (more & 0xFFFF_FFFF) << 64 | (meant ^ 0xFFFF_FFFF))


def local_nat64(length: int) -> Callable[[int, int], str]:
    """RFC 6052: the address follows the prefix, and leaves byte 9 out."""

    def spelled(meant: int, more: int) -> str:
        octets = [0] * 16
        places = (
            [place for place in range(length // 8, 16) if place != 8][:4] if length < 96 else range(12, 16)
        )
        for place, octet in zip(places, meant.to_bytes(4), strict=True):
            octets[place] = octet
        return v6(base("64:ff9b:1::") | int.from_bytes(bytes(octets)))

    return spelled


# Other spellings of the same IPv4 address, and IPv6 addresses that a translator or tunnel makes it of.
FORMS: dict[str, Callable[[int, int], str]] = {
    "as it is": lambda meant, more: str(ipaddress.IPv4Address(meant)),
    "decimal": lambda meant, more: str(meant),
    "hexadecimal": lambda meant, more: hex(meant),
    "octal": lambda meant, more: f"0{meant:o}",
    "octets in octal": lambda meant, more: ".".join(f"0{octet:o}" for octet in meant.to_bytes(4)),
    "octets in hexadecimal": lambda meant, more: ".".join(map(hex, meant.to_bytes(4))),
    "two parts": lambda meant, more: f"{meant >> 24}.{meant & 0xFFFFFF}",
    "a space": lambda meant, more: f"{ipaddress.IPv4Address(meant)} ",
    "a zone": lambda meant, more: f"{ipaddress.IPv4Address(meant)}%eth0",
    "mapped": lambda meant, more: f"::ffff:{ipaddress.IPv4Address(meant)}",
    "mapped in groups": lambda meant, more: f"::ffff:{meant >> 16:x}:{meant & 0xFFFF:x}",
    "mapped with a zone": lambda meant, more: f"::ffff:{ipaddress.IPv4Address(meant)}%1",
    "compatible": lambda meant, more: v6(meant),
    "translated": lambda meant, more: v6(base("::ffff:0:0:0") | meant),
    "6to4": lambda meant, more: v6(base("2002::") | meant << 80 | more),
    "teredo": teredo,
    "isatap": isatap,
    "nat64": lambda meant, more: v6(base("64:ff9b::") | meant),
    **{f"nat64 of one's own, /{length}": local_nat64(length) for length in (48, 56, 64, 96)},
}


def federation() -> Log:
    log = founded()
    spec = json.loads(put_controller("beta-1", "beta").spec or b"")
    places = {"control": f"{CONTROLLER}:{PORT.listen_port}", "api": f"{CONTROLLER}:{PORT.service_port}"}
    log.accept("beta", put(key("Controller", "beta-1"), spec | places))
    return log


PLACES = controller_places(federation().catalog.tables).of("alpha")


@settings(max_examples=300, deadline=None)
@given(meant=poisoned, form=st.sampled_from(sorted(FORMS)), more=prefixes, ranges=st.sampled_from(RANGES))
def test_no_form_of_a_poisoned_address_gets_into_the_catalog(meant, form, more, ranges):
    text = FORMS[form](int(meant), more)
    spec = ClusterSpec(role="primary", trust_domain="alpha.test", ranges=ranges)
    for row in (endpoint(address=text), gateway("alpha", address=text)):
        assert refusal(row, "alpha", spec, PLACES), text
    log = federation()
    log.accept("alpha", put_cluster("alpha", ranges=list(ranges)))
    refused = log.write("alpha", put_external("alpha", "shop", "orders", text))
    assert refused.code in (Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT), text


@pytest.mark.parametrize("address", sorted(map(str, METADATA_ADDRESSES)))
def test_no_range_allows_a_metadata_service(address):
    log = founded()
    log.accept("alpha", put_cluster("alpha", ranges=[address, "169.254.0.0/16", "fe80::/10"]))
    assert "metadata service" in log.write("alpha", put_external("alpha", "shop", "orders", address)).message
    assert "metadata service" in log.publish("alpha", endpoint(address=address)).message


@pytest.mark.parametrize("form", ["nat64", "6to4", "translated", "isatap", "nat64 of one's own, /48"])
def test_what_stands_for_an_address_that_is_nobodys_is_as_good_as_that(form):
    text = FORMS[form](int(ipaddress.IPv4Address("10.7.0.1")), 0x2001_0DB8_0000_0000)
    spec = ClusterSpec(role="primary", trust_domain="alpha.test")
    assert refusal(endpoint(address=text), "alpha", spec, PLACES) == ""


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("::ffff:169.254.0.0/112", "expected 169.254.0.0/16"),
        ("::ffff:10.0.0.0/104", "expected 10.0.0.0/8"),
        ("::ffff:10.0.0.1", "expected 10.0.0.1/32"),
        ("fe80::%1/64", "has a zone, expected none"),
        ("10.0.0.1/8", "is not a network"),
        ("167772160", "is not a network"),
        ("010.0.0.0/8", "is not a network"),
        ("10.0.0.0/33", "is not a network"),
        ("all", "is not a network"),
        ("::/0", ""),
        ("10.0.0.0/255.0.0.0", ""),
    ],
)
def test_a_range_is_a_network_in_which_an_address_can_be(network, words):
    refused = founded().write("alpha", put_cluster("alpha", ranges=["10.0.0.0/8", network]))
    assert refused.code == (Code.INVALID_ARGUMENT if words else 0)
    assert words in refused.message
    if words:
        assert f"spec.ranges[1]: {network!r}" in refused.message

"""A row is accepted at a glance only where the rules accept it, and refused in their words (discovery.core.vetting)."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from discovery.core import vetting
from discovery.core.model import Endpoint, EndpointKey, EndpointPort, pack
from discovery.core.poison import METADATA_ADDRESSES, Places, check_not_poisoned
from discovery.core.rules import check_endpoint
from discovery.core.specs import ClusterSpec
from federation.kernel.errors import IsthmusError
from tests.unit.discovery.builders import PORT, endpoint

RANGES = (
    (),
    ("10.1.0.0/16",),
    ("10.1.2.0/24", "fd00::/8"),
    ("10.1.2.0/25",),
    ("10.1.2.128/25",),
    ("10.1.2.7/32", "10.1.3.0/24"),
    ("127.0.0.0/8",),
    ("127.3.0.0/16", "169.254.169.0/24"),
    ("0.0.0.0/0", "::/0"),
    ("168.63.0.0/16", "224.0.0.0/8"),
)
BLOCKS = (
    "10.1.2",
    "10.1.3",
    "10.2.0",
    "127.3.0",
    "169.254.169",
    "168.63.129",
    "224.0.0",
    "255.255.255",
    "0.0.0",
    "192.0.0",
)
TEXTS = (
    *map(str, METADATA_ADDRESSES),
    "fd00::7", "FD00::7", "fd00:0::7", "::1", "::ffff:10.1.2.3", "64:ff9b::a9fe:a9fe", "fe80::1%eth0",
    "10.1.2.007", "010.1.2.7", "10.1.2", "10.1.2.3.4", "10.1.2.256", "10.1.2.", ".7", "", "orders", "10.1.2.\u0667",
)  # fmt: skip
PLACES: Places = frozenset({("10.1.2.7", 15_006), ("10.1.3.1", 7_443), ("fd00::7", 15_006)})

addresses = st.one_of(
    st.sampled_from(sorted(address for address, _ in PLACES)),
    st.builds("{}.{}".format, st.sampled_from(BLOCKS), st.integers(0, 255)),
    st.sampled_from(TEXTS),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
good_names = st.sampled_from(("shop", "orders", "a", "a-b", "x" * 63))
BAD_NAMES = (
    "", "-a", "a-", "A", "a.b", "a\0b", "xn--a", "ab--c", "x" * 64, "a\n", "isthmus-system", "\ud800", "beta"
)  # fmt: skip
names = st.one_of(good_names, st.sampled_from(BAD_NAMES))
ports = st.lists(
    st.builds(
        EndpointPort,
        name=st.one_of(st.just("http"), names),
        service_port=st.sampled_from((8_080, 1, 65_535, 0, 65_536, -1)),
        listen_port=st.sampled_from((15_006, 7_443, 0, 70_000)),
    ),
    max_size=3,
).map(tuple)
texts = st.sampled_from(("", "eu-west", "x" * 253, "x" * 254, "a\tb", "\u00e9", "\ud800"))
numbers = st.sampled_from((0, 1, 127, 128, 65_535, 65_536, 2**63 - 1, 2**63, -1))
identities = st.one_of(
    st.sampled_from(
        (
            "spiffe://alpha.test/ns/shop/sa/orders",
            "spiffe://alpha.test/ns/shop/sa/",
            "spiffe://alpha.test/ns/shop/sa/a/b",
            "spiffe://alpha.test/isthmus/alpha/gateway/gw-1",
            "spiffe://alpha.test/isthmus/alpha/agent/a",
            "spiffe://alpha.test/other/shop/sa/orders",
            "spiffe://alpha.testing/ns/shop/sa/orders",
            "spiffe://beta.test/ns/shop/sa/orders",
            "spiffe://alpha.test/ns/shop/sa/" + "x" * 2_100,
            "spiffe://alpha.test/ns/shop/sa/\ud800",
            "",
        )
    )
)
labels = st.lists(
    st.tuples(st.sampled_from(("app", "", "a\n", "x" * 254)), st.sampled_from(("v", "", "x" * 64))),
    max_size=2,
).map(tuple)
GOOD: dict[str, Any] = {
    "key": EndpointKey("shop", "orders", "alpha", "orders-1"),
    "address": "10.1.2.3",
    "ports": (PORT,),
    "identity": "spiffe://alpha.test/ns/shop/sa/orders",
    "ready": True,
}
PARTS = {
    "key": st.builds(
        lambda part, name: GOOD["key"]._replace(**{part: name}), st.sampled_from(EndpointKey._fields), names
    ),
    "address": addresses,
    "ports": ports,
    "identity": identities,
    "region": texts,
    "agent": texts,
    "weight": numbers,
    "incarnation": numbers,
    "sequence": numbers,
    "labels": labels,
}
# A good row with one or two of its parts drawn anew: most are refused for one reason, or for none.
rows = st.lists(
    st.one_of([st.tuples(st.just(name), part) for name, part in PARTS.items()]), min_size=1, max_size=2
).map(lambda parts: Endpoint(**{**GOOD, **dict(parts)}))
specs = st.builds(
    lambda ranges: ClusterSpec(role="primary", trust_domain="alpha.test", ranges=ranges),
    st.sampled_from(RANGES),
)


def by_the_rules(row: Endpoint, spec: ClusterSpec, places: Places, *, strict: bool) -> bytes:
    check_endpoint(row, "alpha", spec)
    if strict:
        check_not_poisoned(row, spec.ranges, places)
    return pack(row)


def vetted(row: Endpoint, cluster: str, spec: ClusterSpec, places: Places, *, strict: bool = True) -> object:
    judged = said(vetting.vet, row, cluster, spec, places, strict=strict)
    if isinstance(judged[0], bytes):
        assert judged[0] == row.key.encode()
        return judged[1]
    return judged


def said(judge: Callable[..., object], *arguments: object, **rest: object) -> Any:
    try:
        return judge(*arguments, **rest)
    except (IsthmusError, UnicodeEncodeError) as error:
        return (type(error), str(error))


@settings(max_examples=400)
@given(row=rows, spec=specs, places=st.sampled_from((frozenset(), PLACES)), strict=st.booleans())
@example(
    row=endpoint(labels=tuple((f"{n}", "x" * 63) for n in range(64))),
    spec=ClusterSpec(role="primary", trust_domain="alpha.test"),
    places=frozenset(),
    strict=True,
)
def test_a_row_is_judged_as_by_the_rules_whatever_is_remembered(row, spec, places, strict):
    expected = said(by_the_rules, row, spec, places, strict=strict)
    # Twice: the second time what repeats from row to row is remembered.
    for _ in range(2):
        assert vetted(row, "alpha", spec, places, strict=strict) == expected
    if strict and not (isinstance(expected, tuple) and expected[0] is UnicodeEncodeError):
        reason = expected[1] if isinstance(expected, tuple) else ""
        assert vetting.refusal(row, "alpha", spec, places) == reason


@pytest.mark.parametrize("ranges", RANGES)
def test_an_address_is_judged_as_if_nothing_were_known_of_its_neighbours(ranges):
    spec = ClusterSpec(role="primary", trust_domain="alpha.test", ranges=ranges)
    numbers = (0, 1, 6, 7, 8, 126, 127, 128, 129, 192, 253, 254, 255)
    for address in (*(f"{block}.{number}" for block in BLOCKS for number in numbers), *TEXTS):
        row = endpoint(address=address)
        expected = said(by_the_rules, row, spec, frozenset(), strict=True)
        assert vetted(row, "alpha", spec, frozenset()) == expected, address


@pytest.mark.parametrize("part", EndpointKey._fields)
def test_a_name_is_judged_as_by_the_rules(part):
    spec = ClusterSpec(role="primary", trust_domain="alpha.test")
    for name in BAD_NAMES:
        row = Endpoint(**{**GOOD, "key": GOOD["key"]._replace(**{part: name})})
        expected = said(by_the_rules, row, spec, frozenset(), strict=True)
        assert vetted(row, "alpha", spec, frozenset()) == expected, name


def test_good_rows_are_accepted_at_a_glance_whatever_their_number():
    """What is proportional to the rows: no address is read as a network, no name and identity taken apart."""
    spec = ClusterSpec(role="primary", trust_domain="alpha.test", ranges=("10.0.0.0/8",))
    vetting._is_good_block.cache_clear()
    vetting._is_good_address.cache_clear()
    for number in range(2_000):
        row = endpoint(name=f"e-{number}", address=f"10.7.{number // 256}.{number % 256}")
        assert vetting._parts_are_good(row, "alpha", spec, PLACES)
    assert vetting._is_good_block.cache_info().misses == 8
    assert vetting._is_good_address.cache_info().misses == 8

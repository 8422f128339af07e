"""The compiled answers against the obvious ones, with dnspython as the judge of bytes."""

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import hypothesis.strategies as st
from hypothesis import given

from discovery.core.dns_answer import _answer_any, answer
from discovery.core.dns_names import ORIGIN_WIRE
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import ServiceKey
from tests.unit.discovery.dns.cases import ZONE, View, make_service, slow_zone

# Two pairs of them share a candidate address.
LABELS = ("a", "svc", "service-1702", "service-7250", "service-7633", "service-8022", "x" * 63)
KEYS = st.builds(ServiceKey, st.sampled_from(["shop", "svc", "n" * 63]), st.sampled_from(LABELS))
PORTS = st.lists(
    st.tuples(st.sampled_from(["http", "grpc", "tcp", "p" * 62]), st.integers(1, 65_535)),
    max_size=5,
    unique_by=lambda port: port[1],
)
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"])
SERVICES = st.builds(
    make_service,
    KEYS,
    PORTS,
    st.lists(ADDRESSES, max_size=3),
    headless=st.booleans(),
    unready=st.sets(ADDRESSES, max_size=1),
)
BATCHES = st.lists(st.lists(st.one_of(SERVICES, KEYS), max_size=6), max_size=8)
KINDS = st.sampled_from(["A", "AAAA", "SRV", "TXT", "HTTPS", "CNAME"])


def follow(batches):
    """Apply batches of services that came or changed and keys of services that went."""
    view, zone = View(), CompiledZone()
    for batch in batches:
        changed = set()
        for change in batch:
            if isinstance(change, ServiceKey):
                view.table.pop(change, None)
                changed.add(change)
            else:
                view.table[change.key] = change
                changed.add(change.key)
        zone.update(view, changed)
    return view, zone


@st.composite
def some_names(draw, truth):
    """A name that exists, or nearly exists, in any letter case."""
    name = draw(st.sampled_from(sorted(truth)))
    match draw(st.integers(0, 4)):
        case 0:
            name = dns.name.Name(
                (draw(st.sampled_from([b"alpha", b"_tcp", b"_http", b"a\0b", b"svc"])), *name)
            )
        case 1:
            name = dns.name.Name(name.labels[1:]) if name.parent() != ZONE else name
    mixed = "".join(draw(st.sampled_from([letter, letter.upper()])) for letter in name.to_text())
    return dns.name.from_text(mixed)


@given(
    BATCHES,
    KINDS,
    st.sampled_from([-1, 0]),
    st.integers(0, 5_000),
    st.sampled_from(["udp", "tcp"]),
    st.data(),
)
def test_answers_are_those_of_the_view(batches, kind, edns, payload, transport, data):
    view, zone = follow(batches)
    truth = slow_zone(view)
    name = data.draw(some_names(truth))
    wire = dns.message.make_query(name, kind, use_edns=edns, payload=payload).to_wire()
    reply = dns.message.from_wire(answer(wire, zone, transport=transport))
    exists = name in truth
    expected = truth.get(name, {}).get(kind, set())
    assert reply.rcode() == (dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN)
    given_texts = {rr.to_text() for rrset in reply.answer for rr in rrset}
    if reply.flags & dns.flags.TC:
        assert given_texts < expected
    else:
        assert given_texts == expected
    assert all(rrset.name == name and rrset.ttl in {5, 28_800} for rrset in reply.answer)
    assert [rrset.rdtype for rrset in reply.authority] == ([] if expected else [dns.rdatatype.SOA])
    for rrset in reply.additional:
        assert {rr.to_text() for rr in rrset} == truth[rrset.name][dns.rdatatype.to_text(rrset.rdtype)]


@given(BATCHES)
def test_a_zone_does_not_depend_on_how_its_view_came_about(batches):
    view, zone = follow(batches)
    fresh = CompiledZone()
    fresh.replace(view)
    assert contents(zone) == contents(fresh)


def contents(zone):
    return {name: dict(answers) for name, answers in zone.names.items() if name != ORIGIN_WIRE}


ONE = CompiledZone()
ONE.replace(
    View(make_service(), make_service(ServiceKey("shop", "big"), [(f"p{n}", n) for n in range(1, 200)]))
)
SEEDS = [
    dns.message.make_query(name, kind, use_edns=edns, payload=payload, options=options).to_wire()
    for name in (
        "orders.shop.svc.clusterset.local",
        "big.shop.svc.clusterset.local",
        "no.clusterset.local",
        "x.y",
    )
    for kind in ("A", "SRV", "AAAA", "ANY")
    for edns, payload, options in (
        (-1, None, []),
        (0, 1232, []),
        (0, 4096, [dns.edns.ECSOption("192.0.2.0", 24), dns.edns.GenericOption(10, b"12345678")]),
    )
]


@st.composite
def damaged_queries(draw):
    wire = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(wire)))
        match draw(st.integers(0, 3)):
            case 0 if at < len(wire):
                wire[at] = draw(
                    st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x3F, 0x40, 0xC0, 0x29]))
                )
            case 1:
                del wire[at:]
            case 2:
                wire[at:at] = draw(st.binary(max_size=20))
            case 3:
                wire[at:at] = wire[: draw(st.integers(0, len(wire)))]
    return bytes(wire)


@given(st.one_of(st.binary(max_size=600), damaged_queries()), st.sampled_from(["udp", "tcp"]))
def test_any_bytes_get_one_well_formed_reply_or_none(wire, transport):
    reply = answer(wire, ONE, transport=transport)
    if len(wire) < 12 or wire[2] & 0x80:
        assert reply is None
        return
    assert reply is not None
    assert len(reply) <= (1232 if transport == "udp" else 65_535)
    assert (reply[:2], reply[2] & 0xF9) == (wire[:2], wire[2] & 0x79 | 0x80)
    parsed = dns.message.from_wire(reply)
    try:
        query = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError):
        return
    if parsed.rcode() not in {dns.rcode.FORMERR, dns.rcode.NOTIMP}:
        assert parsed.question == query.question
    if reply[3] & 0x0F not in {dns.rcode.FORMERR, dns.rcode.NOTIMP}:
        assert (parsed.edns >= 0) == (query.edns >= 0)


@given(damaged_queries())
def test_the_short_path_gives_the_bytes_of_the_careful_one(wire):
    assert answer(wire, ONE, transport="udp") == _answer_any(wire, ONE, "udp")

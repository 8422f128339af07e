import struct

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from discovery.core.dns_answer import answer
from discovery.core.dns_zone import CompiledZone
from tests.unit.discovery.dns.cases import HOST, View, make_service, many_ports

ZONE = CompiledZone()
ZONE.replace(View(make_service()))
CROWDED = CompiledZone()
CROWDED.replace(View(make_service(ports=many_ports(60), addresses=["10.0.0.1", "fd00::1"])))

QUESTION = dns.message.make_query(HOST, "A").to_wire()[12:]
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def packet(flags=0x0100, counts=(1, 0, 0, 0), rest=QUESTION):
    return struct.pack(">6H", 0x1234, flags, *counts) + rest


def reply_to(data, zone=ZONE, transport="udp"):
    reply = answer(data, zone, transport=transport)
    assert reply is not None
    assert reply[:2] == data[:2]
    return dns.message.from_wire(reply)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(packet()[:11], id="less-than-a-header"),
        pytest.param(packet(flags=0x8100), id="a-reply"),
        pytest.param(packet(flags=0x8100, rest=b"\xff"), id="a-malformed-reply"),
    ],
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_no_reply_is_due(data, transport):
    assert answer(data, ZONE, transport=transport) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(packet(counts=(0, 0, 0, 0), rest=b""), id="no-question"),
        pytest.param(packet(counts=(2, 0, 0, 0), rest=QUESTION * 2), id="two-questions"),
        pytest.param(packet(rest=b""), id="header-alone"),
        pytest.param(packet(rest=QUESTION[:-1]), id="question-cut-off"),
        pytest.param(packet(rest=b"\xc0\x0c\0\1\0\1"), id="pointer-to-itself"),
        pytest.param(packet(rest=b"\1a\xc0\x0c\0\1\0\1"), id="pointer-behind-a-label"),
        pytest.param(packet(rest=b"\x41" + b"a" * 65 + b"\0\0\1\0\1"), id="reserved-label-type"),
        pytest.param(packet(rest=QUESTION + b"x"), id="trailing-byte"),
        pytest.param(packet(counts=(1, 1, 0, 0), rest=QUESTION + OPT), id="answer-in-a-query"),
        pytest.param(packet(counts=(1, 0, 1, 0), rest=QUESTION + b"\0\0\6\0\1" + bytes(6)), id="authority"),
        pytest.param(packet(counts=(1, 0, 0, 1)), id="additional-missing"),
        pytest.param(packet(counts=(1, 0, 0, 65_535), rest=QUESTION + OPT), id="too-few-additional"),
        pytest.param(packet(counts=(1, 0, 0, 2), rest=QUESTION + OPT * 2), id="two-opts"),
        pytest.param(packet(counts=(1, 0, 0, 1), rest=QUESTION + b"\1a" + OPT), id="opt-owner-not-root"),
        pytest.param(
            packet(counts=(1, 0, 0, 1), rest=QUESTION + b"\xc0\x21" + OPT[1:]), id="opt-owner-pointer"
        ),
        pytest.param(packet(counts=(1, 0, 0, 1), rest=QUESTION + OPT[:-1]), id="opt-cut-off"),
        pytest.param(packet(counts=(1, 0, 0, 1), rest=QUESTION + OPT + b"x"), id="behind-opt"),
        pytest.param(
            packet(counts=(1, 0, 0, 1), rest=QUESTION + OPT[:-1] + b"\4\0\x0a\0\1"),
            id="option-longer-than-opt",
        ),
        pytest.param(
            packet(counts=(1, 0, 0, 1), rest=QUESTION + OPT[:-1] + b"\3\0\x0a\0"), id="half-an-option"
        ),
        pytest.param(packet(rest=QUESTION[:-4] + b"\0\x29\0\1"), id="type-opt"),
        pytest.param(packet(rest=QUESTION[:-4] + b"\0\xfa\0\1"), id="type-tsig"),
    ],
)
def test_malformed_queries_get_formerr_with_a_bare_header(data):
    assert answer(data, ZONE, transport="udp") == data[:2] + b"\x81\x01" + bytes(8)


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes_are_not_implemented(opcode):
    reply = answer(packet(flags=opcode << 11 | 0x0100), ZONE, transport="udp")
    assert reply == b"\x12\x34" + bytes((0x81 | opcode << 3, dns.rcode.NOTIMP)) + bytes(8)


@pytest.mark.parametrize(
    ("name", "kind", "question_class"),
    [
        pytest.param("example.com", "A", "IN", id="elsewhere"),
        pytest.param(".", "NS", "IN", id="root"),
        pytest.param("local", "A", "IN", id="above"),
        pytest.param("orders.shop.svc.cluster.local", "A", "IN", id="cluster-local"),
        pytest.param(HOST, "A", "CH", id="class-chaos"),
        pytest.param("version.bind", "TXT", "CH", id="version-bind"),
        pytest.param(HOST, "A", "ANY", id="class-any"),
        pytest.param("clusterset.local", "AXFR", "IN", id="axfr"),
        pytest.param("clusterset.local", "IXFR", "IN", id="ixfr"),
    ],
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("zone", [ZONE, None], ids=["synced", "unsynced"])
def test_what_is_not_ours_is_refused_and_gives_nothing_away(name, kind, question_class, transport, zone):
    query = dns.message.make_query(name, kind, question_class)
    reply = reply_to(query.to_wire(), zone, transport)
    assert (reply.rcode(), reply.answer, reply.authority) == (dns.rcode.REFUSED, [], [])
    assert not reply.flags & dns.flags.AA
    assert reply.question == query.question


def test_an_ixfr_with_its_soa_is_refused_rather_than_malformed():
    soa = b"\xc0\x0c\0\6\0\1\0\0\0\0\0\x16\0\0" + bytes(20)
    question = b"\x0aclusterset\5local\0\0\xfb\0\1"
    assert reply_to(packet(counts=(1, 0, 1, 0), rest=question + soa)).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("name", [HOST, "missing.shop.svc.clusterset.local"])
def test_without_a_zone_the_answer_is_servfail_never_nxdomain(name):
    reply = reply_to(dns.message.make_query(name, "A", use_edns=0).to_wire(), None)
    assert (reply.rcode(), reply.edns, reply.flags & dns.flags.AA) == (dns.rcode.SERVFAIL, 0, 0)


@pytest.mark.parametrize(
    "flags", [0, dns.flags.RD, dns.flags.RD | dns.flags.AD | dns.flags.CD, 0x0040, 0x0680]
)
@pytest.mark.parametrize("name", [HOST, "missing.clusterset.local"])
def test_only_rd_is_copied_from_the_query_s_flags(flags, name):
    query = dns.message.make_query(name, "A", flags=flags)
    reply = reply_to(query.to_wire())
    assert reply.flags & ~0x000F == dns.flags.QR | dns.flags.AA | flags & dns.flags.RD


@pytest.mark.parametrize(
    "name", ["oRDers.ShOp.SVC.clusterSET.LOCAL", "Missing.CLUSTERSET.local", "Example.COM"]
)
def test_the_question_is_echoed_in_its_own_letter_case(name):
    wire = dns.message.make_query(name, "A").to_wire()
    reply = answer(wire, ZONE, transport="udp")
    assert reply[12 : len(wire)] == wire[12:]
    assert reply_to(wire).answer or "rders" not in name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"\x08orders\0x" + QUESTION[7:-4], id="behind-the-first-letters"),
        pytest.param(b"\x06orders\x05shop\0\3svc\x0aclusterset\5local\0", id="in-the-namespace"),
        pytest.param(b"\x01\0" + QUESTION[:-4], id="as-a-label-before-the-name"),
    ],
)
def test_a_zero_byte_inside_a_label_matches_nothing(name):
    assert reply_to(packet(rest=name + b"\0\1\0\1")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        pytest.param(HOST, ["A"], id="service"),
        pytest.param("clusterset.local", ["SOA"], id="apex"),
        pytest.param("dns-version.clusterset.local", ["TXT"], id="version"),
        pytest.param("svc.clusterset.local", [], id="empty-non-terminal"),
    ],
)
def test_any_gets_one_set(name, kinds):
    reply = reply_to(dns.message.make_query(name, "ANY").to_wire())
    assert reply.rcode() == dns.rcode.NOERROR
    assert [dns.rdatatype.to_text(rrset.rdtype) for rrset in reply.answer] == kinds


@pytest.mark.parametrize("kind", ["HTTPS", "MX", "CNAME", "DS", "TYPE0", "TYPE65280"])
def test_other_types_of_an_existing_name_have_no_data(kind):
    reply = reply_to(dns.message.make_query(HOST, kind).to_wire())
    assert (reply.rcode(), reply.answer, len(reply.authority)) == (dns.rcode.NOERROR, [], 1)


COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
UNKNOWN = dns.edns.GenericOption(65_001, b"")


@pytest.mark.parametrize("options", [[], [COOKIE], [dns.edns.ECSOption("192.0.2.0", 24), COOKIE, UNKNOWN]])
@pytest.mark.parametrize("dnssec_ok", [False, True])
@pytest.mark.parametrize("name", [HOST, "missing.clusterset.local", "example.com"])
def test_edns_is_answered_with_edns_whatever_its_options(name, dnssec_ok, options):
    query = dns.message.make_query(
        name, "A", use_edns=0, payload=4096, options=options, want_dnssec=dnssec_ok
    )
    reply = reply_to(query.to_wire())
    assert (reply.edns, reply.payload, reply.options) == (0, 1232, ())
    assert bool(reply.ednsflags & dns.flags.DO) is dnssec_ok


@pytest.mark.parametrize("name", [HOST, "missing.clusterset.local", "example.com"])
def test_without_edns_there_is_none_in_the_answer(name):
    assert reply_to(dns.message.make_query(name, "A").to_wire()).edns == -1


def test_a_later_edns_version_gets_badvers():
    query = dns.message.make_query(HOST, "A", use_edns=1)
    reply = reply_to(query.to_wire())
    assert (reply.rcode(), reply.edns, reply.answer) == (dns.rcode.BADVERS, 0, [])


def test_other_additional_records_are_stepped_over():
    record = b"\xc0\x0c\0\x10\0\1\0\0\0\0\0\2\1x"
    reply = reply_to(packet(counts=(1, 0, 0, 2), rest=QUESTION + record + OPT))
    assert (len(reply.answer), reply.edns) == (1, 0)


@pytest.mark.parametrize(
    ("payload", "limit"),
    [
        pytest.param(None, 512, id="no-edns"),
        pytest.param(0, 512, id="zero"),
        pytest.param(511, 512, id="below-the-floor"),
        pytest.param(900, 900, id="as-asked"),
        pytest.param(1232, 1232, id="ours"),
        pytest.param(65_535, 1232, id="above-ours"),
    ],
)
def test_what_does_not_fit_is_cut_between_records_and_marked(payload, limit):
    query = dns.message.make_query(HOST, "SRV", use_edns=-1 if payload is None else 0, payload=payload)
    wire = answer(query.to_wire(), CROWDED, transport="udp")
    reply = dns.message.from_wire(wire)
    assert reply.flags & dns.flags.TC
    assert reply.additional == []
    record_bytes = 12 + 6 + len(HOST) + 2
    assert limit - record_bytes < len(wire) <= limit
    assert 0 < len(reply.answer[0]) < 60


def test_tcp_carries_all_of_it():
    query = dns.message.make_query(HOST, "SRV")
    reply = reply_to(query.to_wire(), CROWDED, "tcp")
    assert not reply.flags & dns.flags.TC
    assert (len(reply.answer[0]), len(reply.additional)) == (60, 2)


def test_tcp_too_has_an_end():
    zone = CompiledZone()
    zone.replace(View(make_service(ports=many_ports(2_000))))
    wire = answer(dns.message.make_query(HOST, "SRV").to_wire(), zone, transport="tcp")
    assert 65_535 - 100 < len(wire) <= 65_535
    assert dns.message.from_wire(wire).flags & dns.flags.TC


def test_additional_records_go_before_an_answer_is_cut():
    zone = CompiledZone()
    zone.replace(View(make_service(ports=many_ports(10), addresses=["fd00::1"])))
    whole = answer(dns.message.make_query(HOST, "SRV", use_edns=0).to_wire(), zone, transport="tcp")
    query = dns.message.make_query(HOST, "SRV", use_edns=0, payload=len(whole) - 1)
    reply = reply_to(query.to_wire(), zone)
    assert (len(reply.answer[0]), reply.additional) == (10, [])
    assert not reply.flags & dns.flags.TC

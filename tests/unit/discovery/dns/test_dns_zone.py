import ipaddress
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from discovery.core.dns_answer import answer
from discovery.core.dns_names import ORIGIN_WIRE, encode_name
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import ServiceKey
from federation.kernel.errors import InvalidInputError
from tests.unit.discovery.dns.cases import HOST, ORDERS, View, make_service


def zone_of(*services, **options):
    zone = CompiledZone(**options)
    zone.replace(View(*services))
    return zone


def ask(zone, name, kind="A"):
    query = dns.message.make_query(name, kind)
    reply = dns.message.from_wire(answer(query.to_wire(), zone, transport="tcp"))
    assert reply.flags & dns.flags.AA
    return reply


def texts(section):
    return {f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {rr}" for rrset in section for rr in rrset}


def test_a_service_with_an_ipv4_endpoint_has_a_and_no_aaaa():
    zone = zone_of(make_service(addresses=["10.1.0.1"]))
    assert texts(ask(zone, HOST).answer) == {f"{HOST}. A 241.7.163.174"}
    missing = ask(zone, HOST, "AAAA")
    assert (missing.rcode(), missing.answer) == (dns.rcode.NOERROR, [])
    assert missing.authority[0].rdtype == dns.rdatatype.SOA


def test_a_service_with_an_ipv6_endpoint_has_both():
    zone = zone_of(make_service(addresses=["10.1.0.1", "fd00::1"]))
    assert texts(ask(zone, HOST).answer) == {f"{HOST}. A 241.7.163.174"}
    assert texts(ask(zone, HOST, "AAAA").answer) == {f"{HOST}. AAAA 2001:2:0:6973::f107:a3ae"}


def test_a_service_without_endpoints_keeps_its_address():
    assert texts(ask(zone_of(make_service(addresses=[])), HOST).answer) == {f"{HOST}. A 241.7.163.174"}


def test_srv_names_each_port_of_its_name_and_carries_the_address_of_the_target():
    zone = zone_of(make_service(ports=[("http", 80), ("http", 8080), ("grpc", 9000)]))
    reply = ask(zone, f"_http._tcp.{HOST}", "SRV")
    assert texts(reply.answer) == {f"_http._tcp.{HOST}. SRV 0 1 {port} {HOST}." for port in (80, 8080)}
    assert texts(reply.additional) == {f"{HOST}. A 241.7.163.174"}


def test_srv_of_the_service_itself_names_every_port_once():
    zone = zone_of(make_service(ports=[("http", 80), ("", 81), ("x" * 63, 82), ("Bad.Port", 83)]))
    assert texts(ask(zone, HOST, "SRV").answer) == {
        f"{HOST}. SRV 0 1 {port} {HOST}." for port in range(80, 84)
    }


@pytest.mark.parametrize("port", ["", "x" * 63, "Bad.Port"])
def test_a_port_whose_name_fits_no_label_has_no_name_of_its_own(port):
    zone = zone_of(make_service(ports=[(port, 81)]))
    assert ask(zone, f"_tcp.{HOST}").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("number", [0, -1, 65_536])
def test_a_port_number_that_srv_cannot_carry_is_left_out(number):
    zone = zone_of(make_service(ports=[("http", number), ("grpc", 9000)]))
    assert texts(ask(zone, HOST, "SRV").answer) == {f"{HOST}. SRV 0 1 9000 {HOST}."}


@pytest.mark.parametrize(
    "name",
    [
        "clusterset.local",
        "svc.clusterset.local",
        "shop.svc.clusterset.local",
        f"_tcp.{HOST}",
        f"_http._tcp.{HOST}",
        "dns-version.clusterset.local",
        "dns.clusterset.local",
        "ns.dns.clusterset.local",
    ],
)
def test_a_name_with_something_else_or_something_below_has_no_data(name):
    reply = ask(zone_of(make_service()), name)
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
    assert texts(reply.authority) == {
        "clusterset.local. SOA ns.dns.clusterset.local. hostmaster.clusterset.local. 2 7200 1800 86400 5"
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"alpha.{HOST}", id="per-cluster-name"),
        pytest.param(f"host-0.alpha.{HOST}", id="per-endpoint-name"),
        pytest.param("payments.shop.svc.clusterset.local", id="other-service"),
        pytest.param("other.svc.clusterset.local", id="other-namespace"),
        pytest.param(f"_udp.{HOST}", id="other-transport"),
        pytest.param(f"_grpc._tcp.{HOST}", id="other-port"),
        pytest.param("orders.shop.clusterset.local", id="without-svc"),
        pytest.param("pod.clusterset.local", id="not-a-service"),
    ],
)
def test_everything_else_in_the_zone_does_not_exist(name):
    reply = ask(zone_of(make_service()), name)
    assert (reply.rcode(), reply.answer) == (dns.rcode.NXDOMAIN, [])
    assert reply.authority[0].name.to_text() == "clusterset.local."
    assert reply.authority[0].ttl == 5


def test_the_zone_tells_the_version_of_its_specification():
    reply = ask(zone_of(), "dns-version.clusterset.local", "TXT")
    assert texts(reply.answer) == {'dns-version.clusterset.local. TXT "1.0.0"'}
    assert reply.answer[0].ttl == 28_800


def test_the_apex_has_soa_and_ns_and_the_ns_has_our_addresses():
    zone = zone_of(addresses=["192.0.2.1", "2001:db8::1"], serial=41)
    assert texts(ask(zone, "clusterset.local", "NS").answer) == {
        "clusterset.local. NS ns.dns.clusterset.local."
    }
    assert ask(zone, "clusterset.local", "SOA").answer[0][0].serial == 41
    assert texts(ask(zone, "ns.dns.clusterset.local").answer) == {"ns.dns.clusterset.local. A 192.0.2.1"}
    assert texts(ask(zone, "ns.dns.clusterset.local", "AAAA").answer) == {
        "ns.dns.clusterset.local. AAAA 2001:db8::1"
    }


def test_an_own_address_that_is_none_is_refused():
    with pytest.raises(InvalidInputError, match="dns address: 'localhost' is not an IP address"):
        CompiledZone(addresses=["localhost"])


def test_the_serial_grows_with_each_update_that_changes_a_record_and_runs_in_a_ring():
    view = View(make_service())
    zone = CompiledZone(serial=2**32 - 1)
    assert (zone.update(view, [ORDERS]), zone.serial) == (1, 0)
    view.table[ORDERS] = make_service(addresses=["10.1.0.1", "10.1.0.2"])
    assert (zone.update(view, [ORDERS]), zone.serial) == (0, 0), "another IPv4 endpoint changes no record"
    view.table[ORDERS] = make_service(ports=[("http", 81)])
    assert (zone.update(view, [ORDERS]), zone.serial) == (1, 1)
    assert ask(zone, "clusterset.local", "SOA").answer[0][0].serial == 1


def test_a_change_touches_no_other_name():
    view = View(*(make_service(ServiceKey("shop", f"service-{number}")) for number in range(200)))
    zone = CompiledZone()
    zone.replace(view)
    before = dict(zone.names)
    changed = ServiceKey("shop", "service-7")
    view.table[changed] = make_service(changed, ports=[("grpc", 1)])
    zone.update(view, [changed])
    own = "service-7.shop.svc.clusterset.local"
    touched = {name for name in before.keys() | zone.names if before.get(name) is not zone.names.get(name)}
    assert touched == {
        ORIGIN_WIRE,
        encode_name(own),
        encode_name(f"_http._tcp.{own}"),
        encode_name(f"_grpc._tcp.{own}"),
    }


def test_a_service_that_goes_takes_its_names_and_the_last_one_its_namespace():
    other = ServiceKey("shop", "payments")
    view = View(make_service(), make_service(other))
    zone = CompiledZone()
    empty = set(zone.names)
    zone.replace(view)
    view.table[ORDERS] = make_service(ports=[("grpc", 1)])
    zone.update(view, [ORDERS])
    del view.table[ORDERS]
    assert zone.update(view, [ORDERS]) == 1
    assert ask(zone, HOST).rcode() == dns.rcode.NXDOMAIN
    assert ask(zone, "shop.svc.clusterset.local").rcode() == dns.rcode.NOERROR
    del view.table[other]
    zone.replace(view)
    assert set(zone.names) == empty
    assert (zone.services, len(zone.vips)) == (frozenset(), 0)


def test_a_service_that_dns_cannot_name_is_told_apart_and_disturbs_no_other():
    bad = ServiceKey("shop", "not.a.label")
    view = View(make_service(bad), make_service())
    zone = CompiledZone()
    assert zone.replace(view) == 1
    assert zone.unpublished == {bad}
    assert texts(ask(zone, HOST).answer)
    del view.table[bad]
    zone.update(view, [bad])
    assert zone.unpublished == set()


def test_services_with_the_same_candidate_hand_it_over_as_they_come_and_go():
    # Found by search: of 30,000 names numbered like this, about 30 pairs share a candidate.
    first, second = ServiceKey("shop", "service-1702"), ServiceKey("shop", "service-7250")
    view = View(make_service(second))
    zone = zone_of(make_service(second))
    candidate = address(zone, second)
    view.table[first] = make_service(first)
    assert zone.update(view, [first]) == 2
    assert (address(zone, first), address(zone, second)) == (candidate, candidate + 1)
    del view.table[first]
    assert zone.update(view, [first]) == 2
    assert address(zone, second) == candidate


def address(zone, key):
    (rrset,) = ask(zone, f"{key.service}.{key.namespace}.svc.clusterset.local").answer
    return ipaddress.IPv4Address(rrset[0].address)


def test_a_reader_in_another_thread_sees_a_service_s_old_or_new_records_never_none():
    view = View(make_service())
    zone = CompiledZone()
    zone.replace(view)
    failures = []
    stop = threading.Event()
    wire = dns.message.make_query(HOST, "A").to_wire()

    def read():
        while not stop.is_set():
            reply = answer(wire, zone, transport="udp")
            if reply[3] & 0x0F or reply[-4:] != ipaddress.IPv4Address("241.7.163.174").packed:
                failures.append(reply)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(3_000):
            neighbour = ServiceKey("shop", f"service-{number % 7}")
            view.table[neighbour] = make_service(neighbour)
            view.table[ORDERS] = make_service(
                ports=[("http", 1 + number)], addresses=["fd00::1"][: number % 2]
            )
            zone.update(view, [ORDERS, neighbour])
            del view.table[neighbour]
            zone.update(view, [neighbour])
    finally:
        stop.set()
        reader.join()
    assert failures == []

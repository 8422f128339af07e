"""Headless services across clusters: from exports and endpoints to what a client is answered."""

import dns.message
import dns.rcode
import pytest

from discovery.core.dns_answer import answer
from discovery.core.dns_headless import HOSTS_MAX, Host, compile_headless
from discovery.core.dns_names import service_name
from discovery.core.dns_records import TYPE_A, TYPE_SRV, question_key
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import Endpoint, EndpointPort, Resource, ServiceKey
from discovery.core.views import ViewIndex
from tests.unit.discovery.builders import (
    endpoint,
    put_cluster,
    put_export,
    put_grant,
    resource,
)
from tests.unit.discovery.test_views import tables_of

DB = {"namespace": "shop", "service": "db"}
HOST = "db.shop.svc.clusterset.local"
PEER = EndpointPort(name="peer", service_port=5433, listen_port=15007, protocol="tcp")
SQL = EndpointPort(name="sql", service_port=5432, listen_port=15006, protocol="tcp")
EXPORTS = [
    resource(put(owner, "shop", "db", **more))
    for owner in ("alpha", "beta")
    for put, more in ((put_export, {"type": "Headless"}), (put_grant, {}))
]


def row(cluster: str, name: str, address: str, *ports: EndpointPort, ready: bool = True) -> Endpoint:
    return endpoint(cluster, name, address=address, ports=ports or (SQL,), ready=ready, **DB)


def zone_of(*rows: Resource | Endpoint, viewer: str = "alpha") -> CompiledZone:
    view, zone = ViewIndex(viewer), CompiledZone()
    view.reset(tables_of(*EXPORTS, *rows))
    zone.replace(view)
    return zone


def ask(zone: CompiledZone, name: str, kind: str = "A") -> tuple[str, list[str]]:
    reply = answer(dns.message.make_query(name, kind).to_wire(), zone, transport="tcp")
    assert reply is not None
    message = dns.message.from_wire(reply)
    return dns.rcode.to_text(message.rcode()), sorted(
        rr.to_text() for found in message.answer for rr in found
    )


ROWS = [
    row("alpha", "db-0", "10.1.0.1", SQL, PEER),
    row("alpha", "db-1", "10.1.0.2", ready=False),
    row("beta", "db-0", "10.2.0.1"),
    row("beta", "db-6", "fd00::6"),
]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (HOST, "A", ["10.1.0.1", "10.2.0.1"]),
        (HOST, "AAAA", ["fd00::6"]),
        (f"db-0.alpha.{HOST}", "A", ["10.1.0.1"]),
        (f"db-0.beta.{HOST}", "A", ["10.2.0.1"]),
        (f"db-6.beta.{HOST}", "AAAA", ["fd00::6"]),
        (f"db-6.beta.{HOST}", "A", []),
        (f"beta.{HOST}", "A", []),
        (f"_peer._tcp.{HOST}", "SRV", [f"0 1 5433 db-0.alpha.{HOST}."]),
        (f"_sql._tcp.{HOST}", "SRV", [f"0 1 5432 db-{host}.{HOST}." for host in ("0.alpha", "0.beta", "6.beta")]),
        (HOST, "SRV", [*(f"0 1 5432 db-{host}.{HOST}." for host in ("0.alpha", "0.beta", "6.beta")), f"0 1 5433 db-0.alpha.{HOST}."]),
    ],
)  # fmt: skip
def test_every_ready_endpoint_has_a_name_of_its_cluster(name, kind, expected):
    assert ask(zone_of(*ROWS), name, kind) == ("NOERROR", expected)


@pytest.mark.parametrize(
    "name", [f"db-1.alpha.{HOST}", f"db-0.gamma.{HOST}", f"db-0.{HOST}", f"_other._tcp.{HOST}"]
)
def test_what_is_not_ready_or_not_there_has_no_name(name):
    assert ask(zone_of(*ROWS), name)[0] == "NXDOMAIN"


@pytest.mark.parametrize("name", [HOST, f"alpha.{HOST}", f"db-1.alpha.{HOST}", f"_sql._tcp.{HOST}"])
def test_without_a_ready_endpoint_nothing_exists(name):
    assert ask(zone_of(ROWS[1]), name)[0] == "NXDOMAIN"


def test_what_is_not_exported_to_us_is_not_among_the_names():
    zone = zone_of(*ROWS, resource(put_export("beta", "shop", "db", consumers=["gamma"])))
    assert ask(zone, HOST) == ("NOERROR", ["10.1.0.1"])
    assert ask(zone, f"db-0.beta.{HOST}")[0] == "NXDOMAIN"


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (("", ""), ["10.1.0.1", "10.2.0.1"]),
        (("lan", ""), ["10.1.0.1", "10.2.0.1"]),
        (("lan", "lan"), ["10.1.0.1", "10.2.0.1"]),
        (("lan", "far"), ["10.1.0.1"]),
    ],
)
def test_an_address_of_another_network_is_nobodys_here(networks, expected):
    rows = [
        resource(put_cluster(name, network=network))
        for name, network in zip(("alpha", "beta"), networks, strict=True)
    ]
    assert ask(zone_of(*ROWS, *rows), HOST)[1] == expected


def test_an_older_export_keeps_its_clusterset_address():
    zone = zone_of(*ROWS, resource(put_export("beta", "shop", "db"), created=0))
    code, found = ask(zone, HOST)
    assert (code, [text[:4] for text in found]) == ("NOERROR", ["241."])
    assert ask(zone, f"db-0.alpha.{HOST}")[0] == "NXDOMAIN"


def test_a_change_of_readiness_changes_the_records_of_its_service_alone():
    view, zone = ViewIndex("alpha"), CompiledZone()
    other = endpoint("alpha", service="web")
    view.reset(tables_of(*EXPORTS, *ROWS, other))
    zone.replace(view)
    before = dict(zone.names)
    view.reset(tables_of(*EXPORTS, *ROWS[:2], row("beta", "db-0", "10.2.0.1", ready=False), ROWS[3], other))
    assert zone.update(view, list(view.services())) == 1
    assert ask(zone, HOST)[1] == ["10.1.0.1"]
    changed = {name for name in before if before[name] is not zone.names.get(name)}
    assert all(b"\x02db\x04shop" in name for name in changed - {b"\x0aclusterset\x05local\0"})


def test_thousands_of_endpoints_are_a_bounded_answer_with_the_nearest_in_it():
    many = [row("beta", f"far-{n}", f"10.2.{n // 250}.{n % 250 + 1}") for n in range(3 * HOSTS_MAX)]
    zone = zone_of(*many, ROWS[0])
    code, found = ask(zone, HOST)
    assert (code, len(found)) == ("NOERROR", HOSTS_MAX)
    assert "10.1.0.1" in found


def test_a_name_that_is_too_long_is_left_out_and_its_address_stays():
    long = Host(cluster="c" * 63, name="h" * 63, address=bytes((10, 1, 0, 7)), ports=(("sql", 5432),))
    fine = Host(cluster="c", name="h", address=bytes((10, 1, 0, 8)), ports=(("sql", 5432),))
    key = ServiceKey("n" * 63, "s" * 63)
    found = compile_headless(key, (long, fine))
    own = found[service_name(key)]
    assert len(own[question_key(TYPE_A)].records) == 2
    assert len(own[question_key(TYPE_SRV)].records) == 1
    assert max(map(len, found)) <= 255

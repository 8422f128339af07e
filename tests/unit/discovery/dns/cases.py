"""A view made by hand, and what it must look like in DNS, computed the slow and obvious way."""

import hashlib
import ipaddress
from collections.abc import Container, Iterable, Sequence

import dns.name
import dns.rcode
import dns.rdatatype

from discovery.core.model import Endpoint, EndpointKey, EndpointPort, ServiceKey
from discovery.core.view import Owner, Service

ZONE = dns.name.from_text("clusterset.local")
ORDERS = ServiceKey("shop", "orders")
HOST = "orders.shop.svc.clusterset.local"


def make_service(
    key: ServiceKey = ORDERS,
    ports: Iterable[tuple[str, int]] = (("http", 8080),),
    addresses: Iterable[str] = ("10.1.0.1",),
    *,
    headless: bool = False,
    unready: Container[str] = (),
) -> Service:
    """A service of one cluster, one endpoint per address, which serves every port."""
    made = tuple(EndpointPort(name=name, service_port=number, listen_port=0) for name, number in ports)
    endpoints = tuple(
        Endpoint(
            key=EndpointKey(key.namespace, key.service, "alpha", f"host-{number}"),
            address=address,
            ports=made,
            identity="spiffe://alpha.test/ns/shop/sa/orders",
            ready=address not in unready,
        )
        for number, address in enumerate(addresses)
    )
    owner = Owner(
        cluster="alpha",
        trust_domain="alpha.test",
        region="",
        zone="",
        local=True,
        direct=True,
        identities=(),
        endpoints=endpoints,
    )
    return Service(key=key, ports=made, owners=(owner,), type="Headless" if headless else "ClusterSetIP")


class View:
    """A `ServiceSource` that tests write into."""

    def __init__(self, *services: Service) -> None:
        self.table = {service.key: service for service in services}

    def service(self, key: ServiceKey) -> Service | None:
        return self.table.get(key)

    def services(self) -> Iterable[ServiceKey]:
        return self.table.keys()


def slow_vips(names: Iterable[ServiceKey], slots: int) -> dict[ServiceKey, int]:
    """Names choose one after another in sorted order: the rule itself."""
    chosen: dict[ServiceKey, int] = {}
    taken: set[int] = set()
    for name in sorted(names):
        slot = int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8], "big") % slots
        while slot in taken:
            slot = (slot + 1) % slots
        taken.add(slot)
        chosen[name] = slot
    return chosen


def slow_zone(view: View) -> dict[dns.name.Name, dict[str, set[str]]]:
    """Every existing name but the apex with its records as text by type; empty non-terminals have none."""
    zone: dict[dns.name.Name, dict[str, set[str]]] = {
        dns.name.from_text("dns-version", ZONE): {"TXT": {'"1.0.0"'}},
        dns.name.from_text("ns.dns", ZONE): {},
        dns.name.from_text("svc", ZONE): {},
    }
    slots = slow_vips(view.table, 2**24 - 512)
    for key, service in view.table.items():
        host = dns.name.from_text(f"{key.service}.{key.namespace}.svc", ZONE)
        if service.type == "Headless":
            zone.setdefault(host.parent(), {})
            slow_headless(zone, host, service)
            continue
        records = zone.setdefault(host, {})
        ipv4 = ipaddress.IPv4Address("241.0.1.0") + slots[key]
        records["A"] = {str(ipv4)}
        if any(":" in endpoint.address for owner in service.owners for endpoint in owner.endpoints):
            low, high = int(ipv4) & 0xFFFF, int(ipv4) >> 16
            records["AAAA"] = {str(ipaddress.IPv6Address(f"2001:2:0:6973::{high:x}:{low:x}"))}
        for port in service.ports:
            srv = f"0 1 {port.service_port} {host}"
            records.setdefault("SRV", set()).add(srv)
            owner = dns.name.from_text(f"_{port.name}._tcp", host)
            zone.setdefault(owner, {}).setdefault("SRV", set()).add(srv)
    for name in list(zone):
        while (name := name.parent()) != ZONE:
            zone.setdefault(name, {})
    return zone


def slow_headless(
    zone: dict[dns.name.Name, dict[str, set[str]]], host: dns.name.Name, service: Service
) -> None:
    """A headless service of one cluster: a name for each ready endpoint."""
    for endpoint in service.owners[0].endpoints:
        if not endpoint.ready:
            continue
        kind = "AAAA" if ":" in endpoint.address else "A"
        zone.setdefault(host, {}).setdefault(kind, set()).add(endpoint.address)
        try:
            name = dns.name.from_text(f"{endpoint.key.name}.{endpoint.key.cluster}", host)
        except dns.name.NameTooLong:
            continue
        zone.setdefault(name, {}).setdefault(kind, set()).add(endpoint.address)
        for port in service.ports:
            srv = f"0 1 {port.service_port} {name}"
            zone[host].setdefault("SRV", set()).add(srv)
            owner = dns.name.from_text(f"_{port.name}._tcp", host)
            zone.setdefault(owner, {}).setdefault("SRV", set()).add(srv)


def question(name: str, kind: str = "A") -> tuple[dns.name.Name, int]:
    """A name in absolute form and a type."""
    return dns.name.from_text(name), dns.rdatatype.from_text(kind)


def many_ports(count: int) -> Sequence[tuple[str, int]]:
    """Ports of distinct names and numbers."""
    return [(f"port-{number}", 10_000 + number) for number in range(count)]

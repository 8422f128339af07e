"""Records of headless services (KEP-1645, section 2.4 of its DNS specification).

    SVC.NS.svc.clusterset.local                 A, AAAA of every ready endpoint; SRV of each and its ports
    HOST.CLUSTER.SVC.NS.svc.clusterset.local    A, AAAA of that endpoint; HOST is the endpoint's name
    _PORT._tcp.SVC.NS.svc.clusterset.local      SRV of every ready endpoint that serves the port

Without a ready endpoint none of these names exists. Endpoints of a network that is known to be another one are
left out: an address of it may be somebody else's here.
"""

from collections.abc import Iterator
from ipaddress import ip_address
from types import MappingProxyType
from typing import NamedTuple

from discovery.core.dns_names import host_name, port_name, service_name, transport_name
from discovery.core.dns_records import (
    IPV4_BYTES,
    TYPE_A,
    TYPE_AAAA,
    TYPE_SRV,
    CompiledAnswer,
    address_record,
    compile_answer,
    question_key,
    srv_record,
)
from discovery.core.model import ServiceKey
from discovery.core.view import Service
from federation.kernel.errors import InvalidInputError

# Of one service, the nearest first. KEP-1645 allows a subset; this one fits a TCP answer several times.
HOSTS_MAX = 200
# Of one question: hosts times ports may be more than anybody reads.
SRV_RECORDS_MAX = 500

_A, _AAAA, _SRV = question_key(TYPE_A), question_key(TYPE_AAAA), question_key(TYPE_SRV)
_NOTHING: MappingProxyType[bytes, CompiledAnswer] = MappingProxyType({})


class Host(NamedTuple):
    """One ready endpoint of a headless service."""

    cluster: str
    name: str
    address: bytes  # Packed.
    ports: tuple[tuple[str, int], ...]  # Name and number, of those of the service's ports that it serves.


def headless_hosts(service: Service) -> tuple[Host, ...]:
    """Return the endpoints that DNS tells of a headless service, the nearest owner's first."""
    hosts: list[Host] = []
    for owner in service.owners:
        if owner.apart:
            continue
        ports = [port for port in service.ports if owner.serves(port)]
        for endpoint in owner.endpoints:
            address = _packed(endpoint.address) if endpoint.ready else b""
            if not address:
                continue
            if len(hosts) >= HOSTS_MAX:
                return tuple(hosts)
            mine = {(port.service_port, port.protocol) for port in endpoint.ports}
            hosts.append(
                Host(
                    cluster=owner.cluster,
                    name=endpoint.key.name,
                    address=address,
                    ports=tuple(
                        (port.name, port.service_port)
                        for port in ports
                        if (port.service_port, port.protocol) in mine
                    ),
                )
            )
    return tuple(hosts)


def compile_headless(
    key: ServiceKey, hosts: tuple[Host, ...]
) -> dict[bytes, MappingProxyType[bytes, CompiledAnswer]]:
    """Return the names of a headless service and their answers; none without hosts."""
    if not hosts:
        return {}
    target = service_name(key)
    records: dict[bytes, dict[bytes, list[bytes]]] = {target: {}}
    for host in hosts:
        question = _A if len(host.address) == IPV4_BYTES else _AAAA
        told = records[target].setdefault(question, [])
        if (record := address_record(host.address)) not in told:  # Of one machine there may be several.
            told.append(record)
        place = _place(host, target)
        if place is None:
            continue  # A name that DNS cannot express; its address is told by the service's name.
        records.setdefault(place.parent, {})
        records.setdefault(place.name, {}).setdefault(question, []).append(record)
        for owner, srv in _services(host, place.name, target):
            if owner != target:
                records.setdefault(transport_name(target), {})
            found = records.setdefault(owner, {}).setdefault(_SRV, [])
            if len(found) < SRV_RECORDS_MAX:
                found.append(srv)
    return {
        name: MappingProxyType({question: compile_answer(found) for question, found in answers.items()})
        if answers
        else _NOTHING
        for name, answers in records.items()
    }


def _packed(address: str) -> bytes:
    try:
        return ip_address(address).packed
    except ValueError:
        return b""  # From a damaged source only; one bad row stops no other.


class _Place(NamedTuple):
    parent: bytes  # CLUSTER.SERVICE...: exists, and has no records of its own.
    name: bytes


def _place(host: Host, target: bytes) -> _Place | None:
    try:
        return _Place(*host_name(host.name, host.cluster, target))
    except InvalidInputError:
        return None


def _services(host: Host, name: bytes, target: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the SRV records of a host, each with its owner: the service itself, and the port's name."""
    for port, number in host.ports:
        record = srv_record(number, name)
        yield target, record
        try:
            owner = port_name(port, target)
        except InvalidInputError:
            owner = None
        if owner is not None:
            yield owner, record

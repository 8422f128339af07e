"""The zone `clusterset.local` of one cluster's view, compiled.

For every name that exists there is one immutable map from question (type, class) to `CompiledAnswer`; a
name that exists only because something lies below it has an empty map (RFC 8020: NODATA, not NXDOMAIN).
A query takes one look at `names` and then works with one map, so a reader in another thread sees each
name's old or new records, never a mixture. There is one writer.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from discovery.core.dns_headless import Host, compile_headless, headless_hosts
from discovery.core.dns_names import (
    ORIGIN_WIRE,
    SERVICES_WIRE,
    VERSION_WIRE,
    namespace_name,
    port_name,
    service_name,
    transport_name,
)
from discovery.core.dns_records import (
    HEADER_BYTES,
    IPV4_BYTES,
    PRIMARY_WIRE,
    TYPE_A,
    TYPE_AAAA,
    TYPE_NS,
    TYPE_SOA,
    TYPE_SRV,
    TYPE_TXT,
    VERSION_TTL_S,
    CompiledAnswer,
    address_record,
    compile_answer,
    ns_record,
    pointer,
    question_key,
    soa_record,
    srv_record,
    txt_record,
)
from discovery.core.model import ServiceKey
from discovery.core.view import Service
from discovery.core.vips import Vip, VipTable
from federation.kernel.errors import InvalidInputError

# KEP-1645: the version of its DNS specification that the zone follows.
SPECIFICATION_VERSION = "1.0.0"

PORT_MAX = 65_535

# RFC 1982: serials count in a ring.
_SERIALS = 2**32

_A, _AAAA, _SRV = question_key(TYPE_A), question_key(TYPE_AAAA), question_key(TYPE_SRV)
_NS, _SOA, _TXT = question_key(TYPE_NS), question_key(TYPE_SOA), question_key(TYPE_TXT)

Answers = Mapping[bytes, CompiledAnswer]
_NO_RECORDS: Answers = MappingProxyType({})


class ServiceSource(Protocol):
    """The part of a view that DNS answers come from."""

    def service(self, key: ServiceKey) -> Service | None:
        """Return the service as the view's cluster sees it, or None where it sees none."""

    def services(self) -> Iterable[ServiceKey]:
        """Name every service in the view."""


class _Facts(NamedTuple):
    """All that a service's records are made from: equal facts, equal records."""

    vip: Vip
    has_ipv6: bool
    ports: tuple[tuple[str, int], ...]
    hosts: tuple[Host, ...] | None = None  # Of a headless service, which has no address of its own.


class CompiledZone:
    """The answers to every question about the zone; `names` and `soa` are for the one who answers.

    `addresses` are those by which the answering process itself can be asked: the records of the zone's
    NS target; `InvalidInputError` if one is no IP address. `serial` is where the SOA serial starts.
    """

    def __init__(self, *, addresses: Sequence[str] = (), serial: int = 1) -> None:
        self.names: dict[bytes, Answers] = {}
        self.soa = b""  # The SOA record but for its owner, for negative answers.
        self.serial = serial % _SERIALS
        self.vips = VipTable()
        # Services whose names DNS cannot express; the catalog lets none in, a damaged source might.
        self.unpublished: set[ServiceKey] = set()
        self._facts: dict[ServiceKey, _Facts] = {}
        self._names_of: dict[ServiceKey, frozenset[bytes]] = {}
        self._services_in: dict[str, int] = {}
        self._publish_fixed(addresses)
        self._publish_serial()

    @property
    def services(self) -> frozenset[ServiceKey]:
        """The services that have records."""
        return frozenset(self._facts)

    def update(self, source: ServiceSource, changed: Iterable[ServiceKey]) -> int:
        """Compile the changed services anew; return how many services' records changed.

        The serial grows if any did. Cost: the changed services, and those whose address they displace.
        """
        services = {key: self._expressible(key, source.service(key)) for key in changed}
        moved: set[ServiceKey] = set()
        for key, service in services.items():
            moved |= self.vips.remove(key) if service is None else self.vips.add(key)
        facts = {key: self._facts[key] for key in moved - services.keys()}  # Only their address is new.
        count = sum(
            self._publish(key, None if service is None else _gather(self._vip(key), service))
            for key, service in services.items()
        ) + sum(self._publish(key, old._replace(vip=self._vip(key))) for key, old in facts.items())
        if count:
            self.serial = (self.serial + 1) % _SERIALS
            self._publish_serial()
        return count

    def replace(self, source: ServiceSource) -> int:
        """Make the zone equal to the whole of `source`, after a gap in its changes; otherwise as `update`."""
        return self.update(source, {*source.services(), *self._facts})

    def _expressible(self, key: ServiceKey, service: Service | None) -> Service | None:
        self.unpublished.discard(key)
        if service is None:
            return None
        try:
            service_name(key)
        except InvalidInputError:
            self.unpublished.add(key)
            return None
        return service

    def _vip(self, key: ServiceKey) -> Vip:
        vip = self.vips.get(key)
        assert vip is not None, f"{key} has records and no address"
        return vip

    def _publish(self, key: ServiceKey, facts: _Facts | None) -> bool:
        """Put the records of one service into `names`; return whether they differ from before."""
        if self._facts.get(key) == facts:
            return False
        if facts is not None and key not in self._facts:
            self._enter_namespace(key.namespace)  # Before what lies below it.
        compiled = {} if facts is None else _compile(key, facts)
        self.names.update(compiled)
        for gone in self._names_of.pop(key, frozenset()) - compiled.keys():
            del self.names[gone]
        if facts is None:
            del self._facts[key]
            self._leave_namespace(key.namespace)
        else:
            self._facts[key] = facts
            self._names_of[key] = frozenset(compiled)
        return True

    def _enter_namespace(self, namespace: str) -> None:
        count = self._services_in.get(namespace, 0)
        if count == 0:
            self.names[namespace_name(namespace)] = _NO_RECORDS
        self._services_in[namespace] = count + 1

    def _leave_namespace(self, namespace: str) -> None:
        self._services_in[namespace] -= 1
        if self._services_in[namespace] == 0:
            del self._services_in[namespace]
            del self.names[namespace_name(namespace)]

    def _publish_fixed(self, addresses: Sequence[str]) -> None:
        packed = [_packed(text) for text in addresses]
        own: dict[bytes, CompiledAnswer] = {}
        for question, is_ipv4 in ((_A, True), (_AAAA, False)):
            records = [address_record(each) for each in packed if (len(each) == IPV4_BYTES) == is_ipv4]
            if records:
                own[question] = compile_answer(records)
        self.names[PRIMARY_WIRE] = MappingProxyType(own)
        self.names[PRIMARY_WIRE[3:]] = _NO_RECORDS  # dns.clusterset.local, above ns.dns.
        self.names[SERVICES_WIRE] = _NO_RECORDS
        version_text = compile_answer([txt_record(SPECIFICATION_VERSION, VERSION_TTL_S)])
        self.names[VERSION_WIRE] = MappingProxyType({_TXT: version_text})

    def _publish_serial(self) -> None:
        self.soa = soa_record(self.serial, owner=b"")
        apex = {_SOA: compile_answer([soa_record(self.serial)]), _NS: compile_answer([ns_record()])}
        self.names[ORIGIN_WIRE] = MappingProxyType(apex)


def _packed(address: str) -> bytes:
    try:
        return ipaddress.ip_address(address).packed
    except ValueError as error:
        raise InvalidInputError(f"dns address: {address!r} is not an IP address") from error


def service_answers(service: Service, vip: Vip) -> Mapping[bytes, Answers]:
    """The names of one service with that address, in wire form, and their answers."""
    return _compile(service.key, _gather(vip, service))


def _gather(vip: Vip, service: Service) -> _Facts:
    if service.type == "Headless":
        return _Facts(vip, has_ipv6=False, ports=(), hosts=headless_hosts(service))
    has_ipv6 = any(":" in endpoint.address for owner in service.owners for endpoint in owner.endpoints)
    # A number that SRV cannot carry comes from a damaged source only; one bad row stops no other.
    ports = sorted(
        (port.name, port.service_port) for port in service.ports if 0 < port.service_port <= PORT_MAX
    )
    return _Facts(vip, has_ipv6, tuple(ports))


def _compile(key: ServiceKey, facts: _Facts) -> dict[bytes, Answers]:
    """The names of one service and their answers."""
    if facts.hosts is not None:
        return {**compile_headless(key, facts.hosts)}
    target = service_name(key)
    addresses = {_A: facts.vip.ipv4} | ({_AAAA: facts.vip.ipv6} if facts.has_ipv6 else {})
    answers = {question: compile_answer([address_record(packed)]) for question, packed in addresses.items()}
    if facts.ports:
        # The conformance suite of KEP-1645 asks for SRV here too, one record per port.
        numbers = sorted({number for _, number in facts.ports})
        extra = [address_record(packed) for packed in addresses.values()]
        answers[_SRV] = compile_answer([srv_record(number, target) for number in numbers], extra)
    names: dict[bytes, Answers] = {target: MappingProxyType(answers)}
    by_owner: dict[bytes, list[int]] = {}
    for port, number in facts.ports:
        owner = _port_owner(port, target)
        if owner is not None:
            by_owner.setdefault(owner, []).append(number)
    for owner, numbers in by_owner.items():
        at_target = pointer(HEADER_BYTES + len(owner) - len(target))
        extra = [address_record(packed, at_target) for packed in addresses.values()]
        srv = compile_answer([srv_record(number, target) for number in numbers], extra)
        names[owner] = MappingProxyType({_SRV: srv})
        names[transport_name(target)] = _NO_RECORDS
    return names


def _port_owner(port: str, service: bytes) -> bytes | None:
    try:
        return port_name(port, service)
    except InvalidInputError:
        return None  # The port keeps its number at the service's own name.

"""What a cluster may not publish although it is well-formed: addresses and names that deceive who believes them.

An endpoint's address is dialled by the proxies of other clusters, and answered by their DNS. One that means
"yourself", "your network's own services" or "your controller" would let one cluster aim another's callers.
Names are compared by people: what looks like another name is refused. The rules hold where a row enters, so
that its sender hears of it, and in the state machine for commands of schema `STRICT_SCHEMA` on.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, SYSTEM_NAMESPACE, Endpoint, EndpointKey, ResourceKey
from discovery.core.rules import networks
from discovery.core.specs import (
    AgentSpec,
    AnySpec,
    ClusterSpec,
    ControllerSpec,
    ExportPolicySpec,
    GrantSource,
    GrantSpec,
    JoinTokenSpec,
    WorkloadGroupSpec,
)
from discovery.core.tables import Tables
from federation.kernel.configfile import host_port
from federation.kernel.errors import InvalidInputError, IsthmusError, LimitExceededError, NotAllowedError
from federation.kernel.limits import NAME_BYTES_MAX
from federation.kernel.names import check_label, check_name

# Judged one by one, as those of IPv6. A view asks for each of its rows: what is judged anew each time costs 30 times a look.
ADDRESSES_REMEMBERED = 32_768
LABELS_MAX = 64
LABEL_NAME_CHARS_MAX = 253
LABEL_VALUE_CHARS_MAX = 63

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED_BITS = 96  # Before the IPv4 address in an IPv4-mapped one.
Places = Collection[tuple[str, int]]  # Address and port, each a controller's.

# Who asks there is given credentials, or commands the virtual machine: no range of a cluster allows these.
METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, OpenStack, DigitalOcean and more.
        "fd00:ec2::254",  # AWS over IPv6.
        "fd20:ce::254",  # Google over IPv6.
        "169.254.170.2",  # Credentials of AWS ECS tasks.
        "169.254.170.23",  # Credentials of AWS EKS pods.
        "fd00:ec2::23",  # The same over IPv6.
        "168.63.129.16",  # The host of an Azure virtual machine.
        "100.100.100.200",  # Alibaba Cloud.
        "192.0.0.192",  # Oracle Cloud.
        "fd00:c1::a9fe:a9fe",  # Oracle Cloud over IPv6.
        "169.254.42.42",  # Scaleway.
        "fd00:42::42",  # Scaleway over IPv6.
        "fe80::a9fe:a9fe",  # OpenStack over IPv6.
        "fd00:a9fe:a9fe::1",  # Linode over IPv6.
        "169.254.0.23",  # Tencent Cloud.
        "fd00:100::100:200",  # Alibaba Cloud over IPv6.
    )
)
# These mean another host for each who dials: allowed by a range that lies within one of them, as a
# laboratory on loopback has it, and not by one so wide that nobody thought of them.
_RELATIVE: tuple[_Network, ...] = tuple(
    ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10")
)
# The last four bytes of these are an IPv4 address.
_LAST_FOUR_BYTES = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052.
    ipaddress.IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 2765 section 2.1.
    ipaddress.IPv6Network("::ffff:0:0/96"),  # IPv4-mapped, RFC 4291 section 2.5.5.2.
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 section 2.5.5.1, deprecated.
)
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # Bytes 9 to 12, after any prefix; RFC 5214 section 6.1.
# For translators of a network's own; where the IPv4 address stands is for it to say. RFC 8215.
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
# Bits of the two pieces, by prefixes of 48, 56, 64 and 96 bits; byte 9 is none of them. RFC 6052 section 2.2.
_LOCAL_NAT64_PIECES = (((48, 16), (72, 16)), ((56, 8), (72, 24)), ((64, 0), (72, 32)), ((96, 0), (96, 32)))
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
# Where the rules for IPv4 addresses change, a cluster's ranges aside: within none of these do they tell two
# addresses apart, nor between them.
BOUNDARIES: tuple[ipaddress.IPv4Network, ...] = (
    *(network for network in _RELATIVE if isinstance(network, ipaddress.IPv4Network)),
    ipaddress.IPv4Network("224.0.0.0/4"),
    *(
        ipaddress.IPv4Network(address)
        for address in (ipaddress.IPv4Address(0), _BROADCAST, *METADATA_ADDRESSES)
        if isinstance(address, ipaddress.IPv4Address)
    ),
)


def controllers_of(tables: Tables) -> Iterator[ControllerSpec]:
    """Yield the controllers of a catalog; one that only a newer build can read is left out."""
    for row in tables.list_resources(FEDERATION_SCOPE, "Controller"):
        try:
            spec = decode_spec("Controller", row.spec, where=str(row.key))
        except IsthmusError:
            continue
        assert isinstance(spec, ControllerSpec)
        yield spec


class ControllerPlaces(NamedTuple):
    """Where controllers listen. A mirror is in other hands: by its word only its own cluster loses an address."""

    everybodys: frozenset[tuple[str, int]]
    mirrors: Mapping[
        str, frozenset[tuple[str, int]]
    ]  # Of the clusters that have some, with those of everybody.

    def of(self, cluster: str) -> frozenset[tuple[str, int]]:
        """Return where no endpoint, and no address outside, of the cluster may be."""
        return self.mirrors.get(cluster, self.everybodys)


def controller_places(tables: Tables) -> ControllerPlaces:
    """Where the controllers of a catalog listen, as far as they are known by address; each in its one spelling."""
    everybodys: set[tuple[str, int]] = set()
    mirrors: dict[str, set[tuple[str, int]]] = {}
    for spec in controllers_of(tables):
        places = mirrors.setdefault(spec.cluster, set()) if spec.role == "mirror" else everybodys
        places.update(_places_of(spec))
    return ControllerPlaces(
        frozenset(everybodys), {cluster: frozenset(own | everybodys) for cluster, own in mirrors.items()}
    )


def _places_of(controller: ControllerSpec) -> Iterator[tuple[str, int]]:
    for text in (controller.raft, controller.control, controller.api):
        try:
            host, port = host_port(text, "controller")
        except ValueError:
            continue  # It serves no such port.
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue  # A name.
        for meant in (address, *_embedded(address)):
            yield str(meant), port


def is_a_place(address: str, port: int, places: Places) -> bool:
    """True when who dials the address at that port may reach a controller. `address` is in its one spelling."""
    if (address, port) in places:
        return True
    return ":" in address and any((meant, port) in places for meant in stands_for(address))


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def stands_for(address: str) -> tuple[str, ...]:
    """The IPv4 addresses that translators would make of an IPv6 address."""
    return tuple(map(str, _embedded(ipaddress.ip_address(address))))


def check_not_poisoned(endpoint: Endpoint, ranges: tuple[str, ...], places: Places) -> None:
    """Raise `NotAllowedError` for an address that would deceive its callers, `InvalidInputError` for a name.

    `endpoint` has passed `rules.check_endpoint` with the same ranges of its cluster.
    """
    key = endpoint.key
    where = f"endpoint {key.namespace}/{key.service}/{key.name}"
    check_key_is_plain(key)
    check_place(endpoint, ranges, places, where)
    check_labels(endpoint.labels, where)


def check_place(endpoint: Endpoint, ranges: tuple[str, ...], places: Places, where: str) -> None:
    """Raise `NotAllowedError` for an address, or a port of it, that would deceive the endpoint's callers."""
    if (reason := address_refusal(endpoint.address, ranges)) is not None:
        raise NotAllowedError(f"{where}: address {endpoint.address} {reason}")
    for port in endpoint.ports:
        if is_a_place(endpoint.address, port.listen_port, places):
            raise NotAllowedError(
                f"{where}: address {endpoint.address}:{port.listen_port} is a controller's own"
            )


def check_key_is_plain(key: EndpointKey) -> None:
    """Raise `InvalidInputError` when a name of the key may look like another one."""
    _check_plain(key.namespace, "endpoint: namespace")
    _check_plain(key.service, "endpoint: service")
    check_plain(key.name, "endpoint: name")


def check_plain(name: str, where: str) -> str:
    """Return a name that has passed `check_label` or `check_name`, unless it shows as something else.

    Programs show a label that begins with `xn--` as the Unicode text that it encodes (RFC 5890), in which
    letters of other alphabets look like ours. All other labels with hyphens in that place are reserved.
    """
    for label in name.split("."):
        if label[2:4] == "--":
            raise InvalidInputError(
                f"{where}: {name[:80]!r} may show as other letters than it has: expected no label with"
                " hyphens in third and fourth place"
            )
    return name


_check_plain = lru_cache(maxsize=4_096)(check_plain)


def check_resource_is_plain(key: ResourceKey, spec: AnySpec | None) -> None:
    """Raise for a resource whose names may look like others, or that claims what is the system's own."""
    check_plain(key.name, f"{key.kind}: name")
    if key.namespace:
        check_plain(key.namespace, f"{key.kind}: namespace")
        if key.namespace == SYSTEM_NAMESPACE:
            raise NotAllowedError(
                f"{key}: namespace {SYSTEM_NAMESPACE} is reserved: nothing in it is exported, granted or templated"
            )
    match spec:
        case ExportPolicySpec() | GrantSpec():
            for position, name in enumerate(spec.services):
                check_plain(name, f"{key}: spec.services[{position}]")
            for position, source in enumerate(spec.sources if isinstance(spec, GrantSpec) else ()):
                _check_source(source, f"{key}: spec.sources[{position}]")
        case WorkloadGroupSpec():
            check_plain(spec.service, f"{key}: spec.service")
        case ClusterSpec():
            _check_ranges_are_plain(key, spec.ranges)
        case AgentSpec() | JoinTokenSpec() if spec.namespace == SYSTEM_NAMESPACE:
            raise NotAllowedError(f"{key}: spec.namespace {SYSTEM_NAMESPACE} is reserved for gateways")
        case ControllerSpec() if not key.name.startswith(f"{spec.cluster}-"):
            raise NotAllowedError(f"{key}: name is reserved for another cluster: expected {spec.cluster}-ID")
        case _:
            pass


def _check_ranges_are_plain(key: ResourceKey, ranges: tuple[str, ...]) -> None:
    """Raise for a range that no address is ever in, since an address has one spelling."""
    for position, network in enumerate(networks(ranges)):
        where = f"{key}: spec.ranges[{position}]: {ranges[position][:80]!r}"
        if isinstance(network, ipaddress.IPv4Network):
            continue
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= _MAPPED_BITS:
            raise InvalidInputError(f"{where}, expected {mapped}/{network.prefixlen - _MAPPED_BITS}")
        if network.network_address.scope_id is not None:
            raise InvalidInputError(f"{where} has a zone, expected none")


def _check_source(source: GrantSource, where: str) -> None:
    """Raise `InvalidInputError` for a name that nobody has: the grant would stand there and let nobody in."""
    for position, name in enumerate(source.trust_domains):
        field = f"{where}.trustDomains[{position}]"
        check_plain(check_name(name, field), field)
    for position, name in enumerate(source.namespaces):
        field = f"{where}.namespaces[{position}]"
        check_plain(check_label(name, field), field)
    for position, principal in enumerate(source.principals):
        field = f"{where}.principals[{position}]"
        match principal.split("/"):
            case ["spiffe:", "", domain, "ns", namespace, "sa", account]:
                for name in (domain, namespace, account):
                    check_plain(check_name(name, field), field)
            case _:
                raise InvalidInputError(
                    f"{field} is {principal[:NAME_BYTES_MAX]!r}, expected spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/NAME"
                )


def check_labels(labels: Sequence[tuple[str, str]], where: str) -> None:
    """Raise unless there are few labels, with printable names and values of bounded length."""
    if len(labels) > LABELS_MAX:
        raise LimitExceededError(f"{where} has {len(labels)} labels, at most {LABELS_MAX} are allowed")
    for name, value in labels:
        if len(name) > LABEL_NAME_CHARS_MAX or len(value) > LABEL_VALUE_CHARS_MAX:
            raise LimitExceededError(
                f"{where}: label {name[:40]!r} has {len(name)} characters and a value of {len(value)},"
                f" at most {LABEL_NAME_CHARS_MAX} and {LABEL_VALUE_CHARS_MAX} are allowed"
            )
        if not name or not name.isprintable() or not value.isprintable():
            raise InvalidInputError(
                f"{where}: label {name[:40]!r}: expected a name and a value of printable characters"
            )


@lru_cache(maxsize=4_096)
def address_refusal(text: str, ranges: tuple[str, ...]) -> str | None:
    """Why an address that has passed `rules.check_address` is refused, None if it is not."""
    address = ipaddress.ip_address(text)
    within = networks(ranges)
    for meant in (address, *_embedded(address)):
        if meant in METADATA_ADDRESSES:
            return "is a cloud's metadata service"
        if meant.is_multicast or meant.is_unspecified or meant == _BROADCAST:
            return "is no address of one host"
        for special in _RELATIVE:
            if meant in special and not any(
                meant in network and _inside(network, special) for network in within
            ):
                return f"means another host for each caller: give the cluster a range within {special} if it is meant"
    return None


def _embedded(address: _Address) -> Iterator[_Address]:
    """The IPv4 addresses that translators would make of an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    number = int(address)
    if (any(address in network for network in _LAST_FOUR_BYTES) and number > 1) or (
        _bits(number, 64, 32) in _ISATAP
    ):
        yield ipaddress.IPv4Address(_bits(number, 96, 32))
    if address in _LOCAL_NAT64:
        for (high, high_bits), (low, low_bits) in _LOCAL_NAT64_PIECES:
            meant = _bits(number, high, high_bits) << low_bits | _bits(number, low, low_bits)
            if meant:  # Nothing there: it stands elsewhere.
                yield ipaddress.IPv4Address(meant)


def _bits(number: int, first: int, count: int) -> int:
    """Return some bits of an IPv6 address; bit 0 is the highest."""
    return number >> (128 - first - count) & ((1 << count) - 1)


def _inside(network: _Network, special: _Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(special, ipaddress.IPv4Network) and network.subnet_of(special)
    return isinstance(special, ipaddress.IPv6Network) and network.subnet_of(special)

"""Judging an endpoint's row: the rules are `rules.check_endpoint` and `poison.check_not_poisoned`; here is how to pay less.

Most rows that change are good, and are like others: a name, an address of a block of which all are allowed, ports
and an identity that were seen before. Such a row is accepted at a glance. All others go to the rules, which alone
refuse and say why. So a row is accepted, or refused with the same words, as if there were no glance: it says yes
only where the rules would, whatever it remembers. What it remembers are answers of pure functions, bounded, and
forgotten at will.
"""

import ipaddress
import re
from functools import lru_cache

from discovery.core.model import SYSTEM_NAMESPACE, Endpoint, EndpointPort, pack
from discovery.core.poison import (
    ADDRESSES_REMEMBERED,
    BOUNDARIES,
    Places,
    address_refusal,
    check_labels,
    check_not_poisoned,
    check_place,
    is_a_place,
)
from discovery.core.rules import (
    ENDPOINT_BYTES_MAX,
    ENDPOINT_WEIGHT_MAX,
    VERSION_MAX,
    WORKLOAD_PATH,
    check_address,
    check_endpoint,
    check_identity,
    check_ports,
    networks,
)
from discovery.core.specs import ClusterSpec
from federation.kernel.errors import IsthmusError
from federation.kernel.limits import NAME_BYTES_MAX

BLOCKS_REMEMBERED = 65_536  # Of 256 addresses: all of 10.0.0.0/8.
PARTS_REMEMBERED = 4_096  # Of each other part of a row.

# What `names.check_label` takes, and `poison.check_plain` too; a cluster's name was judged when it joined.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN = rf"(?!..--){_LABEL}"
_is_plain_key = re.compile(f"{_PLAIN}\0{_PLAIN}\0{_LABEL}\0{_PLAIN}").fullmatch
_OCTETS = frozenset(map(str, range(256)))


def vet(
    endpoint: Endpoint, cluster: str, spec: ClusterSpec, places: Places, *, strict: bool = True
) -> tuple[bytes, bytes]:
    """Return the key and the row, packed, or raise what `check_endpoint`, and if `strict` `check_not_poisoned`, raise."""
    key = "\0".join(endpoint.key)
    if _is_plain_key(key) is not None and _parts_are_good(endpoint, cluster, spec, places):
        packed = pack(endpoint)
        if len(packed) <= ENDPOINT_BYTES_MAX:
            return key.encode(), packed
    check_endpoint(endpoint, cluster, spec)
    if strict:
        check_not_poisoned(endpoint, spec.ranges, places)
    return key.encode(), pack(endpoint)


def refusal(endpoint: Endpoint, cluster: str, spec: ClusterSpec | None, places: Places) -> str:
    """Why the catalog would refuse the row, "" if it would not; `spec` is None before the cluster has joined."""
    if spec is None:
        return f"cluster {cluster} has not joined"
    try:
        vet(endpoint, cluster, spec, places)
    except IsthmusError as error:
        return error.message
    return ""


def _parts_are_good(endpoint: Endpoint, cluster: str, spec: ClusterSpec, places: Places) -> bool:
    """True only for a workload's row that all rules accept, the names in its key and its size aside."""
    key, ports = endpoint.key, endpoint.ports
    if (
        key.cluster != cluster
        or key.namespace == SYSTEM_NAMESPACE  # Gateways are few, and have identities of their own.
        or not _is_good_identity(endpoint.identity, spec.trust_domains)
        or not _are_good_ports(ports)
        or not 0 <= endpoint.weight <= ENDPOINT_WEIGHT_MAX
        or not 0 <= endpoint.incarnation <= VERSION_MAX
        or not 0 <= endpoint.sequence <= VERSION_MAX
    ):
        return False
    said = endpoint.region + endpoint.zone + endpoint.agent
    if len(said) > NAME_BYTES_MAX or not said.isprintable():
        return False
    if endpoint.labels and not _are_good_labels(endpoint.labels):
        return False
    address = endpoint.address
    if not is_good_address(address, spec.ranges):
        return False
    for port in ports:  # noqa: SIM110 - a generator would cost as much as all the rest
        if is_a_place(address, port.listen_port, places):
            return False
    return True


def is_good_address(address: str, ranges: tuple[str, ...]) -> bool:
    """True only if an endpoint of a cluster with these ranges may have the address, where controllers listen aside."""
    block, _, last = address.rpartition(".")
    return (last in _OCTETS and _is_good_block(block, ranges)) or _is_good_address(address, ranges)


def place_refusal(endpoint: Endpoint, ranges: tuple[str, ...], places: Places) -> str:
    """Why an endpoint of a cluster with these ranges may not be where it is, "" if it may."""
    try:
        check_address(endpoint.address, ranges, "endpoint")
        check_place(endpoint, ranges, places, "endpoint")
    except IsthmusError as error:
        return error.message.removeprefix("endpoint: ")
    return ""


@lru_cache(maxsize=BLOCKS_REMEMBERED)
def _is_good_block(block: str, ranges: tuple[str, ...]) -> bool:
    """True only if all 256 addresses that begin with these three numbers pass, because no rule tells them apart."""
    try:
        network = ipaddress.IPv4Network(f"{block}.0/24")
    except ValueError:
        return False
    for other in (*networks(ranges), *BOUNDARIES):
        if isinstance(other, ipaddress.IPv4Network) and other != network and other.subnet_of(network):
            return False
    return _is_good_address(f"{block}.0", ranges)


@lru_cache(maxsize=ADDRESSES_REMEMBERED)
def _is_good_address(address: str, ranges: tuple[str, ...]) -> bool:
    try:
        check_address(address, ranges, "")
    except IsthmusError:
        return False
    return address_refusal(address, ranges) is None


@lru_cache(maxsize=PARTS_REMEMBERED)
def _is_good_identity(identity: str, trust_domains: tuple[str, ...]) -> bool:
    try:
        check_identity(identity, trust_domains, WORKLOAD_PATH, "")
    except (IsthmusError, UnicodeEncodeError):
        return False
    return True


@lru_cache(maxsize=PARTS_REMEMBERED)
def _are_good_ports(ports: tuple[EndpointPort, ...]) -> bool:
    try:
        check_ports(ports, "")
    except IsthmusError:
        return False
    return True


def _are_good_labels(labels: tuple[tuple[str, str], ...]) -> bool:
    try:
        check_labels(labels, "")
    except IsthmusError:
        return False
    return True

"""What a row must look like, whoever writes it.

The same rules are applied where a row enters (so that the sender hears of it) and in the state machine
(so that no controller, however it was reached, can put a bad row into every cluster).
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from discovery.core.kinds import KINDS
from discovery.core.model import (
    GATEWAY_SERVICE,
    SYSTEM_NAMESPACE,
    Endpoint,
    EndpointKey,
    EndpointPort,
    ResourceKey,
    pack,
)
from discovery.core.specs import ClusterSpec
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, LimitExceededError, NotAllowedError
from federation.kernel.limits import CLUSTERS_MAX, NAME_BYTES_MAX, RESOURCE_BYTES_MAX
from federation.kernel.names import check_label, check_name

ENDPOINT_BYTES_MAX = 4 * 1024  # Ten of the largest still fit one command.
ENDPOINT_PORTS_MAX = 32
ENDPOINT_WEIGHT_MAX = 65_535
SPIFFE_ID_BYTES_MAX = 2_048  # SPIFFE-ID section 2.3.
VERSION_MAX = 2**63 - 1  # MessagePack's signed integer; incarnations are milliseconds since 1970.
STATUS_DEPTH_MAX = 32  # Kubernetes' conditions need 3.

# How the path of a workload's identity begins: our own parts' identities are no workload's.
WORKLOAD_PATH = ("ns",)

# AWS, Google, Azure and OpenStack hand out credentials here.
METADATA_ADDRESS = ipaddress.ip_address("169.254.169.254")

_NOT_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[^"\[\]{}]+', re.DOTALL)  # Strings, and all between brackets.

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def check_resource_key(key: ResourceKey) -> None:
    """Raise `InvalidInputError` unless the key's kind exists and its parts fit the kind."""
    kind = KINDS.get(key.kind)
    if kind is None:
        raise InvalidInputError(
            f"unknown kind {key.kind[:NAME_BYTES_MAX]!r}, expected one of {', '.join(KINDS)}"
        )
    if kind.scoped:
        check_label(key.scope, f"{key.kind}: scope")
    elif key.scope:
        raise InvalidInputError(f"{key.kind}: scope is {key.scope[:NAME_BYTES_MAX]!r}, expected none")
    if kind.namespaced:
        check_label(key.namespace, f"{key.kind}: namespace")
    elif key.namespace:
        raise InvalidInputError(f"{key.kind}: namespace is {key.namespace[:NAME_BYTES_MAX]!r}, expected none")
    # A cluster's name is part of endpoint keys, identities and host names; others' are a service's.
    (check_label if key.kind in ("Cluster", "ServiceAlias", "ExternalService") else check_name)(
        key.name, f"{key.kind}: name"
    )


def check_status(status: bytes, where: str) -> None:
    """Raise `InvalidInputError` unless `status` is a JSON object of bounded size and depth."""
    if len(status) > RESOURCE_BYTES_MAX:
        raise LimitExceededError(
            f"{where}: status has {len(status)} bytes, at most {RESOURCE_BYTES_MAX} are allowed"
        )
    # Before the decoder sees it: how deep that may go depends on the stack of the process.
    if _depth(status) > STATUS_DEPTH_MAX:
        raise InvalidInputError(f"{where}: status nests deeper than {STATUS_DEPTH_MAX}")
    try:
        msgspec.json.decode(status, type=dict[str, object])
    except MALFORMED as error:
        raise InvalidInputError(f"{where}: status is not a JSON object: {error}") from error


def _depth(text: bytes) -> int:
    """How deep the brackets of a JSON text nest."""
    depth = deepest = 0
    for bracket in _NOT_BRACKETS.sub(b"", text):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def check_endpoint(endpoint: Endpoint, cluster: str, spec: ClusterSpec) -> None:
    """Raise unless `endpoint` may stand in the table of `cluster`, which is described by `spec`.

    `InvalidInputError` for a malformed row, `NotAllowedError` for one that claims another cluster's
    place, address or identity, `LimitExceededError` for one that is too large.
    """
    check_endpoint_key(endpoint.key, cluster)
    where = f"endpoint {endpoint.key.namespace}/{endpoint.key.service}/{endpoint.key.name}"
    check_address(endpoint.address, spec.ranges, where)
    check_ports(endpoint.ports, where)
    check_identity(endpoint.identity, spec.trust_domains, _identity_path(endpoint.key), where)
    if not 0 <= endpoint.weight <= ENDPOINT_WEIGHT_MAX:
        raise InvalidInputError(f"{where}: weight is {endpoint.weight}, expected 0 to {ENDPOINT_WEIGHT_MAX}")
    if not (0 <= endpoint.incarnation <= VERSION_MAX and 0 <= endpoint.sequence <= VERSION_MAX):
        raise InvalidInputError(
            f"{where}: version is {endpoint.version}, expected two numbers from 0 to 2^63 - 1"
        )
    for field, text in (("region", endpoint.region), ("zone", endpoint.zone), ("agent", endpoint.agent)):
        if len(text) > NAME_BYTES_MAX or not text.isprintable():
            raise InvalidInputError(
                f"{where}: {field} is {text[:20]!r}: expected at most {NAME_BYTES_MAX} printable characters"
            )
    if (size := len(pack(endpoint))) > ENDPOINT_BYTES_MAX:
        raise LimitExceededError(f"{where} has {size} bytes, at most {ENDPOINT_BYTES_MAX} are allowed")


def check_endpoint_key(key: EndpointKey, cluster: str) -> None:
    """Raise unless all parts of the key are names and it lies in `cluster`."""
    _check_label(key.namespace, "endpoint: namespace")
    _check_label(key.service, "endpoint: service")
    check_label(key.name, "endpoint: name")
    if key.cluster != cluster:
        raise NotAllowedError(
            f"endpoint {key.namespace}/{key.service}/{key.name}: cluster is {key.cluster[:NAME_BYTES_MAX]!r}, "
            f"expected {cluster!r}"
        )


# Namespaces and services repeat from row to row; an endpoint's name does not.
_check_label = lru_cache(maxsize=4_096)(check_label)


def check_address(text: str, ranges: tuple[str, ...], where: str) -> None:
    """Raise unless `text` is an address, in its one spelling, that the ranges of a cluster allow."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidInputError(f"{where}: address {text[:NAME_BYTES_MAX]!r} is not an IP address") from error
    if address.version == 6 and address.ipv4_mapped is not None:
        # A second spelling would pass rules written for the first one.
        raise InvalidInputError(
            f"{where}: address is {text[:NAME_BYTES_MAX]!r}, expected {address.ipv4_mapped}"
        )
    if str(address) != text or "%" in text:
        raise InvalidInputError(
            f"{where}: address is {text[:NAME_BYTES_MAX]!r}, expected its shortest form without a zone"
        )
    if ranges:
        if not any(address in network for network in networks(ranges)):
            raise NotAllowedError(
                f"{where}: address {text} is outside the cluster's ranges {', '.join(ranges)}"[:400]
            )
    elif _is_special(address):
        raise NotAllowedError(
            f"{where}: address {text} belongs to no network of a cluster; "
            "give the cluster ranges that contain it if it is meant"
        )


def _is_special(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address == METADATA_ADDRESS
    )


@lru_cache(maxsize=CLUSTERS_MAX)
def networks(ranges: tuple[str, ...]) -> Sequence[_Network]:
    """The ranges of a cluster; they have been checked."""
    return [ipaddress.ip_network(text) for text in ranges]


def check_ports(ports: Sequence[EndpointPort], where: str) -> None:
    """Raise `InvalidInputError` unless there are some ports, not too many, and each name and number is one port's."""
    if not 0 < len(ports) <= ENDPOINT_PORTS_MAX:
        raise InvalidInputError(f"{where} has {len(ports)} ports, expected 1 to {ENDPOINT_PORTS_MAX}")
    for port in ports:
        _check_label(port.name, f"{where}: port name")
        for field, number in (("service_port", port.service_port), ("listen_port", port.listen_port)):
            if not 1 <= number <= 65_535:
                raise InvalidInputError(
                    f"{where}: {field} of port {port.name} is {number}, expected 1 to 65535"
                )
    if len({port.name for port in ports}) < len(ports) or len({port.service_port for port in ports}) < len(
        ports
    ):
        raise InvalidInputError(f"{where}: two ports have the same name or service port")


def check_identity(identity: str, trust_domains: tuple[str, ...], begin: tuple[str, ...], where: str) -> None:
    """Raise unless it is an identity of one of these trust domains whose path has four parts, beginning with `begin`."""
    if len(identity.encode()) > SPIFFE_ID_BYTES_MAX:
        raise InvalidInputError(f"{where}: identity has more than {SPIFFE_ID_BYTES_MAX} bytes")
    if not identity.startswith(tuple(f"spiffe://{name}/" for name in trust_domains)):
        raise NotAllowedError(
            f"{where}: identity is {identity[:NAME_BYTES_MAX]!r},"
            f" expected one of trust domain {' or '.join(trust_domains)}"
        )
    trust_domain, *path = identity.split("/")[2:]
    if tuple(path[: len(begin)]) != begin or len(path) != 4 or not all(path):
        raise NotAllowedError(
            f"{where}: identity is {identity[:NAME_BYTES_MAX]!r}, "
            f"expected spiffe://{trust_domain}/{'/'.join(begin)}/... of four parts"
        )


def _identity_path(key: EndpointKey) -> tuple[str, ...]:
    """How the path of the identity of an endpoint begins."""
    if key.namespace != SYSTEM_NAMESPACE:
        return WORKLOAD_PATH
    if key.service == GATEWAY_SERVICE:
        return ("isthmus", key.cluster, "gateway")
    return ("isthmus", key.cluster)

"""What an Envoy is and stands in front of, as its agent describes it.

The description travels as one JSON string in the field `isthmus` of Envoy's node metadata, so that a
controller needs nothing but the stream's first request to know what to send. It is a claim: a controller
compares it with the certificate of the stream (`check_peer`).
"""

import ipaddress
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from certs.core import spiffe
from discovery.core.model import Protocol, ServiceKey
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import BadIdentityError, InvalidInputError
from federation.kernel.names import check_label

METADATA_FIELD = "isthmus"

# One description is one string of a stream's first request.
DESCRIPTION_BYTES_MAX = 64 * 1024
WORKLOADS_MAX = 64
PORTS_PER_WORKLOAD_MAX = 32
OUTBOUND_TCP_MAX = 64
NODE_ID_CHARACTERS_MAX = 256

EAST_WEST_PORT = 15443

ProxyKind: TypeAlias = Literal["sidecar", "gateway"]

# Which of our processes may ask for the configuration of which kind of proxy.
_ROLES: dict[ProxyKind, frozenset[str]] = {
    "sidecar": frozenset({"agent", "gateway"}),
    "gateway": frozenset({"gateway"}),
}


class WorkloadPort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One port: where callers' proxies arrive and where the application listens."""

    service_port: int
    listen_port: int
    app_address: str
    app_port: int
    protocol: Protocol = "http"


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of a service behind the proxy."""

    namespace: str
    service: str
    identity: str
    ports: tuple[WorkloadPort, ...]

    @property
    def key(self) -> ServiceKey:
        """The service that this is an instance of."""
        return ServiceKey(self.namespace, self.service)


class OutboundTcp(msgspec.Struct, frozen=True, kw_only=True):
    """A local address through which applications reach one TCP port of a service."""

    namespace: str
    service: str
    service_port: int
    address: str
    listen_port: int

    @property
    def key(self) -> ServiceKey:
        """The service."""
        return ServiceKey(self.namespace, self.service)


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """One Envoy. `id` is its xDS node id, unique within the agent."""

    id: str
    cluster: str
    agent: str
    kind: ProxyKind
    address: str  # Where inbound listeners, or the gateway, listen.
    namespace: str = ""  # Whose services it calls by their bare name.
    outbound: tuple[str, int] | None = None  # Where the sidecar's applications call others.
    capture: bool = False  # The host's connections are redirected to `outbound`.
    outbound_tcp: tuple[OutboundTcp, ...] = ()
    workloads: tuple[Workload, ...] = ()
    gateway_name: str = ""  # Name of the gateway's endpoint in isthmus-system/eastwest.
    gateway_port: int = EAST_WEST_PORT


_decoder = msgspec.json.Decoder(Proxy)
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_proxy(proxy: Proxy) -> str:
    """Return the JSON for the metadata field `isthmus`; equal descriptions give equal text."""
    return _encoder.encode(proxy).decode()


def decode_proxy(description: str, *, node_id: str) -> Proxy:
    """Return the checked description of the Envoy that calls itself `node_id`.

    Raises InvalidInputError naming the field, its value and what was expected.
    """
    where = f"xds node {node_id[:NODE_ID_CHARACTERS_MAX]!r}: metadata.{METADATA_FIELD}"
    if len(description) > DESCRIPTION_BYTES_MAX:
        raise InvalidInputError(
            f"{where} has {len(description)} characters, at most {DESCRIPTION_BYTES_MAX} are allowed"
        )
    if not description:
        raise InvalidInputError(f"{where} is missing: expected the proxy's description as a JSON string")
    try:
        proxy = _decoder.decode(description)
    except (*MALFORMED, UnicodeEncodeError) as error:
        raise InvalidInputError(f"{where}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    check_proxy(proxy, where)
    if proxy.id != node_id:
        raise InvalidInputError(f"{where}: id is {proxy.id!r}, expected the node's own id {node_id!r}")
    return proxy


def check_proxy(proxy: Proxy, where: str) -> None:
    """Raise InvalidInputError unless the description can become a configuration."""
    if not proxy.id or len(proxy.id) > NODE_ID_CHARACTERS_MAX:
        raise InvalidInputError(
            f"{where}: id has {len(proxy.id)} characters, expected 1 to {NODE_ID_CHARACTERS_MAX}"
        )
    check_label(proxy.cluster, f"{where}: cluster")
    _check_address(proxy.address, f"{where}: address")
    if proxy.namespace:
        check_label(proxy.namespace, f"{where}: namespace")
    if proxy.outbound is not None:
        _check_address(proxy.outbound[0], f"{where}: outbound[0]")
        _check_port(proxy.outbound[1], f"{where}: outbound[1]")
    _check_capture(proxy, where)
    _check_outbound_tcp(proxy, where)
    if proxy.kind == "gateway":
        check_label(proxy.gateway_name, f"{where}: gateway_name")
        _check_port(proxy.gateway_port, f"{where}: gateway_port")
    _check_count(len(proxy.workloads), WORKLOADS_MAX, f"{where}: workloads")
    for position, workload in enumerate(proxy.workloads):
        _check_workload(workload, f"{where}: workloads[{position}]")
    _check_unique(
        ((workload.key, port.service_port) for workload in proxy.workloads for port in workload.ports),
        f"{where}: workloads: service and service_port",
    )
    _check_unique(
        (port.listen_port for workload in proxy.workloads for port in workload.ports),
        f"{where}: workloads: listen_port",
    )


def check_peer(proxy: Proxy, peer: str) -> None:
    """Raise BadIdentityError unless the stream's certificate may speak for this proxy.

    `peer` must be `spiffe://TD/isthmus/CLUSTER/agent/AGENT` (or `gateway` for the role) with the proxy's
    own cluster and agent. That TD belongs to CLUSTER is for the caller to know.
    """
    claim = spiffe.system_identity(spiffe.parse(peer))
    if (
        claim is None
        or claim.role not in _ROLES[proxy.kind]
        or (claim.cluster, claim.id) != (proxy.cluster, proxy.agent)
    ):
        raise BadIdentityError(
            f"{spiffe.shown(peer)} may not speak for {proxy.kind} {proxy.id!r}: expected the identity of"
            f" {' or '.join(sorted(_ROLES[proxy.kind]))} {proxy.agent!r} of cluster {proxy.cluster!r}"
        )


def _check_capture(proxy: Proxy, where: str) -> None:
    if not proxy.capture:
        return
    address = ipaddress.ip_address(proxy.outbound[0]) if proxy.outbound else None
    # Told apart from the addresses that connections were bound for, so it has to be one address.
    if not isinstance(address, ipaddress.IPv4Address) or address.is_unspecified:
        raise InvalidInputError(
            f"{where}: outbound is {address}, expected one IPv4 address to which connections are redirected"
        )


def _check_outbound_tcp(proxy: Proxy, where: str) -> None:
    _check_count(len(proxy.outbound_tcp), OUTBOUND_TCP_MAX, f"{where}: outbound_tcp")
    for position, outbound in enumerate(proxy.outbound_tcp):
        inside = f"{where}: outbound_tcp[{position}]"
        check_label(outbound.namespace, f"{inside}.namespace")
        check_label(outbound.service, f"{inside}.service")
        _check_port(outbound.service_port, f"{inside}.service_port")
        _check_port(outbound.listen_port, f"{inside}.listen_port")
        _check_address(outbound.address, f"{inside}.address")
    taken = [proxy.outbound] if proxy.outbound else []
    _check_unique(
        [*taken, *((each.address, each.listen_port) for each in proxy.outbound_tcp)],
        f"{where}: outbound_tcp: address and listen_port",
    )


def _check_workload(workload: Workload, where: str) -> None:
    check_label(workload.namespace, f"{where}.namespace")
    check_label(workload.service, f"{where}.service")
    spiffe.parse(workload.identity)
    _check_count(len(workload.ports), PORTS_PER_WORKLOAD_MAX, f"{where}.ports")
    for position, port in enumerate(workload.ports):
        inside = f"{where}.ports[{position}]"
        _check_port(port.service_port, f"{inside}.service_port")
        _check_port(port.listen_port, f"{inside}.listen_port")
        _check_port(port.app_port, f"{inside}.app_port")
        _check_address(port.app_address, f"{inside}.app_address")


def _check_address(text: str, where: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidInputError(f"{where}: {text[:64]!r} is not an IP address") from error


def _check_port(port: int, where: str) -> None:
    if not 1 <= port <= 65_535:
        raise InvalidInputError(f"{where} is {port}, expected a port from 1 to 65535")


def _check_count(count: int, most: int, where: str) -> None:
    if count > most:
        raise InvalidInputError(f"{where} has {count} entries, at most {most} are allowed")


def _check_unique(values: Iterable[object], where: str) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise InvalidInputError(f"{where} {value} is given twice")
        seen.add(value)

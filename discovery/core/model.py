"""The rows of the catalog: what is replicated, what a mirror holds, what every view is computed from.

Two tables. `resources` holds configuration (clusters, trust domains, exports, grants, ...), keyed by
`ResourceKey`; it changes only through quorum. `endpoints` holds one row per instance of a service,
keyed by `EndpointKey` so that all endpoints of a service lie side by side; its rows are local first:
a cluster's own controllers believe their agents before the log has agreed.

Rows travel and rest as MessagePack (`pack`, `unpack`); unknown fields are ignored, so that an older
process reads a newer one's rows.
"""

from typing import Literal, NamedTuple, TypeAlias

import msgspec

FEDERATION_SCOPE = ""  # The scope of what belongs to no single cluster.

SYSTEM_NAMESPACE = "isthmus-system"
# What runs there keeps a cluster going: only a policy that names such a namespace shares anything of it.
SYSTEM_NAMESPACES = frozenset({SYSTEM_NAMESPACE, "kube-node-lease", "kube-public", "kube-system"})
GATEWAY_SERVICE = "eastwest"  # Gateways are endpoints of this service, in the system namespace.

Protocol: TypeAlias = Literal["http", "tcp"]
ServiceType: TypeAlias = Literal["ClusterSetIP", "Headless"]  # KEP-1645's words.
ServiceAffinity: TypeAlias = Literal["None", "ClientIP"]
TableName: TypeAlias = Literal["resources", "endpoints"]


class ResourceKey(NamedTuple):
    """Names one resource. Sorts by scope, then kind, namespace and name."""

    scope: str
    kind: str
    namespace: str
    name: str

    def encode(self) -> bytes:
        """The table key: parts joined by NUL, which no name may contain, so that order is kept."""
        return "\0".join(self).encode()

    @classmethod
    def decode(cls, key: bytes) -> "ResourceKey":
        """The inverse of `encode`."""
        return cls(*key.decode().split("\0"))

    def __str__(self) -> str:
        place = f"clusters/{self.scope}/" if self.scope else ""
        inside = f"{self.namespace}/" if self.namespace else ""
        return f"{place}{self.kind}/{inside}{self.name}"


class ServiceKey(NamedTuple):
    """Names one service of the clusterset; the same name in two clusters is the same service."""

    namespace: str
    service: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}"


class EndpointKey(NamedTuple):
    """Names one endpoint; all endpoints of a service sort together, and of one cluster therein."""

    namespace: str
    service: str
    cluster: str
    name: str

    def encode(self) -> bytes:
        """The table key: parts joined by NUL, which no name may contain, so that order is kept."""
        return "\0".join(self).encode()

    @classmethod
    def decode(cls, key: bytes) -> "EndpointKey":
        """The inverse of `encode`."""
        return cls(*key.decode().split("\0"))

    @property
    def service_key(self) -> ServiceKey:
        """The service that this is an endpoint of."""
        return ServiceKey(self.namespace, self.service)


class Resource(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One configuration object. `spec` and `status` are JSON objects, checked before they got here."""

    key: ResourceKey
    uid: str
    owner: str  # The cluster whose controllers may change it; "" is the federation.
    revision: int  # Of its last change.
    generation: int  # Grows when `spec` changes.
    created_ms: int  # Federation time.
    spec: bytes
    status: bytes = b"{}"
    labels: tuple[tuple[str, str], ...] = ()
    created_revision: int = 0  # Stays while the resource does; 0 in rows that older builds made.


class EndpointPort(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One port of an endpoint: what callers ask for, and where the proxy in front of it listens."""

    name: str  # Unique within the endpoint; "http" unless the registration says otherwise.
    service_port: int  # What callers name, such as 8080 in orders.shop:8080.
    listen_port: int  # Where the endpoint's proxy accepts mutual TLS for it.
    protocol: Protocol = "http"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One instance of a service, as its agent last described it."""

    key: EndpointKey
    address: str  # IP of the proxy in front of the instance, on the cluster's network.
    ports: tuple[EndpointPort, ...]
    identity: str  # SPIFFE ID that the instance's proxy shows.
    ready: bool  # What its agent's probe says.
    region: str = ""
    zone: str = ""
    weight: int = 1
    agent: str = ""
    # Newest wins, compared in this order, when two controllers heard different things from one agent.
    incarnation: int = 0  # Grows with each start of the agent: its start time in milliseconds.
    sequence: int = 0  # Grows with each change that the agent declares.
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def version(self) -> tuple[int, int]:
        """Position in its agent's own history; only a larger one replaces a row."""
        return (self.incarnation, self.sequence)


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who declared an endpoint, and when: what tells which of two rows holds. The rest of the row is not read.

    Its fields are those of `Endpoint`, in their order, up to the last one needed.
    """

    _key: msgspec.Raw
    _address: msgspec.Raw
    _ports: msgspec.Raw
    _identity: msgspec.Raw
    _ready: msgspec.Raw
    _region: msgspec.Raw = msgspec.Raw()
    _zone: msgspec.Raw = msgspec.Raw()
    _weight: msgspec.Raw = msgspec.Raw()
    agent: str = ""
    incarnation: int = 0
    sequence: int = 0

    @property
    def version(self) -> tuple[int, int]:
        """As `Endpoint.version`."""
        return (self.incarnation, self.sequence)


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row set or removed at one revision. `value` is a packed row, or None where it was removed."""

    table: TableName
    key: bytes
    value: bytes | None


_resource_encoder = msgspec.msgpack.Encoder()
_resource_decoder = msgspec.msgpack.Decoder(Resource)
_endpoint_decoder = msgspec.msgpack.Decoder(Endpoint)
_origin_decoder = msgspec.msgpack.Decoder(Origin)


def pack(row: Resource | Endpoint) -> bytes:
    """Return the row's bytes; equal rows give equal bytes."""
    return _resource_encoder.encode(row)


def unpack_resource(value: bytes) -> Resource:
    """Read a resource row; raises `msgspec.DecodeError` on anything else."""
    try:
        return _resource_decoder.decode(value)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def unpack_endpoint(value: bytes) -> Endpoint:
    """Read an endpoint row; raises `msgspec.DecodeError` on anything else."""
    try:
        return _endpoint_decoder.decode(value)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def unpack_origin(value: bytes) -> Origin:
    """Read of a packed endpoint who declared it and when, at a third of the cost of all; raises `msgspec.DecodeError`."""
    try:
        return _origin_decoder.decode(value)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error

"""What `isthmus explain` answers: a service as callers of one cluster see it, and why.

JSON in camelCase, as everywhere in the API.
"""

from typing import Literal, TypeAlias

import msgspec

Called: TypeAlias = Literal["yes", "last resort", "no"]


class Explained(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the parts of an explanation."""


class PolicyFact(Explained, frozen=True, kw_only=True):
    """One policy of the owner that exports or grants its namespace, or of the viewer about what it takes."""

    kind: Literal["ExportPolicy", "ClusterExportPolicy", "Grant", "ImportPolicy"]
    name: str
    applies: bool
    why: str


class EndpointFact(Explained, frozen=True, kw_only=True):
    """One port of one endpoint."""

    name: str
    address: str
    service_port: int
    listen_port: int
    ready: bool
    weight: int
    called: Called
    why: str


class GatewayFact(Explained, frozen=True, kw_only=True):
    """One gateway by which callers reach an owner on another network."""

    name: str
    address: str
    port: int
    ready: bool
    called: Called


class OwnerFact(Explained, frozen=True, kw_only=True):
    """One cluster that has endpoints of the service."""

    cluster: str
    trust_domain: str
    region: str
    zone: str
    visible: bool
    why: str
    order: int | None  # 0 is tried first; None: it is not visible.
    distance: str  # Why it stands there; within one distance names decide.
    # Whether its sidecars let the caller in; None: the question names a cluster only.
    admits_caller: bool | None
    admits_why: str
    policies: tuple[PolicyFact, ...]  # Those that apply first, at most POLICIES_EXPLAINED_MAX.
    direct: bool
    gateways: tuple[GatewayFact, ...]
    endpoint_count: int
    ready_count: int
    endpoints: tuple[EndpointFact, ...]  # At most ENDPOINTS_EXPLAINED_MAX.
    other_trust_domain: str = ""  # While it moves to another home: callers accept its endpoints by either.
    external: bool = False  # Addresses outside of all clusters that it declared: a part of its own.


class TargetFact(Explained, frozen=True, kw_only=True):
    """One address of a load assignment, as it is sent."""

    address: str
    port: int
    weight: int
    # Envoy finds out about the first, calls the second when it has nothing better, and avoids the third.
    health: Literal["unknown", "degraded", "unhealthy"]
    region: str
    zone: str


class EnvoyClusterFact(Explained, frozen=True, kw_only=True):
    """One owner's Envoy cluster, as it is sent."""

    priority: int  # 0 first.
    name: str
    targets: tuple[TargetFact, ...]


class EnvoyPortFact(Explained, frozen=True, kw_only=True):
    """What sidecars of the caller's cluster get for one port."""

    service_port: int
    protocol: str
    cluster: str  # The aggregate that routes name.
    members: tuple[EnvoyClusterFact, ...]


class RecordFact(Explained, frozen=True, kw_only=True):
    """One DNS record."""

    name: str
    type: str
    ttl_s: int
    data: str


class ConflictFact(Explained, frozen=True, kw_only=True):
    """What an owner says of the service and the service is not, because an older export says otherwise."""

    cluster: str
    policy: str
    reason: str
    message: str


class Withdrawn(Explained, frozen=True, kw_only=True):
    """An endpoint that was registered and is no longer."""

    cluster: str
    name: str
    revision: int  # At which it went.


class Explanation(Explained, frozen=True, kw_only=True):
    """A service as callers of one cluster see it, and why."""

    service: str
    host: str
    cluster: str  # The caller's.
    identity: str  # The caller's SPIFFE ID; empty: the question names a cluster only.
    revision: int
    visible: bool
    stands_for: str  # Of an alias: the service; empty otherwise.
    owners: tuple[OwnerFact, ...]  # Those that are visible in their order, then the others by name.
    # What the service is, and which visible owner's policy said so; empty where it is not visible.
    type: str
    session_affinity: str
    decided_by: str
    conflicts: tuple[ConflictFact, ...]  # Of the visible owners, at most CONFLICTS_EXPLAINED_MAX.
    dns: tuple[RecordFact, ...]
    envoy: tuple[EnvoyPortFact, ...]
    withdrawn: tuple[Withdrawn, ...]  # Newest first, as far back as the history goes.
    problem: str  # Why the last good configuration is kept, if it is.
    other_identity: str = ""  # Which the caller may show instead, while its cluster moves to another home.

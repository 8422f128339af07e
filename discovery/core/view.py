"""What one cluster may see of the catalog: the only input of DNS answers and xDS resources.

A view belongs to one cluster. Of its own endpoints it shows all; of another cluster's, those of
services which that cluster exports to it and, across trust domains, grants to it (invariants D1, S2).
Another cluster's endpoints are reached through its gateways unless both clusters name the same network.
"""

import msgspec

from discovery.core.model import Endpoint, EndpointPort, ServiceKey


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """One east-west gateway instance of another cluster."""

    name: str
    address: str
    port: int
    identity: str  # SPIFFE ID that its health filter chain shows.
    ready: bool


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster's part of a service."""

    cluster: str
    trust_domain: str
    region: str
    zone: str
    local: bool  # True: the view's own cluster.
    direct: bool  # True: `endpoints` are reachable as they are (own cluster, or same network).
    identities: tuple[str, ...]  # SPIFFE IDs of its endpoints, sorted, unique.
    endpoints: tuple[Endpoint, ...]  # Sorted by key; of another cluster too, for weight and ready count.
    gateways: tuple[Gateway, ...] = ()  # Sorted by name; empty when direct.

    @property
    def ready_count(self) -> int:
        """How many of its endpoints are ready."""
        return sum(endpoint.ready for endpoint in self.endpoints)

    def serves(self, service_port: int) -> bool:
        """True when some endpoint has the port, ready or not: nobody else is to be sent calls for it."""
        return any(
            port.service_port == service_port for endpoint in self.endpoints for port in endpoint.ports
        )


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service as one cluster sees it. It exists in the view if at least one owner is visible."""

    key: ServiceKey
    ports: tuple[
        EndpointPort, ...
    ]  # Union over owners by service_port (lowest owner wins a conflict); listen_port is 0.
    # Own cluster first, then by (same region first, same zone first, name); dead ones that are a last resort at the end.
    owners: tuple[Owner, ...]

    @property
    def host(self) -> str:
        """Its name in the clusterset (KEP-1645)."""
        return f"{self.key.service}.{self.key.namespace}.svc.clusterset.local"


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call one service of the view's own cluster: its own trust domain, and what grants add."""

    own_trust_domain: str
    sources: tuple["AdmittedSource", ...] = ()


class AdmittedSource(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One granted source; empty tuples mean any. `trust_domain` is never empty."""

    trust_domain: str
    namespaces: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()


class TrustDomainRoots(msgspec.Struct, frozen=True, kw_only=True):
    """The public roots by which a trust domain's certificates are judged."""

    trust_domain: str
    roots_pem: tuple[str, ...]
    sequence: int

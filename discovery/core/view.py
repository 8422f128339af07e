"""What one cluster may see of the catalog: the only input of DNS answers and xDS resources.

A view belongs to one cluster. Of its own endpoints it shows all; of another cluster's, those of
services which that cluster exports to it and, across trust domains, grants to it (invariants D1, S2).
Another cluster's endpoints are reached through its gateways unless both clusters name the same network.
"""

import msgspec

from discovery.core.model import Endpoint, EndpointPort, Protocol, ServiceAffinity, ServiceKey, ServiceType


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """One east-west gateway instance of another cluster."""

    name: str
    address: str
    port: int
    identity: str  # SPIFFE ID that its health filter chain shows.
    ready: bool


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster's part of a service: what its agents registered, or the addresses outside that it declared."""

    cluster: str
    trust_domain: str
    region: str
    zone: str
    local: bool  # True: the view's own cluster.
    direct: bool  # True: `endpoints` are reachable as they are (own cluster, or same network).
    identities: tuple[str, ...]  # SPIFFE IDs of its endpoints, sorted, unique.
    endpoints: tuple[Endpoint, ...]  # Sorted by key; of another cluster too, for weight and ready count.
    gateways: tuple[Gateway, ...] = ()  # Sorted by name; empty when direct.
    apart: bool = False  # True: it names another network than ours, where an address may be somebody else's.
    # While its cluster is drained: how much it gets of the traffic that it would have, the rest goes to the next owners.
    share_percent: int = 100
    # True: addresses outside of all clusters that it declared, called as they are, without mutual TLS. What its agents
    # registered is another part.
    external: bool = False
    suspects: tuple[str, ...] = ()  # Of an external part: endpoints that are called when no other is left.
    # While its cluster moves to another home: the other trust domain of which its endpoints' identities may be.
    other_trust_domain: str = ""

    @property
    def part(self) -> str:
        """Its name among the parts of the service."""
        return f"{self.cluster}.external" if self.external else self.cluster

    @property
    def ready_count(self) -> int:
        """How many of its endpoints are ready."""
        return sum(endpoint.ready for endpoint in self.endpoints)

    def spoken_at(self, service_port: int) -> Protocol | None:
        """What the owner speaks at a port, by its first endpoint that has it, ready or not; None: nobody has it."""
        return next(
            (
                port.protocol
                for endpoint in self.endpoints
                for port in endpoint.ports
                if port.service_port == service_port
            ),
            None,
        )

    def serves(self, port: EndpointPort) -> bool:
        """True when callers of a service's port may be sent here: somebody has it, and it is spoken there."""
        return self.spoken_at(port.service_port) == port.protocol


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service as one cluster sees it. It exists in the view if at least one owner is visible."""

    key: ServiceKey
    # Union over owners by number, as `conflicts` settles it: an owner may have a port of the number that is not
    # for this one. listen_port is 0, a name that another port has is "".
    ports: tuple[EndpointPort, ...]
    # Own cluster first, then by (same region first, same zone first, name, external behind registered); behind them those that are drained (share 0),
    # at the end dead ones that are a last resort.
    owners: tuple[Owner, ...]
    type: ServiceType = "ClusterSetIP"
    affinity: ServiceAffinity = "None"
    stands_for: ServiceKey | None = None  # Of an alias: the service that it is another name of.

    @property
    def called_as(self) -> ServiceKey:
        """By which name proxies and gateways know it."""
        return self.stands_for or self.key

    @property
    def host(self) -> str:
        """Its name in the clusterset (KEP-1645)."""
        return f"{self.key.service}.{self.key.namespace}.svc.clusterset.local"


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call one service of the view's own cluster: its own trust domain, and what grants add."""

    own_trust_domain: str
    sources: tuple["AdmittedSource", ...] = ()
    other_own_trust_domain: str = ""  # While the cluster moves to another home: of the two, the other one.


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

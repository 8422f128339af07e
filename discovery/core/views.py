"""One cluster's view of the catalog, kept up to date at a cost proportional to what changes (C3, D1).

The view holds for each service only a fingerprint, by which it tells whether a change is visible. The
service itself is computed from the tables when asked for, and the last ones are kept.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

import msgspec

from discovery.core.conflicts import Claim, distinct_ports, settle
from discovery.core.external_part import ExternalPart
from discovery.core.model import (
    GATEWAY_SERVICE,
    SYSTEM_NAMESPACE,
    Change,
    Endpoint,
    EndpointKey,
    EndpointPort,
    ResourceKey,
    ServiceKey,
)
from discovery.core.policies import Policies
from discovery.core.served import services_at
from discovery.core.specs import ClusterSpec
from discovery.core.tables import EMPTY_TABLES, Tables, endpoint_prefix
from discovery.core.view import Admission, Gateway, Owner, Service, TrustDomainRoots
from discovery.core.visibility import consumers

# Most services are asked for right after they changed; this holds what a few batches change. Decoded, an endpoint takes
# three times the memory that it takes in the tables.
ENDPOINTS_MEMOISED_MAX = 2_000
OWNER_LISTS_MAX = 4_096
GATEWAYS = ServiceKey(SYSTEM_NAMESPACE, GATEWAY_SERVICE)

_encoder = msgspec.msgpack.Encoder()


class ViewIndex:
    """What cluster `cluster` may see. Its input: the catalog's tables, or an `Overlay`'s. One thread."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._tables = EMPTY_TABLES
        self._policies = Policies(EMPTY_TABLES)
        self._fingerprints: dict[ServiceKey, bytes] = {}
        self._owners: dict[ServiceKey, tuple[str, ...]] = {}  # Of each visible service.
        self._owned: dict[str, set[ServiceKey]] = {}  # The inverse.
        self._owner_lists: dict[
            tuple[str, ...], tuple[str, ...]
        ] = {}  # One of each: most services have the same few.
        self._services: dict[ServiceKey, Service] = {}  # The last ones that were computed.
        self._aliases: Mapping[ServiceKey, ServiceKey] = {}
        self._other_names: dict[ServiceKey, set[ServiceKey]] = {}  # The inverse.
        self._endpoints_memoised = 0

    def update(self, tables: Tables, changes: Iterable[Change]) -> frozenset[ServiceKey]:
        """Go on to `tables`, which differ from the last ones by `changes`.

        Returns the services of which `service` now answers otherwise or, where the own cluster has
        endpoints of them, `admission` or `consumers`.
        """
        services: set[ServiceKey] = set()
        gateways: set[str] = set()
        resources: set[ResourceKey] = set()
        for change in changes:
            if change.table == "resources":
                resources.add(ResourceKey.decode(change.key))
            else:
                key = EndpointKey.decode(change.key)
                if key.service_key == GATEWAYS:
                    gateways.add(key.cluster)
                services.add(key.service_key)
        before = self._policies.trust_domains.keys()
        dead_before, served_before = self._policies.dead, self._policies.served
        self._tables = tables
        self._policies.move(tables, resources)
        served = self._policies.served
        places, mirrored = served.moved_since(served_before)
        if places or served.ranges != served_before.ranges:
            services |= set(self._policies.external_services())
        if places:
            services |= services_at(places, tables.endpoints.items())
            if GATEWAYS in services:
                gateways |= self._policies.clusters.keys()
        for cluster in mirrored:
            services |= self._everything_of(cluster)
            gateways.add(cluster)
        roots = before ^ self._policies.trust_domains.keys()
        for cluster in gateways - {self._cluster}:
            services |= self._seen(cluster)
        for resource in resources:
            services |= self._concerned(resource)
        for cluster, spec in self._policies.clusters.items():
            if not roots.isdisjoint(spec.trust_domains):
                services |= self._all_of(cluster)
        if roots:
            services |= self._seen(self._cluster)
        for cluster in (dead_before ^ self._policies.dead) - {self._cluster}:
            services |= self._in_namespaces_of(cluster, "LossPolicy")
        return frozenset(key for key in self._with_aliases(services) if self._refresh(key))

    def reset(self, tables: Tables) -> frozenset[ServiceKey]:
        """Go on to tables that may differ anywhere; returns as `update`. Cost: that of the whole catalog."""
        self._policies = Policies(tables)
        self._tables = tables
        services = self._everything()
        return frozenset(key for key in self._with_aliases(services) if self._refresh(key))

    def services(self) -> Iterator[ServiceKey]:
        """The visible services, sorted."""
        return iter(sorted(self._fingerprints))

    def service(self, key: ServiceKey) -> Service | None:
        """A service as the cluster sees it; None if it does not exist, or not for this cluster."""
        known = self._services.get(key)
        if known is not None or key not in self._fingerprints:
            return known
        service = self._compute(key)
        self._remember(key, service)
        return service

    def service_without(self, key: ServiceKey, supposed: Collection[str]) -> Service | None:
        """A service as the cluster would see it if these clusters were found dead, too; it is not kept."""
        return self._compute(key, supposed) if key in self._fingerprints else None

    def admission(self, key: ServiceKey) -> Admission | None:
        """Who may call a service of the own cluster; None while the cluster has not joined."""
        return self._policies.admission(self._cluster, key)

    def consumers(self, key: ServiceKey) -> frozenset[str]:
        """The clusters, or "*", to which the own cluster exports a service; without itself."""
        exports = self._policies.exports(self._cluster, key.namespace)
        return consumers(key.service, exports) - {self._cluster}

    def trust_domains(self) -> Mapping[str, TrustDomainRoots]:
        """The roots of every trust domain of the federation; a new mapping whenever one changed."""
        return self._policies.trust_domains

    def gateways(self, cluster: str) -> tuple[Gateway, ...]:
        """The east-west gateways of a cluster, by name."""
        return tuple(
            Gateway(
                name=endpoint.key.name,
                address=endpoint.address,
                port=endpoint.ports[0].listen_port,
                identity=endpoint.identity,
                ready=endpoint.ready,
            )
            for endpoint in self._tables.list_endpoints(GATEWAYS, cluster)
            if endpoint.ports and self._policies.served.serves(endpoint)
        )

    def claims(self, key: ServiceKey, owners: Iterable[Owner]) -> list[Claim]:
        """What these owners of a service say of it, each cluster once."""
        endpoints: dict[str, list[Endpoint]] = {}
        for owner in owners:
            endpoints.setdefault(owner.cluster, []).extend(owner.endpoints)
        return [self._policies.claim(cluster, key, _ports(rows)) for cluster, rows in endpoints.items()]

    @property
    def tables(self) -> Tables:
        """What the view was last given."""
        return self._tables

    @property
    def policies(self) -> Policies:
        """The configuration that decides what the view shows."""
        return self._policies

    def owned_by(self, cluster: str) -> frozenset[ServiceKey]:
        """The visible services of which a cluster is an owner."""
        return frozenset(self._seen(cluster))

    @property
    def revision(self) -> int:
        """Of the tables that the view was last given."""
        return self._tables.revision

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Resources that this build cannot read, by name, with the reason."""
        return self._policies.quarantined

    def _concerned(self, resource: ResourceKey) -> set[ServiceKey]:
        """The services whose view may depend on a resource that changed."""
        match resource.kind:
            case "Cluster" if resource.name == self._cluster:
                return self._everything()
            case "Cluster":
                # Who has joined or left may be admitted, or no longer, where grants name no trust domain.
                return self._all_of(resource.name) | self._seen(self._cluster)
            case "Drain":
                return self._seen(resource.name)
            case "ExportPolicy" | "Grant" | "LossPolicy":
                return self._in_namespace(resource.scope, resource.namespace)
            case "ExternalService":
                return {ServiceKey(resource.namespace, resource.name)}
            case "ServiceAlias" if resource.scope == self._cluster:
                return {ServiceKey(resource.namespace, resource.name)}
            case "ClusterExportPolicy":
                return self._everything_of(resource.scope)
            case "ImportPolicy" if resource.scope == self._cluster:
                return self._everything()
            case _:
                return set()

    def _everything(self) -> set[ServiceKey]:
        return {*self._fingerprints, *self._tables.list_services(), *self._policies.external_services()}

    def _with_aliases(self, services: set[ServiceKey]) -> set[ServiceKey]:
        """These, and the own aliases that stand for one of them, directly or by others."""
        aliases = self._policies.aliases(self._cluster)
        if aliases is not self._aliases:
            self._aliases, self._other_names = aliases, {}
            for alias, target in aliases.items():
                self._other_names.setdefault(target, set()).add(alias)
        found, left = set(services), list(services) if aliases else []
        while left:
            more = self._other_names.get(left.pop(), set()) - found
            found |= more
            left += more
        return found

    def _seen(self, cluster: str) -> set[ServiceKey]:
        """The visible services of which a cluster is an owner."""
        return set(self._owned.get(cluster, ()))

    def _all_of(self, cluster: str) -> set[ServiceKey]:
        """The services that a cluster shows, or may show by its export policies."""
        if next(self._tables.list_resources(cluster, "ClusterExportPolicy"), None) is not None:
            return self._seen(cluster) | self._everything_of(cluster)
        return self._seen(cluster) | self._in_namespaces_of(cluster, "ExportPolicy")

    def _in_namespaces_of(self, cluster: str, kind: str) -> set[ServiceKey]:
        """The services of those namespaces of a cluster that have a policy of this kind."""
        namespaces = {row.key.namespace for row in self._tables.list_resources(cluster, kind)}
        return set().union(*(self._in_namespace(cluster, namespace) for namespace in namespaces))

    def _everything_of(self, cluster: str) -> set[ServiceKey]:
        """The services of which a cluster has endpoints. Cost: one search for each service of the catalog."""
        return self._in_namespace(cluster, None)

    def _in_namespace(self, cluster: str, namespace: str | None) -> set[ServiceKey]:
        return {
            key
            for key in self._tables.list_services(namespace)
            if next(self._tables.endpoints.keys(endpoint_prefix(key, cluster)), None) is not None
        } | set(self._policies.external_services(cluster, namespace))

    def _refresh(self, key: ServiceKey) -> bool:
        """Compute a service anew; True if its view has changed."""
        service = self._compute(key)
        self._remember(key, service)
        before = self._fingerprints.get(key, b"")
        after = b"" if service is None else self._fingerprint(service)
        if after:
            self._fingerprints[key] = after
        elif before:
            del self._fingerprints[key]
        self._index(
            key, () if service is None else tuple(dict.fromkeys(owner.cluster for owner in service.owners))
        )
        return before != after

    def _remember(self, key: ServiceKey, service: Service | None) -> None:
        """Keep a service as it is now; the oldest go when they have too many endpoints together. The newest stays."""
        self._endpoints_memoised -= _size(self._services.pop(key, None))
        if service is not None:
            self._services[key] = service
            self._endpoints_memoised += _size(service)
        while self._endpoints_memoised > ENDPOINTS_MEMOISED_MAX and len(self._services) > 1:
            self._endpoints_memoised -= _size(self._services.pop(next(iter(self._services))))

    def _fingerprint(self, service: Service) -> bytes:
        seen: tuple[object, ...] = (service,)
        if any(owner.local for owner in service.owners):
            seen = (service, self.admission(service.key), sorted(self.consumers(service.key)))
        return hashlib.blake2b(_encoder.encode(seen), digest_size=16).digest()

    def _index(self, key: ServiceKey, owners: tuple[str, ...]) -> None:
        before = self._owners.get(key, ())
        if before == owners:
            return
        if owners:
            if len(self._owner_lists) >= OWNER_LISTS_MAX:
                self._owner_lists.clear()  # Those in use stay where they are.
            self._owners[key] = self._owner_lists.setdefault(owners, owners)
        else:
            del self._owners[key]
        for cluster in before:
            if cluster not in owners:
                self._owned[cluster].remove(key)
                if not self._owned[cluster]:
                    del self._owned[cluster]
        for cluster in owners:
            self._owned.setdefault(cluster, set()).add(key)

    def target(self, key: ServiceKey) -> ServiceKey:
        """The service that a name stands for: the first of its chain that is visible, else the last one."""
        service = self.service(key)
        if service is not None:
            return service.called_as
        return (key, *self._policies.alias_chain(self._cluster, key))[-1]

    def _compute(self, key: ServiceKey, supposed: Collection[str] = frozenset()) -> Service | None:
        """The service of that name or, where there is none, the one that the name stands for.

        `supposed` are taken for dead, whatever their verdicts are.
        """
        service = self._compute_real(key, supposed)
        if service is not None or key.namespace == SYSTEM_NAMESPACE:
            return service
        for target in self._policies.alias_chain(self._cluster, key):
            service = self._compute_real(target, supposed)
            if service is not None:
                return msgspec.structs.replace(service, key=key, stands_for=target)
        return None

    def _compute_real(self, key: ServiceKey, supposed: Collection[str]) -> Service | None:
        own = self._policies.clusters.get(self._cluster)
        if own is None or key.namespace == SYSTEM_NAMESPACE:
            return None
        endpoints: dict[str, list[Endpoint]] = {}
        serves = self._policies.served.serves
        for endpoint in filter(serves, self._tables.list_endpoints(key)):
            endpoints.setdefault(endpoint.key.cluster, []).append(endpoint)
        owners = [
            self._owner(cluster, spec, own, tuple(rows))
            for cluster, rows in endpoints.items()
            if (spec := self._seen_spec(cluster, key, supposed)) is not None
        ]
        owners += [
            self._external(cluster, spec, part)
            for cluster, part in self._policies.external_parts(key).items()
            if part.endpoints and (spec := self._seen_spec(cluster, key, supposed)) is not None
        ]
        if not owners:
            return None
        owners.sort(key=lambda owner: self._order(owner, key, supposed))
        settled = settle(self.claims(key, owners))
        return Service(
            key=key, ports=settled.ports, owners=tuple(owners), type=settled.type, affinity=settled.affinity
        )

    def _seen_spec(self, cluster: str, key: ServiceKey, supposed: Collection[str]) -> ClusterSpec | None:
        """The spec of a cluster whose part of a service is seen; None: it is not."""
        spec = self._policies.clusters.get(cluster)
        if (
            spec is None
            or not self._policies.shows(cluster, self._cluster, key)
            or self._policies.on_loss(cluster, self._cluster, key, supposed) == "withdraw"
        ):
            return None
        return spec

    def _external(self, cluster: str, spec: ClusterSpec, part: ExternalPart) -> Owner:
        """Addresses outside of all clusters: everybody reaches them directly, and no drain moves them."""
        return Owner(
            cluster=cluster,
            trust_domain=spec.trust_domain,
            region=spec.region,
            zone=spec.zone,
            local=cluster == self._cluster,
            direct=True,
            identities=(),
            endpoints=part.endpoints,
            external=True,
            suspects=part.suspects,
        )

    def _order(
        self, owner: Owner, key: ServiceKey, supposed: Collection[str]
    ) -> tuple[bool, bool, int, str, bool]:
        """Own cluster first, then by distance and name; behind these who is drained, then who is dead and a last resort."""
        last_resort = self._policies.on_loss(owner.cluster, self._cluster, key, supposed) == "last-resort"
        distance = self._policies.distance(owner.cluster, self._cluster)
        return last_resort, owner.share_percent == 0, distance, owner.cluster, owner.external

    def _owner(
        self, cluster: str, spec: ClusterSpec, own: ClusterSpec, endpoints: tuple[Endpoint, ...]
    ) -> Owner:
        local = cluster == self._cluster
        direct = local or (spec.network != "" and spec.network == own.network)
        apart = not direct and "" not in (spec.network, own.network)
        return Owner(
            cluster=cluster,
            trust_domain=spec.trust_domain,
            region=spec.region,
            zone=spec.zone,
            local=local,
            direct=direct,
            apart=apart,
            identities=self._policies.identities(cluster, endpoints),
            endpoints=endpoints,
            gateways=() if direct else self.gateways(cluster),
            share_percent=self._policies.share_percent(cluster),
            other_trust_domain=self._policies.other_trust_domain(cluster),
        )


def _size(service: Service | None) -> int:
    return 0 if service is None else sum(len(owner.endpoints) for owner in service.owners)


def _ports(endpoints: Iterable[Endpoint]) -> tuple[EndpointPort, ...]:
    return distinct_ports(chain.from_iterable(endpoint.ports for endpoint in endpoints))

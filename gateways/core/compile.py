"""From one cluster's view of the catalog to what each of its proxies gets.

What depends on a service alone is compiled once for all proxies (`ViewCompiler`); what depends on the proxy
is compiled for it (`ProxyConfig`). A change recompiles only the services that it names (invariant C3).

Nothing is published that refers to what does not exist (invariant G1): an owner whose trust domain has no
known roots is left out until it has, and a service that cannot be compiled keeps its last good form. Both
are listed in `problems`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import msgspec

from discovery.core.model import EndpointPort, ServiceKey
from discovery.core.view import Admission, Service, TrustDomainRoots
from gateways.core import clusters, endpoints, listeners, names, outbound, routes, trust
from gateways.core.captured import CapturedListeners
from gateways.core.proxy import Proxy, ProxyKind
from gateways.core.root_pairs import Pair, RootPairs, pairs_of
from gateways.core.wire import LISTENER, SECRET, XdsResource

# Route configurations kept ready: one per calling namespace that has services.
ROUTE_CONFIGS_KEPT_MAX = 1_000


class View(Protocol):
    """What the compiler asks of a view; `discovery.core.views.ViewIndex` answers."""

    def services(self) -> Iterator[ServiceKey]:
        """All visible services."""

    def service(self, key: ServiceKey) -> Service | None:
        """One visible service, or None."""

    def consumers(self, key: ServiceKey) -> frozenset[str]:
        """The clusters to which the own cluster exports a service."""

    def admission(self, key: ServiceKey) -> Admission | None:
        """Who may call a service of the own cluster, registered or not; None: the cluster has not joined."""

    def trust_domains(self) -> Mapping[str, TrustDomainRoots]:
        """The roots of every trust domain, by name; another mapping whenever one changed."""


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """Everything made of one service."""

    sidecar: tuple[XdsResource, ...] = ()
    gateway: tuple[XdsResource, ...] = ()
    hosts: tuple[bytes, ...] = ()  # Virtual hosts for callers of other namespaces,
    local_hosts: tuple[bytes, ...] = ()  # and of its own.
    ports: tuple[EndpointPort, ...] = ()  # Those that have clusters.
    stands_for: ServiceKey | None = None  # Of an alias: whose clusters these are.
    trust_domains: frozenset[str] = frozenset()
    root_pairs: frozenset[Pair] = frozenset()


Names = Mapping[str, frozenset[str]]  # Names of resources by type URL.
_Table = dict[str, dict[str, XdsResource]]


class Dirty(msgspec.Struct, frozen=True, kw_only=True):
    """What an update touched."""

    shared: Mapping[ProxyKind, Names]
    captured: frozenset[str]  # Listeners of clusterset addresses.
    services: frozenset[ServiceKey]
    routes: bool  # The outbound route configurations.
    roots: bool


def compile_service(service: Service, *, exported: bool) -> Unit:
    """Return everything made of one service, for sidecars that call it and for gateways that export it."""
    sidecar: list[XdsResource] = []
    # A port of an owner that was left out may be nobody's: then it has neither clusters nor routes.
    ports = tuple(port for port in service.ports if any(owner.serves(port) for owner in service.owners))
    gateway = [
        made
        for number in (sorted(own_ports(service)) if exported else ())
        for made in (clusters.gateway_cluster(service, number), endpoints.gateway_endpoints(service, number))
    ]
    service = msgspec.structs.replace(service, ports=ports)
    for port in ports:
        sidecar += clusters.service_clusters(service, port)
        sidecar += endpoints.service_endpoints(service, port)
    return Unit(
        sidecar=tuple(sidecar),
        gateway=tuple(gateway),
        hosts=routes.virtual_hosts(service),
        local_hosts=routes.local_virtual_hosts(service),
        ports=ports,
        trust_domains=frozenset(owner.trust_domain for owner in service.owners),
        root_pairs=pairs_of(service.owners),
    )


def compile_alias(service: Service, target: Unit) -> Unit:
    """Return everything made of an alias: names that lead to the clusters of the service that it stands for."""
    service = msgspec.structs.replace(
        service, ports=tuple(port for port in service.ports if port in target.ports)
    )
    return Unit(
        hosts=routes.virtual_hosts(service),
        local_hosts=routes.local_virtual_hosts(service),
        ports=service.ports,
        trust_domains=target.trust_domains,
        stands_for=service.stands_for,
    )


def own_ports(service: Service) -> frozenset[int]:
    """The ports of a service that its gateways pass on, whatever is spoken there: what own endpoints serve."""
    return frozenset(
        port.service_port
        for owner in service.owners
        if owner.local and not owner.external
        for endpoint in owner.endpoints
        for port in endpoint.ports
    )


class ViewCompiler:
    """Keeps what is shared by all proxies of one view's cluster up to date.

    Call `update` after each change of the view, with the services that the view named, even if none: roots
    may have changed. Not for use by several threads. It costs about a millisecond per service: whoever has many keys at
    once passes them in slices.
    """

    def __init__(self, cluster: str, view: View) -> None:
        self.cluster = cluster
        self._view = view
        self._units: dict[ServiceKey, Unit] = {}
        self._shared: dict[ProxyKind, _Table] = {"sidecar": {}, "gateway": {}}
        self.captured = CapturedListeners()
        self._roots: Mapping[str, TrustDomainRoots] = {}
        self._root_pairs = RootPairs()
        self._routes: dict[str, XdsResource] = {}
        self._local_services: defaultdict[str, int] = defaultdict(int)
        self.problems: dict[ServiceKey, str] = {}

    def update(self, changed: Iterable[ServiceKey]) -> Dirty:
        """Recompile the services named, and what else their view's trust domains make necessary."""
        keys = set(changed) | self._aliases_that_wait()
        touched: dict[ProxyKind, defaultdict[str, set[str]]] = {
            "sidecar": defaultdict(set),
            "gateway": defaultdict(set),
        }
        roots_names = self._update_roots()
        if roots_names:
            touched["sidecar"][SECRET] |= {names.roots_secret(name) for name in roots_names}
            # Owners that waited for roots, and those whose roots went away.
            keys |= self.problems.keys()
            keys |= {key for key, unit in self._units.items() if unit.trust_domains & roots_names}
        routes_changed = False
        for key in sorted(keys, key=lambda key: (self._target(key) is not None, key)):
            routes_changed |= self._update_service(key, touched)  # Aliases come after what they stand for.
        secrets = self._shared["sidecar"].setdefault(SECRET, {})
        touched["sidecar"][SECRET] |= self._root_pairs.update(secrets, self._roots, roots_names)
        if routes_changed:
            self._routes.clear()
        return Dirty(
            shared={
                kind: {type_url: frozenset(found) for type_url, found in by_type.items() if found}
                for kind, by_type in touched.items()
            },
            captured=self.captured.update(
                {key: self._seen_ports(key) for key in sorted(keys)},
                {key: target for key in keys if (target := self._target(key)) is not None},
            ),
            services=frozenset(keys),
            routes=routes_changed,
            roots=bool(roots_names),
        )

    def shared(self, kind: ProxyKind, type_url: str) -> Mapping[str, XdsResource]:
        """What all proxies of a kind get, by name."""
        return self._shared[kind].get(type_url, {})

    def outbound_routes(self, namespace: str) -> XdsResource:
        """The outbound route configuration for callers of a namespace, who may use bare names there."""
        # Callers of namespaces without services all get the same.
        caller = namespace if self._local_services.get(namespace) else ""
        ready = self._routes.get(caller)
        if ready is None:
            if len(self._routes) >= ROUTE_CONFIGS_KEPT_MAX:
                self._routes.clear()
            hosts = (
                host
                for key, unit in sorted(self._units.items())
                for host in (unit.local_hosts if key.namespace == caller else unit.hosts)
            )
            ready = self._routes[caller] = routes.outbound_routes(hosts, cluster=self.cluster)
        return ready

    def has_tcp(self, key: ServiceKey, service_port: int) -> bool:
        """Whether a port of a service can be called by TCP now."""
        ports = self._units.get(key, Unit()).ports
        return any(port.service_port == service_port and port.protocol == "tcp" for port in ports)

    def called_as(self, key: ServiceKey) -> ServiceKey:
        """The service whose clusters a name leads to: itself, but for an alias."""
        return self._units.get(key, Unit()).stands_for or key

    def inbound_roots(self, proxy: Proxy) -> XdsResource | None:
        """The validation context of a sidecar's inbound listeners."""
        admissions = [self.admission(workload.key) for workload in proxy.workloads]
        return trust.inbound_roots_secret([found for found in admissions if found], self._roots)

    def admission(self, key: ServiceKey) -> Admission | None:
        """Who may call a service of this cluster."""
        return self._view.admission(key)

    def _update_roots(self) -> frozenset[str]:
        """Take over the view's roots; return the trust domains whose roots changed."""
        newest = self._view.trust_domains()
        if newest is self._roots:
            return frozenset()
        changed = {
            name for name in newest.keys() | self._roots.keys() if newest.get(name) != self._roots.get(name)
        }
        table = self._shared["sidecar"].setdefault(SECRET, {})
        for name in changed:
            table.pop(names.roots_secret(name), None)
            if name in newest:
                secret = trust.roots_secret(newest[name])
                table[secret.name] = secret
        self._roots = newest
        return frozenset(changed)

    def _update_service(
        self, key: ServiceKey, touched: Mapping[ProxyKind, defaultdict[str, set[str]]]
    ) -> bool:
        """Recompile one service and note the names that changed; return whether its routes did."""
        old = self._units.get(key, Unit())
        new = self._compile(key)
        if new is None:
            return False
        if new == Unit():
            self._units.pop(key, None)
        else:
            self._units[key] = new
        self._root_pairs.count(old.root_pairs, new.root_pairs)
        self._replace("sidecar", old.sidecar, new.sidecar, touched["sidecar"])
        self._replace("gateway", old.gateway, new.gateway, touched["gateway"])
        self._local_services[key.namespace] += bool(new.hosts) - bool(old.hosts)
        if not self._local_services[key.namespace]:
            del self._local_services[key.namespace]
        return new.hosts != old.hosts

    def _target(self, key: ServiceKey) -> ServiceKey | None:
        """What an alias stands for; None for a service."""
        service = self._view.service(key)
        return None if service is None else service.stands_for

    def _aliases_that_wait(self) -> frozenset[ServiceKey]:
        """The aliases of which a port has no clusters yet: what they stand for may have been compiled since."""
        return frozenset(key for key in self.problems if self._target(key) is not None)

    def _seen_ports(self, key: ServiceKey) -> tuple[EndpointPort, ...] | None:
        """The ports of a service that have clusters, perhaps none; None: the view has no such service."""
        return None if self._view.service(key) is None else self._units.get(key, Unit()).ports

    def _compile(self, key: ServiceKey) -> Unit | None:
        """Return the service's new form, empty if it is gone; None: keep the old one, see `problems`."""
        self.problems.pop(key, None)
        service = self._view.service(key)
        if service is None:
            return Unit()
        if service.stands_for is not None:
            unit = compile_alias(service, self._units.get(service.stands_for, Unit()))
            if unit.ports != service.ports:
                self.problems[key] = f"service {key}: {service.stands_for} has not all of its clusters yet"
            return unit
        unknown = sorted({owner.trust_domain for owner in service.owners} - self._roots.keys())
        if unknown:
            self.problems[key] = f"service {key}: no roots are known for trust domain {', '.join(unknown)}"
            owners = tuple(owner for owner in service.owners if owner.trust_domain in self._roots)
            if not owners:
                return Unit()
            service = msgspec.structs.replace(service, owners=owners)
        try:
            return compile_service(service, exported=bool(self._view.consumers(key)))
        except (ValueError, TypeError) as error:  # What protobuf raises for a value that does not fit.
            self.problems[key] = f"service {key}: {error}"
            return None

    def _replace(
        self,
        kind: ProxyKind,
        old: tuple[XdsResource, ...],
        new: tuple[XdsResource, ...],
        touched: defaultdict[str, set[str]],
    ) -> None:
        table = self._shared[kind]
        before = {(resource.type_url, resource.name): resource.version for resource in old}
        for resource in new:
            if before.pop((resource.type_url, resource.name), None) != resource.version:
                table.setdefault(resource.type_url, {})[resource.name] = resource
                touched[resource.type_url].add(resource.name)
        for type_url, name in before:
            del table[type_url][name]
            touched[type_url].add(name)


class ProxyConfig:
    """All resources of one proxy: the shared ones of its kind and its own."""

    def __init__(self, compiler: ViewCompiler, proxy: Proxy) -> None:
        self._compiler = compiler
        self._proxy = proxy
        self._services = {workload.key for workload in proxy.workloads} | {
            wanted.key for wanted in proxy.outbound_tcp
        }
        self._own: _Table = self._compile()

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """One resource, or None."""
        own = self._own.get(type_url, {}).get(name)
        found = own or self._compiler.shared(self._proxy.kind, type_url).get(name)
        if found is None and self._proxy.capture and type_url == LISTENER:
            return self._compiler.captured.get(name)
        return found

    def names(self, type_url: str) -> Iterator[str]:
        """The names of all resources of a type."""
        yield from self._own.get(type_url, {})
        yield from self._compiler.shared(self._proxy.kind, type_url)
        if self._proxy.capture and type_url == LISTENER:
            yield from self._compiler.captured.names()

    def apply(self, dirty: Dirty) -> dict[str, set[str]]:
        """Follow an update of the compiler; return the names, by type, of what changed for this proxy."""
        changed = {type_url: set(found) for type_url, found in dirty.shared[self._proxy.kind].items()}
        if self._proxy.capture:
            changed.setdefault(LISTENER, set()).update(dirty.captured)
        if dirty.roots or dirty.routes or self._services & dirty.services:
            old, self._own = self._own, self._compile()
            for type_url in old.keys() | self._own.keys():
                before, after = old.get(type_url, {}), self._own.get(type_url, {})
                different = {
                    name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
                }
                changed.setdefault(type_url, set()).update(different)
        return {type_url: found for type_url, found in changed.items() if found}

    def _compile(self) -> _Table:
        table: _Table = {}
        for resource in self._resources():
            table.setdefault(resource.type_url, {})[resource.name] = resource
        return table

    def _resources(self) -> Iterator[XdsResource]:
        proxy = self._proxy
        if proxy.kind == "gateway":
            yield listeners.gateway_listener(proxy)
            return
        yield from self._outbound_resources()
        roots = self._compiler.inbound_roots(proxy)
        if roots is None:
            return
        yield roots
        for workload in proxy.workloads:
            admission = self._compiler.admission(workload.key)
            if admission is None:
                continue
            for port in workload.ports:
                yield clusters.application_cluster(workload, port)
                yield listeners.inbound_listener(proxy, workload, port, admission)
                if port.protocol == "http":
                    yield routes.inbound_routes(workload, port, admission)

    def _outbound_resources(self) -> Iterator[XdsResource]:
        proxy = self._proxy
        if proxy.outbound is not None:
            if proxy.capture:
                yield clusters.passthrough_cluster()
                yield outbound.capturing_listener(proxy, *proxy.outbound)
            else:
                yield outbound.outbound_listener(proxy, *proxy.outbound)
            yield self._compiler.outbound_routes(proxy.namespace)
        for wanted in proxy.outbound_tcp:
            # While the service is not to be seen nobody listens: better refused than accepted and closed.
            if self._compiler.has_tcp(wanted.key, wanted.service_port):
                yield outbound.outbound_tcp_listener(proxy, wanted, self._compiler.called_as(wanted.key))

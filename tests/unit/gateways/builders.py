"""Small catalogs views for the tests of gateways: services, owners, and a view that is just a dictionary."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from discovery.core.model import (
    Endpoint,
    EndpointKey,
    EndpointPort,
    Protocol,
    ServiceAffinity,
    ServiceKey,
)
from discovery.core.view import Admission, AdmittedSource, Gateway, Owner, Service, TrustDomainRoots
from gateways.core.proxy import Proxy, Workload, WorkloadPort

ORDERS = ServiceKey("shop", "orders")


def trust_domain_of(cluster: str) -> str:
    return f"{cluster}.example"


def endpoint(
    cluster: str,
    name: str = "e1",
    *,
    key: ServiceKey = ORDERS,
    address: str = "127.105.0.1",
    listen_port: int = 15006,
    service_port: int = 8080,
    protocol: Protocol = "http",
    ready: bool = True,
    region: str = "",
    zone: str = "",
    weight: int = 1,
) -> Endpoint:
    return Endpoint(
        key=EndpointKey(key.namespace, key.service, cluster, name),
        address=address,
        ports=(
            EndpointPort(
                name=protocol, service_port=service_port, listen_port=listen_port, protocol=protocol
            ),
        ),
        identity=f"spiffe://{trust_domain_of(cluster)}/ns/{key.namespace}/sa/{key.service}",
        ready=ready,
        region=region,
        zone=zone,
        weight=weight,
    )


def gateway(cluster: str, name: str = "gw1", *, address: str = "127.105.0.254", port: int = 15443) -> Gateway:
    return Gateway(
        name=name,
        address=address,
        port=port,
        identity=f"spiffe://{trust_domain_of(cluster)}/isthmus/{cluster}/gateway/{name}",
        ready=True,
    )


def owner(
    cluster: str,
    endpoints: Sequence[Endpoint],
    *,
    local: bool = False,
    gateways: Sequence[Gateway] = (),
    region: str = "",
    zone: str = "",
    share_percent: int = 100,
) -> Owner:
    return Owner(
        cluster=cluster,
        trust_domain=trust_domain_of(cluster),
        region=region,
        zone=zone,
        local=local,
        direct=local or not gateways,
        identities=tuple(sorted({each.identity for each in endpoints})),
        endpoints=tuple(endpoints),
        gateways=tuple(gateways),
        share_percent=share_percent,
    )


def service(
    *owners: Owner,
    key: ServiceKey = ORDERS,
    ports: Sequence[tuple[int, Protocol]] = ((8080, "http"),),
    affinity: ServiceAffinity = "None",
) -> Service:
    return Service(
        key=key,
        ports=tuple(
            EndpointPort(name=f"{protocol}-{number}", service_port=number, listen_port=0, protocol=protocol)
            for number, protocol in ports
        ),
        owners=owners,
        affinity=affinity,
    )


def roots(cluster: str, pem: str = "") -> TrustDomainRoots:
    name = trust_domain_of(cluster)
    return TrustDomainRoots(trust_domain=name, roots_pem=(pem or f"PEM of {name}\n",), sequence=1)


def sidecar(
    cluster: str = "alpha",
    *,
    id: str = "s1",  # noqa: A002 - Envoy's word
    address: str = "127.105.0.1",
    outbound: tuple[str, int] | None = ("127.105.0.1", 15001),
    workloads: Sequence[Workload] = (),
    namespace: str = "shop",
) -> Proxy:
    return Proxy(
        id=id,
        cluster=cluster,
        agent="a1",
        kind="sidecar",
        address=address,
        namespace=namespace,
        outbound=outbound,
        workloads=tuple(workloads),
    )


def workload(
    cluster: str = "alpha",
    *,
    key: ServiceKey = ORDERS,
    app: tuple[str, int] = ("127.105.0.1", 8080),
    listen_port: int = 15006,
    service_port: int = 8080,
    protocol: Protocol = "http",
) -> Workload:
    return Workload(
        namespace=key.namespace,
        service=key.service,
        identity=f"spiffe://{trust_domain_of(cluster)}/ns/{key.namespace}/sa/{key.service}",
        ports=(
            WorkloadPort(
                service_port=service_port,
                listen_port=listen_port,
                app_address=app[0],
                app_port=app[1],
                protocol=protocol,
            ),
        ),
    )


class DictView:
    """A view whose content a test sets; every setter returns nothing, the test calls the compiler."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.known: dict[ServiceKey, Service] = {}
        self.exports: dict[ServiceKey, frozenset[str]] = {}
        self.sources: dict[ServiceKey, tuple[AdmittedSource, ...]] = {}
        self.roots: Mapping[str, TrustDomainRoots] = {}

    def put(self, found: Service, *, exported_to: Sequence[str] = ()) -> None:
        self.known[found.key] = found
        self.exports[found.key] = frozenset(exported_to)

    def trust(self, *known: TrustDomainRoots) -> None:
        self.roots = {each.trust_domain: each for each in known}

    def services(self) -> Iterator[ServiceKey]:
        return iter(sorted(self.known))

    def service(self, key: ServiceKey) -> Service | None:
        return self.known.get(key)

    def consumers(self, key: ServiceKey) -> frozenset[str]:
        return self.exports.get(key, frozenset())

    def admission(self, key: ServiceKey) -> Admission | None:
        return Admission(
            own_trust_domain=trust_domain_of(self.cluster), sources=tuple(sorted(self.sources.get(key, ())))
        )

    def trust_domains(self) -> Mapping[str, TrustDomainRoots]:
        return self.roots


def with_ready(found: Service, cluster: str, *, ready: bool) -> Service:
    """The same service with all endpoints of one owner ready, or none."""
    owners = tuple(
        msgspec.structs.replace(
            each,
            endpoints=tuple(msgspec.structs.replace(row, ready=ready) for row in each.endpoints),
        )
        if each.cluster == cluster
        else each
        for each in found.owners
    )
    return msgspec.structs.replace(found, owners=owners)

"""What is sent on behalf of a service, read back: load assignments, DNS records, and whom they leave out."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import DEGRADED, UNHEALTHY
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.clusters.aggregate.v3.cluster_pb2 import ClusterConfig

from discovery.core.dns_names import name_text
from discovery.core.dns_records import read_record
from discovery.core.dns_zone import service_answers
from discovery.core.model import Endpoint, EndpointPort
from discovery.core.view import Owner, Service
from discovery.core.vips import Vip
from gateways.core import names
from gateways.core.compile import ViewCompiler
from gateways.core.endpoints import Target, endpoint_targets, owner_targets
from gateways.core.explained import (
    Called,
    EndpointFact,
    EnvoyClusterFact,
    EnvoyPortFact,
    GatewayFact,
    RecordFact,
    TargetFact,
)
from gateways.core.wire import CLUSTER, ENDPOINTS

_HEALTH: dict[int, Literal["degraded", "unhealthy"]] = {DEGRADED: "degraded", UNHEALTHY: "unhealthy"}


def seen_endpoints(service: Service, owner: Owner) -> Iterator[EndpointFact]:
    """Yield each port of each endpoint of a visible owner, with whether callers reach it."""
    ports = {port.service_port: port for port in service.ports}
    chosen = {
        number: {
            target.name: target.ready for target in endpoint_targets(owner.endpoints, number, port.protocol)
        }
        for number, port in ports.items()
        if owner.serves(port)
    }
    # Once for a port: each endpoint of an owner behind gateways is reached, or not, by the same ones.
    through = {number: _through(owner, port) for number, port in ports.items()}
    for endpoint in owner.endpoints:
        for number, mine in _ports(endpoint):
            if number in chosen and mine.protocol == ports[number].protocol:
                called, why = _fate(owner, through[number], chosen[number].get(endpoint.key.name))
            else:
                called, why = "no", f"no agreement on what is spoken at {number}: see conflicts"
            yield _fact(endpoint, number, mine.listen_port, called, why)


def hidden_endpoints(endpoints: Iterable[Endpoint], why: str) -> Iterator[EndpointFact]:
    """Yield the same of an owner that is not visible, for that reason."""
    for endpoint in endpoints:
        for number, mine in _ports(endpoint):
            yield _fact(endpoint, number, mine.listen_port, "no", why)


def gateway_facts(service: Service, owner: Owner) -> tuple[GatewayFact, ...]:
    """The gateways by which callers reach an owner; none where it is reached directly."""
    if owner.direct:
        return ()
    called: dict[str, bool] = {}
    for port in service.ports:
        for target in _through(owner, port):
            called[target.name] = called.get(target.name, False) or target.ready
    return tuple(
        GatewayFact(
            name=gateway.name,
            address=gateway.address,
            port=gateway.port,
            ready=gateway.ready,
            called=_called(called.get(gateway.name)),
        )
        for gateway in owner.gateways
    )


def envoy_ports(compiler: ViewCompiler, service: Service) -> tuple[EnvoyPortFact, ...]:
    """What the sidecars of the compiler's cluster are sent for a service; a port without clusters is left out."""
    return tuple(
        EnvoyPortFact(
            service_port=port.service_port,
            protocol=port.protocol,
            cluster=name,
            members=tuple(
                EnvoyClusterFact(priority=priority, name=member, targets=tuple(_targets(compiler, member)))
                for priority, member in enumerate(_members(compiler, name))
            ),
        )
        for port in service.ports
        for name in (names.service_cluster(service.called_as, port.service_port),)
        if name in compiler.shared("sidecar", CLUSTER)
    )


def dns_records(service: Service, vip: Vip) -> Iterator[RecordFact]:
    """Yield the records of a service, as the zone compiles them."""
    return (
        RecordFact(name=name_text(owner), type=kind, ttl_s=ttl_s, data=data)
        for owner, answers in service_answers(service, vip).items()
        for answer in answers.values()
        for kind, ttl_s, data in map(read_record, answer.records)
    )


def _through(owner: Owner, port: EndpointPort) -> list[Target]:
    """The gateways that callers of a port are sent; none where they need none."""
    return [] if owner.direct else owner_targets(owner, port)


def _fate(owner: Owner, through: list[Target], ready: bool | None) -> tuple[Called, str]:
    """Whether callers reach an endpoint; `ready` is of its target in its cluster, None: it is left out."""
    if ready is None:
        return "no", f"not ready, while others of {owner.cluster} are"
    if owner.direct:
        if ready:
            return "yes", "ready"
        return "last resort", f"nothing of {owner.cluster} is ready: called when no owner has better"
    if not through:
        return "no", f"{owner.cluster} is on another network and has no gateway"
    by = ", ".join(target.name for target in through)
    if not ready:
        return (
            "last resort",
            f"nothing of {owner.cluster} is ready: called when no owner has better, behind {by}",
        )
    if not through[0].ready:
        return (
            "last resort",
            f"no gateway of {owner.cluster} is ready: called when no owner has better, behind {by}",
        )
    return "yes", f"ready, behind gateway {by}"


def _fact(endpoint: Endpoint, service_port: int, listen_port: int, called: Called, why: str) -> EndpointFact:
    return EndpointFact(
        name=endpoint.key.name,
        address=endpoint.address,
        service_port=service_port,
        listen_port=listen_port,
        ready=endpoint.ready,
        weight=endpoint.weight,
        called=called,
        why=why,
    )


def _ports(endpoint: Endpoint) -> Iterator[tuple[int, EndpointPort]]:
    """Its ports by number; of two with one number the first one counts, as in load assignments."""
    seen: dict[int, EndpointPort] = {}
    for port in endpoint.ports:
        seen.setdefault(port.service_port, port)
    return iter(seen.items())


def _called(ready: bool | None) -> Called:
    return "no" if ready is None else "yes" if ready else "last resort"


def _members(compiler: ViewCompiler, aggregate: str) -> Iterable[str]:
    cluster = Cluster.FromString(compiler.shared("sidecar", CLUSTER)[aggregate].message_bytes)
    return tuple(ClusterConfig.FromString(cluster.cluster_type.typed_config.value).clusters)


def _targets(compiler: ViewCompiler, member: str) -> Iterator[TargetFact]:
    assignment = ClusterLoadAssignment.FromString(compiler.shared("sidecar", ENDPOINTS)[member].message_bytes)
    for locality in assignment.endpoints:
        for each in locality.lb_endpoints:
            yield _target(locality.locality, each)


def _target(place: Any, each: Any) -> TargetFact:
    address = each.endpoint.address.socket_address
    return TargetFact(
        address=address.address,
        port=address.port_value,
        weight=each.load_balancing_weight.value,
        health=_HEALTH.get(each.health_status, "unknown"),
        region=place.region,
        zone=place.zone,
    )

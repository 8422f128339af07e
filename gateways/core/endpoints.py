"""Load assignments: which addresses stand behind a cluster now.

An endpoint that is not ready is left out while another one of its owner is. Where none is ready, all are sent
as unhealthy, the last resort: Envoy calls them only when no owner of the service has anything better. Probes of
a machine without breath fail everywhere at once, and a request that waits is better than "no healthy upstream".

An assignment stays as long as its cluster does, if need be without endpoints: Envoy ignores a removal and would
go on calling the old addresses.

A cluster that is being drained keeps its addresses and its place in the order. Its assignment says that it can
take so much per cent of what comes to it (Envoy's overprovisioning factor, 140 by default), and Envoy sends the rest to
the next owners, as it does when so many endpoints are unhealthy. So a step of a drain changes no route, listener or cluster:
what is under way ends where it began. Nothing is cut: where nobody else has a healthy endpoint, it gets everything.
At 0 it is the last owner in the view's order.

Addresses outside of all clusters that one checker misses are sent as degraded: Envoy calls them when none is left that
nobody misses, which by the default factor would begin as soon as a third of them is degraded.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from envoy.config.core.v3.base_pb2 import Locality
from envoy.config.endpoint.v3.endpoint_components_pb2 import LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.wrappers_pb2 import UInt32Value

from discovery.core.model import Endpoint, EndpointPort, Protocol
from discovery.core.view import Owner, Service
from gateways.core import affinity, names
from gateways.core.clusters import address_endpoint
from gateways.core.wire import ENDPOINTS, XdsResource, make_resource

# Envoy wants 1 to 2^32-1 for each weight, and the same for the sum over a locality.
WEIGHT_MAX = 128


class Target(NamedTuple):
    """One address of a load assignment, before it is written as Envoy wants it."""

    name: str  # Of the endpoint or gateway.
    address: str
    port: int
    weight: int
    ready: bool  # False: the last resort, sent as unhealthy.
    region: str
    zone: str
    suspect: bool = False  # True: called when nothing else is left that is ready.


def owner_targets(owner: Owner, port: EndpointPort) -> list[Target]:
    """What callers of a service's port get of one owner: its endpoints, or from another network its gateways."""
    if not owner.serves(port):
        return []
    behind = endpoint_targets(owner.endpoints, port.service_port, port.protocol)
    if owner.external:
        return [target._replace(suspect=target.name in owner.suspects) for target in behind]
    return behind if owner.direct else _gateway_targets(owner, behind)


def endpoint_targets(endpoints: Iterable[Endpoint], service_port: int, protocol: Protocol) -> list[Target]:
    """The ready ones of these endpoints that serve a port; where none is, all of them as the last resort."""
    found = [
        (endpoint, listen_port)
        for endpoint in endpoints
        if (listen_port := _listen_port(endpoint, service_port, protocol)) is not None
    ]
    ready = [(endpoint, listen_port) for endpoint, listen_port in found if endpoint.ready]
    return [
        Target(
            name=endpoint.key.name,
            address=endpoint.address,
            port=listen_port,
            weight=min(max(endpoint.weight, 1), WEIGHT_MAX),
            ready=bool(ready),
            region=endpoint.region,
            zone=endpoint.zone,
        )
        for endpoint, listen_port in ready or found
    ]


def service_endpoints(service: Service, port: EndpointPort) -> list[XdsResource]:
    """Return one assignment per owner that serves one port of a service."""
    return [
        _assignment(
            names.owner_cluster(service.key, port.service_port, owner.part),
            owner_targets(owner, port),
            share_percent=owner.share_percent,
            one_is_enough=owner.external or affinity.is_sticky(service),
        )
        for owner in service.owners
        if owner.serves(port)
    ]


def gateway_endpoints(service: Service, service_port: int) -> XdsResource:
    """Return the assignment behind an SNI at a gateway: the ready endpoints of its own cluster.

    What the service is settled to speak there is no matter: other clusters may see it otherwise.
    """
    targets = [
        target
        for owner in service.owners
        if owner.local and not owner.external and (spoken := owner.spoken_at(service_port)) is not None
        for target in endpoint_targets(owner.endpoints, service_port, spoken)
    ]
    return _assignment(names.service_sni(service.key, service_port), targets)


def _assignment(
    name: str,
    targets: Sequence[Target],
    *,
    share_percent: int = 100,
    one_is_enough: bool = False,
) -> XdsResource:
    places: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for target in targets:
        places[target.region, target.zone].append(
            address_endpoint(
                target.address, target.port, weight=target.weight, ready=target.ready, suspect=target.suspect
            )
        )
    localities = [
        _locality(region, zone, lb_endpoints) for (region, zone), lb_endpoints in sorted(places.items())
    ]
    assignment = ClusterLoadAssignment(cluster_name=name, endpoints=localities)
    if 0 < share_percent < 100:
        assignment.policy.overprovisioning_factor.value = share_percent
    elif one_is_enough and targets:
        assignment.policy.overprovisioning_factor.value = affinity.overprovisioning(len(targets))
    return make_resource(ENDPOINTS, name, assignment)


def _gateway_targets(owner: Owner, behind: Sequence[Target]) -> list[Target]:
    """The gateways of an owner, for a port behind which these targets stand; none for a port of nobody's."""
    if not owner.gateways or not behind:
        return []
    ready_count = sum(target.ready for target in behind)
    ready = [gateway for gateway in owner.gateways if gateway.ready]
    gateways = ready or owner.gateways
    # What the owner has ready is shared out among its gateways; rounding up keeps each one in use.
    weight = min(max(-(-ready_count // len(gateways)), 1), WEIGHT_MAX)
    return [
        Target(
            name=gateway.name,
            address=gateway.address,
            port=gateway.port,
            weight=weight,
            ready=bool(ready and ready_count),
            region=owner.region,
            zone=owner.zone,
        )
        for gateway in gateways
    ]


def _locality(region: str, zone: str, lb_endpoints: list[Any]) -> Any:
    total = sum(lb_endpoint.load_balancing_weight.value for lb_endpoint in lb_endpoints)
    return LocalityLbEndpoints(
        locality=Locality(region=region, zone=zone),
        lb_endpoints=lb_endpoints,
        load_balancing_weight=UInt32Value(value=total),
    )


def _listen_port(endpoint: Endpoint, service_port: int, protocol: Protocol) -> int | None:
    for port in endpoint.ports:
        if (port.service_port, port.protocol) == (service_port, protocol):
            return port.listen_port
    return None

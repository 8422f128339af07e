"""Load assignments: which addresses stand behind a cluster now.

An endpoint that is not ready is left out while another one of its owner is. Where none is ready, all are sent
as unhealthy, the last resort: Envoy calls them only when no owner of the service has anything better. Probes of
a machine without breath fail everywhere at once, and a request that waits is better than "no healthy upstream".

An assignment without endpoints is sent as such and never removed: Envoy ignores a removal and would go on
calling the old addresses.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3.base_pb2 import Locality
from envoy.config.endpoint.v3.endpoint_components_pb2 import LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.wrappers_pb2 import UInt32Value

from discovery.core.model import Endpoint, EndpointPort
from discovery.core.view import Owner, Service
from gateways.core import names
from gateways.core.clusters import address_endpoint
from gateways.core.wire import ENDPOINTS, XdsResource, make_resource

# Envoy wants 1 to 2^32-1 for each weight, and the same for the sum over a locality.
WEIGHT_MAX = 128


def service_endpoints(service: Service, port: EndpointPort) -> list[XdsResource]:
    """Return one assignment per owner of one port of a service."""
    return [
        _assignment(
            names.owner_cluster(service.key, port.service_port, owner.cluster),
            _direct(owner.endpoints, port.service_port) if owner.direct else _through_gateways(owner),
        )
        for owner in service.owners
    ]


def gateway_endpoints(service: Service, port: EndpointPort) -> XdsResource:
    """Return the assignment behind an SNI at a gateway: the ready endpoints of its own cluster."""
    own = [endpoint for owner in service.owners if owner.local for endpoint in owner.endpoints]
    return _assignment(names.service_sni(service.key, port.service_port), _direct(own, port.service_port))


def _assignment(name: str, localities: list[Any]) -> XdsResource:
    return make_resource(ENDPOINTS, name, ClusterLoadAssignment(cluster_name=name, endpoints=localities))


def _direct(endpoints: Iterable[Endpoint], service_port: int) -> list[Any]:
    found = [
        (endpoint, listen_port)
        for endpoint in endpoints
        if (listen_port := _listen_port(endpoint, service_port)) is not None
    ]
    ready = [(endpoint, listen_port) for endpoint, listen_port in found if endpoint.ready]
    places: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for endpoint, listen_port in ready or found:
        weight = min(max(endpoint.weight, 1), WEIGHT_MAX)
        places[endpoint.region, endpoint.zone].append(
            address_endpoint(endpoint.address, listen_port, weight=weight, ready=bool(ready))
        )
    return [_locality(region, zone, lb_endpoints) for (region, zone), lb_endpoints in sorted(places.items())]


def _through_gateways(owner: Owner) -> list[Any]:
    if not owner.gateways or not owner.endpoints:
        return []
    ready = [gateway for gateway in owner.gateways if gateway.ready]
    gateways = ready or owner.gateways
    # What the owner has ready is shared out among its gateways; rounding up keeps each one in use.
    weight = min(max(-(-owner.ready_count // len(gateways)), 1), WEIGHT_MAX)
    return [
        _locality(
            owner.region,
            owner.zone,
            [
                address_endpoint(
                    gateway.address, gateway.port, weight=weight, ready=bool(ready and owner.ready_count)
                )
                for gateway in gateways
            ],
        )
    ]


def _locality(region: str, zone: str, lb_endpoints: list[Any]) -> Any:
    total = sum(lb_endpoint.load_balancing_weight.value for lb_endpoint in lb_endpoints)
    return LocalityLbEndpoints(
        locality=Locality(region=region, zone=zone),
        lb_endpoints=lb_endpoints,
        load_balancing_weight=UInt32Value(value=total),
    )


def _listen_port(endpoint: Endpoint, service_port: int) -> int | None:
    for port in endpoint.ports:
        if port.service_port == service_port:
            return port.listen_port
    return None

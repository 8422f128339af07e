"""Reading generated resources back, for assertions."""

from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.clusters.aggregate.v3.cluster_pb2 import ClusterConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext

from gateways.core.wire import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, XdsResource

_MESSAGES = {
    CLUSTER: Cluster,
    ENDPOINTS: ClusterLoadAssignment,
    LISTENER: Listener,
    ROUTES: RouteConfiguration,
    SECRET: Secret,
}


def decode(resource: XdsResource) -> Any:
    return _MESSAGES[resource.type_url].FromString(resource.message_bytes)


def upstream_tls(cluster: Any) -> Any:
    return UpstreamTlsContext.FromString(cluster.transport_socket.typed_config.value)


def downstream_tls(chain: Any) -> Any:
    return DownstreamTlsContext.FromString(chain.transport_socket.typed_config.value)


def http_manager(chain: Any) -> Any:
    return HttpConnectionManager.FromString(chain.filters[-1].typed_config.value)


def members(aggregate: Any) -> list[str]:
    return list(ClusterConfig.FromString(aggregate.cluster_type.typed_config.value).clusters)


def addresses(assignment: Any) -> list[str]:
    return [
        f"{each.endpoint.address.socket_address.address}:{each.endpoint.address.socket_address.port_value}"
        for locality in assignment.endpoints
        for each in locality.lb_endpoints
    ]


def references(resource: XdsResource) -> Iterator[tuple[str, str]]:
    """What a resource refers to, as (type, name): all of it must exist (invariant G1)."""
    message = decode(resource)
    match resource.type_url:
        case type_url if type_url == CLUSTER:
            yield from _cluster_references(message)
        case type_url if type_url == LISTENER:
            for chain in message.filter_chains:
                if chain.HasField("transport_socket"):
                    yield from _tls_references(downstream_tls(chain).common_tls_context)
                if chain.filters[-1].name.endswith("http_connection_manager"):
                    manager = http_manager(chain)
                    if manager.HasField("rds"):
                        yield ROUTES, manager.rds.route_config_name
        case type_url if type_url == ROUTES:
            for host in message.virtual_hosts:
                for route in host.routes:
                    if route.HasField("route"):
                        yield CLUSTER, route.route.cluster
        case _:
            return


def _cluster_references(message: Any) -> Iterator[tuple[str, str]]:
    if message.type == Cluster.EDS:
        yield ENDPOINTS, message.name
    if message.HasField("cluster_type"):
        yield from ((CLUSTER, name) for name in members(message))
    if message.HasField("transport_socket"):
        yield from _tls_references(upstream_tls(message).common_tls_context)
    for match in message.transport_socket_matches:
        context = UpstreamTlsContext.FromString(match.transport_socket.typed_config.value)
        yield from _tls_references(context.common_tls_context)


def _tls_references(common: Any) -> Iterator[tuple[str, str]]:
    for certificate in common.tls_certificate_sds_secret_configs:
        yield SECRET, certificate.name
    name = common.combined_validation_context.validation_context_sds_secret_config.name
    if name:
        yield SECRET, name

"""Envoy clusters: one per owning cluster of a service, and an aggregate that orders them.

A service that lives in three clusters is four Envoy clusters: three with the trust domain, identities,
circuit breaker and outlier detection of one owner each, and an aggregate that tries them in the view's
order (own cluster first).

The numbers below are the measured recipe under which killing or freezing an endpoint, a gateway or a whole owner
fails no idempotent request with a deadline of 2 s, also where owners are 250 ms of round trip apart; each says
what it is for, `tests/unit/gateways/test_budgets.py` how they hang together, and ADR 0003 what was measured
(2026-11-23, 2 cores) with these and with others.
"""

from collections.abc import Sequence
from typing import Any

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.health_check_pb2 import DEGRADED, UNHEALTHY, UNKNOWN, HealthCheck
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, KeepaliveSettings
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.clusters.aggregate.v3.cluster_pb2 import ClusterConfig
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.http_pb2 import HTTP2
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from discovery.core.model import EndpointPort
from discovery.core.view import Owner, Service
from gateways.core import affinity, names
from gateways.core.proxy import Workload, WorkloadPort
from gateways.core.tls import gateway_health_tls, upstream_tls
from gateways.core.wire import CLUSTER, XdsResource, ads, duration, make_resource, pack_any

# Within the own cluster. Elsewhere the handshakes of TCP and TLS take two round trips of up to 250 ms each.
CONNECT_TIMEOUT_MS = 500
FAR_CONNECT_TIMEOUT_MS = 1_000
# Of captured connections to what is no service: as patient as the application might be.
PASSTHROUGH_CONNECT_TIMEOUT_MS = 30_000
PASSTHROUGH_CONNECTIONS_MAX = 50_000
# A connection on which nothing comes back is given up within the sum of both: 0.75 s, or 0.95 s elsewhere. What
# counts as a false alarm is the second alone: a peer, or the way to it, that stood still for half a second. Then
# what is under way on that one connection is reset, and repeated if its method is idempotent. The clock runs from
# the first packet of a connection, so a far one needs three round trips before it can be heard of.
KEEPALIVE_INTERVAL_MS = 250
FAR_KEEPALIVE_INTERVAL_MS = 450
KEEPALIVE_TIMEOUT_MS = 500
# Envoy's default of 3 concurrent retries would break failover; 10,000 still bounds a runaway caller.
RETRIES_MAX = 1_000
REQUESTS_MAX = 10_000
# Two failures of the network in a row, and the endpoint rests, longer when it fails again. Every end of a rest
# costs a few requests a retry, and where nobody answers at all, a wait for the connection that is not made.
LOCAL_FAILURES_TO_EJECT = 2
OUTLIER_INTERVAL_MS = 500
EJECTION_MS = 3_000
EJECTION_MAX_MS = 9_000
# A gateway rests until its checks of health must have failed, which then keep traffic away for good. They do not
# end its rest: a gateway may be well while what it passes connections on to is not.
GATEWAY_EJECTION_MS = 8_000
# Gateways only. A healthy one without traffic is asked once a minute; one believed dead every 2 s, so that
# a failover target that was restarted is not thought dead when it is needed.
HEALTH_INTERVAL_MS = 2_000
HEALTH_INTERVAL_IDLE_DEAD_MS = 2_000
HEALTH_INTERVAL_IDLE_MS = 60_000
# The first check needs three round trips.
HEALTH_TIMEOUT_MS = 1_500
HEALTH_FAILURES_TO_REJECT = 2
# Envoy tells its workers of a second change of health within this time only at its end. By default that is
# a second, in which requests go to endpoints known to be dead and not to those known to live.
HEALTH_MERGE_WINDOW_MS = 10
HEALTH_PATH = "/healthz"

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HEALTH_CRITERIA = {"isthmus": "gateway-health"}


def service_clusters(service: Service, port: EndpointPort) -> list[XdsResource]:
    """Return the clusters of one port of a service, members before the aggregate that names them.

    Only who serves the port is a member: a gateway passes nothing on for a port that nobody has behind it, and
    a call that ends there fails instead of moving on. Envoy takes no aggregate without members, so a port that
    nobody serves has no clusters at all.
    """
    members = [_owner_cluster(service, port, owner) for owner in service.owners if owner.serves(port)]
    if not members:
        return []
    aggregate = _aggregate(
        names.service_cluster(service.key, port.service_port), [member.name for member in members]
    )
    return [make_resource(CLUSTER, cluster.name, cluster) for cluster in (*members, aggregate)]


def gateway_cluster(service: Service, service_port: int) -> XdsResource:
    """Return the cluster to which a gateway passes connections of this SNI: its existence is the export."""
    cluster = _eds_cluster(names.service_sni(service.key, service_port))
    if affinity.is_sticky(service):
        affinity.choose_by_caller(cluster)
    return make_resource(CLUSTER, cluster.name, cluster)


def application_cluster(workload: Workload, port: WorkloadPort) -> XdsResource:
    """Return the cluster of the application itself, one address behind the sidecar."""
    name = names.inbound_cluster(workload.key, port.service_port)
    cluster = Cluster(
        name=name,
        type=Cluster.STATIC,
        connect_timeout=duration(CONNECT_TIMEOUT_MS),
        circuit_breakers=_circuit_breakers(),
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[address_endpoint(port.app_address, port.app_port)])],
        ),
    )
    return make_resource(CLUSTER, name, cluster)


def passthrough_cluster() -> XdsResource:
    """Return the cluster that passes a captured connection on to where it was bound for."""
    cluster = Cluster(
        name=names.PASSTHROUGH,
        type=Cluster.ORIGINAL_DST,
        lb_policy=Cluster.CLUSTER_PROVIDED,
        connect_timeout=duration(PASSTHROUGH_CONNECT_TIMEOUT_MS),
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakers.Thresholds(
                    max_connections=UInt32Value(value=PASSTHROUGH_CONNECTIONS_MAX),
                    max_pending_requests=UInt32Value(value=PASSTHROUGH_CONNECTIONS_MAX),
                )
            ]
        ),
    )
    return make_resource(CLUSTER, cluster.name, cluster)


def socket_address(address: str, port: int) -> Any:
    """Return an IP address and port as Envoy writes them."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))


def address_endpoint(
    address: str, port: int, *, weight: int = 1, ready: bool = True, suspect: bool = False
) -> Any:
    """Return one endpoint of a load assignment; one that is not ready is called when nothing is, a suspect before that."""
    return LbEndpoint(
        endpoint=Endpoint(address=socket_address(address, port)),
        health_status=UNHEALTHY if not ready else DEGRADED if suspect else UNKNOWN,
        load_balancing_weight=UInt32Value(value=weight),
    )


def _aggregate(name: str, members: Sequence[str]) -> Any:
    return Cluster(
        name=name,
        connect_timeout=duration(CONNECT_TIMEOUT_MS),
        lb_policy=Cluster.CLUSTER_PROVIDED,
        cluster_type=Cluster.CustomClusterType(
            name="envoy.clusters.aggregate", typed_config=pack_any(ClusterConfig(clusters=members))
        ),
        # The router counts requests and retries against the cluster that the route names.
        circuit_breakers=_circuit_breakers(),
        common_lb_config=_load_balancing(),
    )


def _owner_cluster(service: Service, port: EndpointPort, owner: Owner) -> Any:
    cluster = _eds_cluster(names.owner_cluster(service.key, port.service_port, owner.part))
    if not owner.external:
        # There nobody shows an identity, and HTTP/1.1 is spoken.
        _secure(cluster, service, port, owner)
    if not owner.local or owner.external:
        cluster.connect_timeout.CopyFrom(duration(FAR_CONNECT_TIMEOUT_MS))
    if not owner.direct:
        # One gateway is as good as another, and a retry by turns comes to the other one at once.
        cluster.lb_policy = Cluster.ROUND_ROBIN
        _check_gateway_health(cluster, owner)
    if affinity.is_sticky(service):
        affinity.choose_by_caller(cluster)
    return cluster


def _secure(cluster: Any, service: Service, port: EndpointPort, owner: Owner) -> None:
    """Insist on mutual TLS with the identities of `owner` and, for HTTP, on pings that find dead connections."""
    cluster.transport_socket.CopyFrom(
        upstream_tls(
            sni=names.service_sni(service.key, port.service_port),
            trust_domain=owner.trust_domain,
            identities=owner.identities,
            http=port.protocol == "http",
            other_trust_domain=owner.other_trust_domain,
        )
    )
    if port.protocol == "http":
        _set_http2(cluster, KEEPALIVE_INTERVAL_MS if owner.local else FAR_KEEPALIVE_INTERVAL_MS)


def _eds_cluster(name: str) -> Any:
    return Cluster(
        name=name,
        type=Cluster.EDS,
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=ads()),
        connect_timeout=duration(CONNECT_TIMEOUT_MS),
        lb_policy=Cluster.LEAST_REQUEST,
        circuit_breakers=_circuit_breakers(),
        outlier_detection=_outlier_detection(),
        common_lb_config=_load_balancing(),
        # Otherwise an endpoint that was withdrawn but answers health checks keeps its traffic.
        ignore_health_on_host_removal=True,
    )


def _set_http2(cluster: Any, ping_interval_ms: int) -> None:
    keepalive = KeepaliveSettings(
        interval=duration(ping_interval_ms),
        # Connections begin at times of their own; the sum shall be exact.
        interval_jitter=Percent(value=0),
        timeout=duration(KEEPALIVE_TIMEOUT_MS),
    )
    options = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(connection_keepalive=keepalive)
        )
    )
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(pack_any(options))


def _check_gateway_health(cluster: Any, owner: Owner) -> None:
    """Ask the gateways of `owner` for their own health, over a connection that ends at them."""
    criteria = Struct()
    criteria.update(_HEALTH_CRITERIA)
    # Matched by the health check alone: endpoints carry no such metadata.
    cluster.transport_socket_matches.add(
        name="gateway-health",
        match=criteria,
        transport_socket=gateway_health_tls(
            trust_domain=owner.trust_domain,
            cluster=owner.cluster,
            other_trust_domain=owner.other_trust_domain,
        ),
    )
    cluster.outlier_detection.base_ejection_time.CopyFrom(duration(GATEWAY_EJECTION_MS))
    cluster.outlier_detection.max_ejection_time.CopyFrom(duration(GATEWAY_EJECTION_MS))
    cluster.outlier_detection.successful_active_health_check_uneject_host.value = False
    cluster.health_checks.add(
        timeout=duration(HEALTH_TIMEOUT_MS),
        interval=duration(HEALTH_INTERVAL_MS),
        no_traffic_interval=duration(HEALTH_INTERVAL_IDLE_DEAD_MS),
        no_traffic_healthy_interval=duration(HEALTH_INTERVAL_IDLE_MS),
        # Otherwise every proxy asks every gateway at the same moment after a push.
        interval_jitter_percent=10,
        unhealthy_threshold=UInt32Value(value=HEALTH_FAILURES_TO_REJECT),
        healthy_threshold=UInt32Value(value=1),
        http_health_check=HealthCheck.HttpHealthCheck(
            host=names.gateways_health_sni(owner.cluster), path=HEALTH_PATH, codec_client_type=HTTP2
        ),
        tls_options=HealthCheck.TlsOptions(alpn_protocols=["h2"]),
        transport_socket_match_criteria=criteria,
    )


def _circuit_breakers() -> Any:
    return CircuitBreakers(
        thresholds=[
            CircuitBreakers.Thresholds(
                max_retries=UInt32Value(value=RETRIES_MAX),
                max_requests=UInt32Value(value=REQUESTS_MAX),
                max_pending_requests=UInt32Value(value=REQUESTS_MAX),
                max_connections=UInt32Value(value=REQUESTS_MAX),
            )
        ]
    )


def _outlier_detection() -> Any:
    """Only what the network says ejects: an application's 5xx behind a gateway says nothing about it."""
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=UInt32Value(value=LOCAL_FAILURES_TO_EJECT),
        enforcing_consecutive_local_origin_failure=UInt32Value(value=100),
        enforcing_consecutive_5xx=UInt32Value(value=0),
        enforcing_consecutive_gateway_failure=UInt32Value(value=0),
        enforcing_success_rate=UInt32Value(value=0),
        enforcing_local_origin_success_rate=UInt32Value(value=0),
        interval=duration(OUTLIER_INTERVAL_MS),
        base_ejection_time=duration(EJECTION_MS),
        max_ejection_time=duration(EJECTION_MAX_MS),
        max_ejection_percent=UInt32Value(value=100),
        # All endpoints dead must read as dead, or the aggregate would not move on.
        always_eject_one_host=BoolValue(value=True),
    )


def _load_balancing() -> Any:
    """When every endpoint everywhere seems dead, try them all the same rather than fail for certain.

    The least threshold there is: as long as one owner has a healthy endpoint, only healthy ones are used.
    """
    return Cluster.CommonLbConfig(
        healthy_panic_threshold=Percent(value=1), update_merge_window=duration(HEALTH_MERGE_WINDOW_MS)
    )

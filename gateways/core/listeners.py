"""Listeners by which others come in: those in front of workloads, and the gateway's door."""

from collections.abc import Sequence
from typing import Any

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.health_check.v3.health_check_pb2 import HealthCheck
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from envoy.extensions.filters.network.sni_cluster.v3.sni_cluster_pb2 import SniCluster
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from discovery.core.view import Admission
from gateways.core import affinity, authorization, names
from gateways.core.clusters import HEALTH_PATH
from gateways.core.listener_parts import (
    BLACK_HOLE,
    http_filter,
    http_manager,
    make_listener,
    network_filter,
    router,
    tcp_proxy,
    websocket,
)
from gateways.core.proxy import Proxy, Workload, WorkloadPort
from gateways.core.routes import AUTHORIZATION_FILTER
from gateways.core.tls import health_server_tls, inbound_tls
from gateways.core.wire import LISTENER, XdsResource, ads, duration, make_resource, pack_any

GUARD_FILTER = "isthmus.one_identity"
GATEWAY_CONNECT_ATTEMPTS_MAX = 3
# A TLS hello that takes longer than this is not one.
TLS_HELLO_TIMEOUT_MS = 5_000

# Headers by which a caller would steer our router: retries, timeouts, routing. Not from another workload.
STEERING_HEADERS = (
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-max-retries",
    "x-envoy-original-dst-host",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
)


def inbound_listener(
    proxy: Proxy, workload: Workload, port: WorkloadPort, admission: Admission
) -> XdsResource:
    """Return the listener in front of one port of a workload: mutual TLS, the guard, then the rules."""
    chain = (
        _inbound_http(workload, port) if port.protocol == "http" else _inbound_tcp(workload, port, admission)
    )
    name = names.inbound_listener(port.listen_port)
    return make_resource(LISTENER, name, make_listener(name, proxy.address, port.listen_port, [chain]))


def gateway_listener(proxy: Proxy) -> XdsResource:
    """Return a gateway's listener: TLS to services is passed on unread, by its SNI; health ends here."""
    passing = FilterChain(
        name="services",
        filter_chain_match=FilterChainMatch(server_names=[names.SERVICE_SNI_SUFFIX]),
        filters=[
            network_filter("envoy.filters.network.sni_cluster", SniCluster()),
            tcp_proxy(
                TcpProxy(
                    stat_prefix="eastwest",
                    cluster=BLACK_HOLE,  # Of an SNI that no exported service has.
                    max_connect_attempts=UInt32Value(value=GATEWAY_CONNECT_ATTEMPTS_MAX),
                    hash_policy=affinity.hash_of_connections(named=False),
                )
            ),
        ],
    )
    health_names = (
        names.gateway_health_sni(proxy.gateway_name, proxy.cluster),
        names.gateways_health_sni(proxy.cluster),
    )
    inspector = ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=pack_any(TlsInspector())
    )
    listener = make_listener(
        names.GATEWAY_LISTENER,
        proxy.address,
        proxy.gateway_port,
        [passing, _health_chain(health_names)],
    )
    listener.listener_filters.append(inspector)
    listener.listener_filters_timeout.CopyFrom(duration(TLS_HELLO_TIMEOUT_MS))
    return make_resource(LISTENER, listener.name, listener)


def _inbound_http(workload: Workload, port: WorkloadPort) -> Any:
    manager = HttpConnectionManager(
        stat_prefix="inbound",
        rds=Rds(
            config_source=ads(),
            route_config_name=names.inbound_cluster(workload.key, port.service_port),
        ),
        http_filters=[
            http_filter(GUARD_FILTER, authorization.one_identity_guard()),
            http_filter(AUTHORIZATION_FILTER, authorization.nobody()),
            router(),
        ],
        # The application learns the caller from us alone; what the caller claims is removed.
        forward_client_cert_details=HttpConnectionManager.SANITIZE_SET,
        set_current_client_cert_details=HttpConnectionManager.SetCurrentClientCertDetails(uri=True),
        early_header_mutation_extensions=[_steering_removed()],
        upgrade_configs=[websocket()],
    )
    return FilterChain(filters=[http_manager(manager)], transport_socket=inbound_tls(alpn=("h2", "http/1.1")))


def _inbound_tcp(workload: Workload, port: WorkloadPort, admission: Admission) -> Any:
    name = names.inbound_cluster(workload.key, port.service_port)
    return FilterChain(
        filters=[
            network_filter("envoy.filters.network.rbac", authorization.one_identity_guard_tcp()),
            network_filter("envoy.filters.network.rbac", authorization.admit_tcp(admission)),
            tcp_proxy(TcpProxy(stat_prefix="inbound", cluster=name)),
        ],
        # The TCP filters speak up at the caller's first byte, and some protocols let the server speak
        # first; the handshake therefore asks for the admitted identities too.
        transport_socket=inbound_tls(alpn=(), uri_matchers=authorization.uri_matchers(admission)),
    )


def _health_chain(server_names: Sequence[str]) -> Any:
    # Envoy's own filter, because it answers 503 once the gateway drains.
    health = HealthCheck(
        pass_through_mode=BoolValue(value=False),
        headers=[HeaderMatcher(name=":path", string_match=StringMatcher(exact=HEALTH_PATH))],
    )
    not_here = Route(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=404))
    manager = HttpConnectionManager(
        stat_prefix="health",
        route_config=RouteConfiguration(
            name="health", virtual_hosts=[VirtualHost(name="health", domains=["*"], routes=[not_here])]
        ),
        http_filters=[http_filter("envoy.filters.http.health_check", health), router()],
    )
    return FilterChain(
        name="health",
        filter_chain_match=FilterChainMatch(server_names=server_names),
        filters=[http_manager(manager)],
        transport_socket=health_server_tls(),
    )


def _steering_removed() -> Any:
    mutation = EarlyHeaderMutation(mutations=[HeaderMutation(remove=name) for name in STEERING_HEADERS])
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=pack_any(mutation)
    )

"""Listeners through which the applications of a host call others.

* By Host header at the sidecar's outbound address: always.
* By a local address for one TCP service (`[[outbound_tcp]]`).
* By the clusterset address that DNS answers, where the host's connections are redirected to the outbound
  address (transparent capture): the listener there looks up where a connection was bound for and hands it
  to the listener of that address, of which nothing is bound. What is bound for no service goes on to where
  it was bound for, as bytes: nothing is detected, so nothing waits for an application's first byte and
  protocols in which the server speaks first work.
"""

from typing import Any

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.listener.v3.listener_components_pb2 import FilterChain, FilterChainMatch
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from discovery.core.model import EndpointPort, ServiceKey
from discovery.core.vips import VIP_PREFIX
from gateways.core import affinity, names
from gateways.core.listener_parts import (
    BLACK_HOLE,
    connect_retries,
    http_manager,
    make_listener,
    network_filter,
    router,
    tcp_proxy,
    websocket,
)
from gateways.core.proxy import OutboundTcp, Proxy
from gateways.core.routes import (
    RETRIES_PER_REQUEST_MAX,
    RETRY_BACKOFF_MAX_MS,
    RETRY_BACKOFF_MS,
    service_routes,
)
from gateways.core.wire import LISTENER, XdsResource, ads, duration, make_resource

# As often as a request is tried: two failures rest an endpoint, so all owners get their turn.
TCP_CONNECT_ATTEMPTS_MAX = 1 + RETRIES_PER_REQUEST_MAX


def outbound_listener(proxy: Proxy, address: str, port: int) -> XdsResource:
    """Return the listener through which the sidecar's applications call others by Host header."""
    return _resource(make_listener(names.OUTBOUND_LISTENER, address, port, [_by_host(proxy)]))


def capturing_listener(proxy: Proxy, address: str, port: int) -> XdsResource:
    """Return the same, to which the connections of the host's applications are redirected too.

    It keeps only those that are bound for itself (then it routes by Host header), for a clusterset address
    that no service has (closed), or for elsewhere (passed on).
    """
    by_host = _by_host(proxy)
    by_host.filter_chain_match.CopyFrom(
        FilterChainMatch(destination_port=UInt32Value(value=port), prefix_ranges=[_range(address, 32)])
    )
    nobody = FilterChain(
        name="no-service",
        filter_chain_match=FilterChainMatch(
            prefix_ranges=[_range(str(VIP_PREFIX.network_address), VIP_PREFIX.prefixlen)]
        ),
        filters=[tcp_proxy(TcpProxy(stat_prefix="no-service", cluster=BLACK_HOLE))],
    )
    listener = make_listener(names.OUTBOUND_LISTENER, address, port, [by_host, nobody])
    listener.use_original_dst.value = True
    # Whether an idle connection lives is for its two ends to say, not for somebody between them.
    passing = TcpProxy(stat_prefix="passthrough", cluster=names.PASSTHROUGH, idle_timeout=duration(0))
    listener.default_filter_chain.CopyFrom(FilterChain(name="passthrough", filters=[tcp_proxy(passing)]))
    return _resource(listener)


def captured_listener(key: ServiceKey, port: EndpointPort, vip: str) -> XdsResource:
    """Return the listener of one port at a service's clusterset address.

    The address alone says which service is meant; an HTTP request's Host header is passed on as it is.
    """
    if port.protocol == "http":
        manager = HttpConnectionManager(
            stat_prefix="captured",
            route_config=service_routes(key, port),
            http_filters=[router()],
            upgrade_configs=[websocket()],
        )
        chain = FilterChain(filters=[http_manager(manager)])
    else:
        chain = FilterChain(filters=[_to_service(key, port.service_port, "captured_tcp", named=False)])
    listener = make_listener(names.captured_listener(vip, port.service_port), vip, port.service_port, [chain])
    listener.bind_to_port.CopyFrom(BoolValue(value=False))
    return _resource(listener)


def outbound_tcp_listener(proxy: Proxy, outbound: OutboundTcp, called_as: ServiceKey) -> XdsResource:
    """Return the listener of a local address that stands for one TCP port of a service, called as proxies know it."""
    name = names.outbound_tcp_listener(outbound.address, outbound.listen_port)
    passing = _to_service(called_as, outbound.service_port, "outbound_tcp", named=True)
    chain = FilterChain(filters=[_say_who_calls(proxy), passing])
    return _resource(make_listener(name, outbound.address, outbound.listen_port, [chain]))


def _by_host(proxy: Proxy) -> Any:
    manager = HttpConnectionManager(
        stat_prefix="outbound",
        rds=Rds(config_source=ads(), route_config_name=names.OUTBOUND_ROUTES),
        http_filters=[router()],
        strip_trailing_host_dot=True,
        upgrade_configs=[websocket()],
    )
    return FilterChain(filters=[_say_who_calls(proxy), http_manager(manager)])


def _say_who_calls(proxy: Proxy) -> Any:
    return network_filter(affinity.CALLER_FILTER, affinity.caller_config(proxy.address))


def _to_service(key: ServiceKey, service_port: int, stat_prefix: str, *, named: bool) -> Any:
    retries = connect_retries(
        TCP_CONNECT_ATTEMPTS_MAX, base_ms=RETRY_BACKOFF_MS, longest_ms=RETRY_BACKOFF_MAX_MS
    )
    return tcp_proxy(
        TcpProxy(
            stat_prefix=stat_prefix,
            cluster=names.service_cluster(key, service_port),
            hash_policy=affinity.hash_of_connections(named=named),
            **retries,
        )
    )


def _range(address: str, bits: int) -> Any:
    return CidrRange(address_prefix=address, prefix_len=UInt32Value(value=bits))


def _resource(listener: Any) -> XdsResource:
    return make_resource(LISTENER, listener.name, listener)

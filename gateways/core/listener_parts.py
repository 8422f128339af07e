"""The pieces that listeners are made of.

Every listener refuses to share its address (`enable_reuse_port: false`): otherwise a second Envoy on the
same address would silently take half of the connections.
"""

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3.backoff_pb2 import BackoffStrategy
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from gateways.core.clusters import socket_address
from gateways.core.wire import duration, pack_any

# The cluster that is never defined: a connection sent to it is closed.
BLACK_HOLE = "BlackHole"


def make_listener(name: str, address: str, port: int, chains: Sequence[Any]) -> Any:
    """Return a listener of its own address."""
    return Listener(
        name=name,
        address=socket_address(address, port),
        filter_chains=chains,
        enable_reuse_port=BoolValue(value=False),
    )


def http_manager(manager: Any) -> Any:
    """Return the network filter that speaks HTTP, with paths normalized before anything judges them."""
    manager.normalize_path.value = True
    return network_filter("envoy.filters.network.http_connection_manager", manager)


def websocket() -> Any:
    """Return the upgrade that every HTTP listener allows."""
    return HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")


def router() -> Any:
    """Return the last HTTP filter."""
    return http_filter("envoy.filters.http.router", Router())


def tcp_proxy(proxy: TcpProxy) -> Any:
    """Return the network filter that passes bytes on."""
    return network_filter("envoy.filters.network.tcp_proxy", proxy)


def connect_retries(attempts_max: int, *, base_ms: int, longest_ms: int) -> dict[str, Any]:
    """Return the fields of a TcpProxy that make it try again while nothing was delivered."""
    backoff = BackoffStrategy(base_interval=duration(base_ms), max_interval=duration(longest_ms))
    return {"max_connect_attempts": UInt32Value(value=attempts_max), "backoff_options": backoff}


def http_filter(name: str, config: Message) -> Any:
    """Return one HTTP filter."""
    return HttpFilter(name=name, typed_config=pack_any(config))


def network_filter(name: str, config: Message) -> Any:
    """Return one network filter."""
    return Filter(name=name, typed_config=pack_any(config))

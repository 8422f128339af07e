"""By what callers are told apart, and which clusters care."""

import msgspec
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2 import Config
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from discovery.core.model import ServiceKey
from gateways.core import affinity, clusters, endpoints, listeners, names, outbound
from gateways.core.compile import ProxyConfig, ViewCompiler
from gateways.core.proxy import OutboundTcp, Proxy
from gateways.core.wire import CLUSTER, LISTENER, ROUTES
from tests.unit.gateways.builders import ORDERS, DictView, endpoint, gateway, owner, roots, service, sidecar
from tests.unit.gateways.decoding import decode, http_manager

LEDGER = ServiceKey("bank", "ledger")
LOCAL_LEDGER = OutboundTcp(
    namespace="bank", service="ledger", service_port=5432, address="127.105.0.1", listen_port=15432
)


def a_service(affinity_asked="ClientIP", *, count=3, share_percent=100):
    rows = [endpoint("alpha", f"e{number}", address=f"127.105.0.{number + 1}") for number in range(count)]
    far = owner("beta", [endpoint("beta")], gateways=[gateway("beta")])
    near = owner("alpha", rows, local=True, share_percent=share_percent)
    return service(near, far, affinity=affinity_asked)


@pytest.mark.parametrize(
    ("asked", "near", "far", "behind_gateway"),
    [
        ("None", Cluster.LEAST_REQUEST, Cluster.ROUND_ROBIN, Cluster.LEAST_REQUEST),
        ("ClientIP", Cluster.MAGLEV, Cluster.MAGLEV, Cluster.MAGLEV),
    ],
)
def test_only_services_with_affinity_choose_by_who_calls(asked, near, far, behind_gateway):
    found = a_service(asked)
    made = {each.name: decode(each) for each in clusters.service_clusters(found, found.ports[0])}
    assert made[names.owner_cluster(ORDERS, 8080, "alpha")].lb_policy == near
    assert made[names.owner_cluster(ORDERS, 8080, "beta")].lb_policy == far
    # Among owners order and health decide as ever.
    assert made[names.service_cluster(ORDERS, 8080)].lb_policy == Cluster.CLUSTER_PROVIDED
    assert decode(clusters.gateway_cluster(found, 8080)).lb_policy == behind_gateway


@pytest.mark.parametrize(
    ("asked", "count", "share_percent", "expected"),
    [
        pytest.param("None", 3, 100, 0, id="envoys-default"),
        pytest.param("ClientIP", 3, 100, 300, id="one-of-three-takes-all"),
        pytest.param("ClientIP", 1, 100, 140, id="never-less-than-the-default"),
        pytest.param("ClientIP", 3, 25, 25, id="a-drain-comes-first"),
    ],
)
def test_an_owner_keeps_its_callers_as_long_as_one_of_its_endpoints_is_healthy(
    asked, count, share_percent, expected
):
    found = a_service(asked, count=count, share_percent=share_percent)
    near = decode(endpoints.service_endpoints(found, found.ports[0])[0])
    assert near.policy.overprovisioning_factor.value == expected


def said(chain) -> str:
    first = chain.filters[0]
    assert first.name == affinity.CALLER_FILTER
    (value,) = Config.FromString(first.typed_config.value).on_new_connection
    assert (value.object_key, value.factory_key) == (affinity.CALLER_KEY, "envoy.hashable_string")
    return value.format_string.text_format_source.inline_string


@pytest.mark.parametrize(
    ("address", "expected"), [("127.105.0.7", "127.105.0.7"), ("fe80::1%eth0", "fe80::1%%eth0")]
)
def test_a_sidecars_own_listeners_say_which_host_calls(address, expected):
    proxy = sidecar(address=address)
    by_host = decode(outbound.outbound_listener(proxy, "127.105.0.1", 15001)).filter_chains[0]
    assert said(by_host) == expected
    capturing = decode(outbound.capturing_listener(proxy, "127.105.0.1", 15001)).filter_chains[0]
    assert said(capturing) == expected
    local = decode(outbound.outbound_tcp_listener(proxy, LOCAL_LEDGER, LEDGER)).filter_chains[0]
    assert said(local) == expected
    (policy,) = TcpProxy.FromString(local.filters[-1].typed_config.value).hash_policy
    assert policy.filter_state.key == affinity.CALLER_KEY


def test_where_connections_keep_their_source_that_is_hashed():
    http, tcp = a_service().ports[0], msgspec.structs.replace(a_service().ports[0], protocol="tcp")
    chain = decode(outbound.captured_listener(LEDGER, tcp, "241.0.0.1")).filter_chains[0]
    (policy,) = TcpProxy.FromString(chain.filters[-1].typed_config.value).hash_policy
    assert policy.HasField("source_ip")
    chain = decode(outbound.captured_listener(ORDERS, http, "241.0.0.1")).filter_chains[0]
    for route in http_manager(chain).route_config.virtual_hosts[0].routes:
        by_name, by_source = route.route.hash_policy
        assert (by_name.filter_state.key, by_name.terminal) == (affinity.CALLER_KEY, True)
        assert by_source.connection_properties.source_ip
    door = decode(
        listeners.gateway_listener(
            Proxy(
                id="g", cluster="alpha", agent="g", kind="gateway", address="127.105.0.254", gateway_name="g"
            )
        )
    )
    passing = TcpProxy.FromString(door.filter_chains[0].filters[-1].typed_config.value)
    assert passing.hash_policy[0].HasField("source_ip")


def test_a_change_of_affinity_changes_clusters_alone():
    view = DictView("alpha")
    view.trust(roots("alpha"), roots("beta"))
    view.put(a_service("None"))
    compiler = ViewCompiler("alpha", view)
    compiler.update(view.services())
    config = ProxyConfig(compiler, msgspec.structs.replace(sidecar(), capture=True))
    view.put(a_service("ClientIP"))
    changed = config.apply(compiler.update([ORDERS]))
    assert CLUSTER in changed
    assert not changed.keys() & {LISTENER, ROUTES}

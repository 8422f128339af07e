"""The listeners of clusterset addresses and of local addresses for TCP services."""

import ipaddress

import msgspec
import pytest
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.dns_zone import CompiledZone
from discovery.core.model import EndpointPort, ServiceKey
from gateways.core import names, outbound
from gateways.core.captured import CapturedListeners
from gateways.core.clusters import passthrough_cluster
from gateways.core.compile import ProxyConfig, ViewCompiler
from gateways.core.proxy import OutboundTcp
from gateways.core.wire import CLUSTER, LISTENER
from tests.unit.gateways.builders import ORDERS, DictView, endpoint, owner, roots, service, sidecar
from tests.unit.gateways.decoding import decode, http_manager

LEDGER = ServiceKey("bank", "ledger")
HOST = "orders.shop.svc.clusterset.local"
TO_LEDGER = OutboundTcp(
    namespace="bank", service="ledger", service_port=5432, address="127.105.0.1", listen_port=15432
)
CAPTURING = msgspec.structs.replace(sidecar(), capture=True)
CALLING_LEDGER = msgspec.structs.replace(sidecar(), outbound_tcp=(TO_LEDGER,))


def http_port(number: int) -> EndpointPort:
    return EndpointPort(name="http", service_port=number, listen_port=0)


def tcp_port(number: int) -> EndpointPort:
    return EndpointPort(name="tcp", service_port=number, listen_port=0, protocol="tcp")


def to(chain) -> str:
    return TcpProxy.FromString(chain.filters[-1].typed_config.value).cluster


def a_view() -> DictView:
    """Orders speaks HTTP, ledger bytes."""
    view = DictView("alpha")
    view.trust(roots("alpha"))
    view.put(service(owner("alpha", [endpoint("alpha")], local=True)))
    view.put(a_ledger())
    return view


def a_ledger():
    row = endpoint("alpha", key=LEDGER, service_port=5432, protocol="tcp")
    return service(owner("alpha", [row], local=True), key=LEDGER, ports=[(5432, "tcp")])


def compiled(view: DictView) -> ViewCompiler:
    compiler = ViewCompiler("alpha", view)
    compiler.update(view.services())
    return compiler


def dns_address(view: DictView, key: ServiceKey) -> str:
    zone = CompiledZone()
    zone.replace(view)
    vip = zone.vips.get(key)
    assert vip is not None
    return str(ipaddress.IPv4Address(vip.ipv4))


def listener(config: ProxyConfig, name: str):
    resource = config.get(LISTENER, name)
    assert resource is not None
    return decode(resource)


def test_a_capturing_proxy_has_a_listener_at_each_address_that_dns_answers():
    view = a_view()
    config = ProxyConfig(compiled(view), CAPTURING)
    orders, ledger = (dns_address(view, key) for key in (ORDERS, LEDGER))
    assert set(config.names(LISTENER)) == {"outbound", f"{orders}_8080", f"{ledger}_5432"}
    found = listener(config, f"{orders}_8080")
    assert (found.address.socket_address.address, found.address.socket_address.port_value) == (orders, 8080)
    assert found.HasField("bind_to_port")
    assert not found.bind_to_port.value


def test_at_a_services_address_every_host_header_means_that_service():
    view = a_view()
    found = listener(ProxyConfig(compiled(view), CAPTURING), f"{dns_address(view, ORDERS)}_8080")
    manager = http_manager(found.filter_chains[0])
    (host,) = manager.route_config.virtual_hosts
    assert list(host.domains) == ["*"]
    assert {route.route.cluster for route in host.routes} == {f"outbound|8080||{HOST}"}
    # The same two routes as by Host header: what may be repeated, and what may not.
    by_name = decode(compiled(view).outbound_routes("none"))
    assert [list(each.routes) for each in by_name.virtual_hosts if HOST in each.name] == [list(host.routes)]


def test_a_tcp_port_at_an_address_goes_to_the_services_aggregate_cluster():
    view = a_view()
    config = ProxyConfig(compiled(view), CAPTURING)
    found = listener(config, f"{dns_address(view, LEDGER)}_5432")
    target = to(found.filter_chains[0])
    assert target == "outbound|5432||ledger.bank.svc.clusterset.local"
    assert config.get(CLUSTER, target) is not None


def test_what_captures_nothing_is_sent_nothing_of_it():
    config = ProxyConfig(compiled(a_view()), sidecar())
    assert list(config.names(LISTENER)) == ["outbound"]
    assert names.PASSTHROUGH not in set(config.names(CLUSTER))
    assert not listener(config, "outbound").HasField("default_filter_chain")


def test_the_capturing_listener_tells_apart_itself_unknown_services_and_elsewhere():
    found = decode(outbound.capturing_listener(sidecar(), "127.105.0.1", 15001))
    itself, nobody = found.filter_chains
    assert found.use_original_dst.value
    # Nothing waits for an application's first byte: in many protocols the server speaks first.
    assert not found.listener_filters
    assert itself.filter_chain_match.destination_port.value == 15001
    (match,) = itself.filter_chain_match.prefix_ranges
    assert (match.address_prefix, match.prefix_len.value) == ("127.105.0.1", 32)
    assert http_manager(itself).rds.route_config_name == "outbound"
    (match,) = nobody.filter_chain_match.prefix_ranges
    assert (match.address_prefix, match.prefix_len.value) == ("241.0.0.0", 8)
    assert to(nobody) == "BlackHole"
    assert to(found.default_filter_chain) == passthrough_cluster().name


def test_a_service_that_comes_costs_its_own_listeners():
    view = a_view()
    compiler = compiled(view)
    config = ProxyConfig(compiler, CAPTURING)
    cart = ServiceKey("shop", "cart")
    rows = [endpoint("alpha", key=cart), endpoint("alpha", "e2", key=cart, service_port=9090, protocol="tcp")]
    view.put(service(owner("alpha", rows, local=True), key=cart, ports=[(8080, "http"), (9090, "tcp")]))
    changed = config.apply(compiler.update([cart]))
    address = dns_address(view, cart)
    assert changed[LISTENER] == {f"{address}_8080", f"{address}_9090"}
    del view.known[cart]
    assert config.apply(compiler.update([cart]))[LISTENER] == {f"{address}_8080", f"{address}_9090"}
    assert config.get(LISTENER, f"{address}_8080") is None


def test_a_readiness_change_touches_no_listener():
    view = a_view()
    compiler = compiled(view)
    config = ProxyConfig(compiler, CAPTURING)
    view.put(service(owner("alpha", [endpoint("alpha", ready=False)], local=True)))
    assert LISTENER not in config.apply(compiler.update([ORDERS]))


def test_a_service_that_cannot_be_called_yet_keeps_its_address_for_itself():
    view = a_view()
    view.trust()
    config = ProxyConfig(compiled(view), CAPTURING)
    assert set(config.names(LISTENER)) == {"outbound"}
    listeners = CapturedListeners()
    assert listeners.update({ORDERS: ()}, {}) == frozenset()
    assert listeners.update({ORDERS: (http_port(80),)}, {}) == {f"{dns_address(view, ORDERS)}_80"}


def test_a_local_address_stands_for_a_tcp_service_while_there_is_one():
    view = a_view()
    compiler = compiled(view)
    config = ProxyConfig(compiler, CALLING_LEDGER)
    name = "outbound_tcp|127.105.0.1|15432"
    found = listener(config, name)
    assert found.address.socket_address.port_value == 15432
    assert to(found.filter_chains[0]) == "outbound|5432||ledger.bank.svc.clusterset.local"
    del view.known[LEDGER]
    assert name in config.apply(compiler.update([LEDGER]))[LISTENER]
    assert config.get(LISTENER, name) is None
    view.put(a_ledger())
    assert name in config.apply(compiler.update([LEDGER]))[LISTENER]
    assert config.get(LISTENER, name) is not None


def test_an_http_port_has_no_local_tcp_address():
    view = a_view()
    row = endpoint("alpha", key=LEDGER, service_port=5432)
    view.put(service(owner("alpha", [row], local=True), key=LEDGER, ports=[(5432, "http")]))
    assert list(ProxyConfig(compiled(view), CALLING_LEDGER).names(LISTENER)) == ["outbound"]


def test_connecting_is_tried_again_and_with_pauses():
    chain = decode(outbound.outbound_tcp_listener(sidecar(), TO_LEDGER, TO_LEDGER.key)).filter_chains[0]
    proxy = TcpProxy.FromString(chain.filters[-1].typed_config.value)
    assert proxy.max_connect_attempts.value == outbound.TCP_CONNECT_ATTEMPTS_MAX
    assert proxy.backoff_options.base_interval.nanos == 25_000_000


KEYS = [ServiceKey("shop", f"s{number}") for number in range(6)]
PORTS = st.lists(
    st.builds(lambda make, number: make(number), st.sampled_from([http_port, tcp_port]), st.integers(80, 83)),
    max_size=3,
    unique_by=lambda port: port.service_port,
).map(tuple)
CHANGES = st.dictionaries(st.sampled_from(KEYS), st.none() | PORTS, min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(CHANGES, min_size=1, max_size=8), few=st.booleans())
def test_following_changes_gives_what_starting_anew_gives(changes, few):
    """Also where addresses are so few that they pass from service to service."""
    slots = 8 if few else 1_000_000
    followed, state = CapturedListeners(slots), {}
    mirror: dict[str, str] = {}
    for change in changes:
        for name in followed.update(change, {}):
            resource = followed.get(name)
            if resource is None:
                mirror.pop(name, None)
            else:
                mirror[name] = resource.version
        state |= change
    anew = CapturedListeners(slots)
    anew.update(dict(sorted(state.items(), reverse=True)), {})
    assert mirror == {name: anew.get(name).version for name in anew.names()}  # type: ignore[union-attr]


@pytest.mark.parametrize("key", [ServiceKey("shop", "Not-A-Name"), ServiceKey("", "orders")])
def test_a_name_that_dns_cannot_express_has_no_address(key):
    assert CapturedListeners().update({key: (http_port(80),)}, {}) == frozenset()

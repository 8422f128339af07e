"""The compiler: equal views give equal bytes, changes cost what they change, every reference resolves."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.model import ServiceKey
from discovery.core.view import AdmittedSource, Service
from gateways.core.compile import ProxyConfig, ViewCompiler
from gateways.core.proxy import Proxy
from gateways.core.wire import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES, SECRET
from tests.unit.gateways.builders import (
    ORDERS,
    DictView,
    endpoint,
    gateway,
    owner,
    roots,
    service,
    sidecar,
    with_ready,
    workload,
)
from tests.unit.gateways.decoding import decode, references

KEYS = [ServiceKey("shop", "orders"), ServiceKey("shop", "cart"), ServiceKey("bank", "ledger")]
CLUSTERS = ["alpha", "beta", "gamma"]
SIDECAR = sidecar(workloads=[workload()])
GATEWAY = Proxy(
    id="g1", cluster="alpha", agent="a1", kind="gateway", address="127.105.0.1", gateway_name="gw1"
)
# Made by the agent, so no controller has it.
OWN_CERTIFICATE = (SECRET, "default")


def a_view(*found: Service) -> DictView:
    view = DictView("alpha")
    view.trust(*map(roots, CLUSTERS))
    for each in found:
        view.put(each, exported_to=["beta"])
    return view


def compiled(view: DictView) -> ViewCompiler:
    compiler = ViewCompiler("alpha", view)
    compiler.update(view.services())
    return compiler


def everything(config: ProxyConfig) -> dict[tuple[str, str], str]:
    return {
        (type_url, name): resource.version
        for type_url in ORDER
        for name in config.names(type_url)
        if (resource := config.get(type_url, name)) is not None
    }


def unresolved(config: ProxyConfig) -> set[tuple[str, str]]:
    missing = set()
    for type_url, name in everything(config):
        resource = config.get(type_url, name)
        assert resource is not None
        missing |= {found for found in references(resource) if config.get(*found) is None}
    return missing - {OWN_CERTIFICATE}


def an_owner(cluster: str, key: ServiceKey, ready: bool = True):
    rows = [endpoint(cluster, key=key, ready=ready)]
    return owner(
        cluster, rows, local=cluster == "alpha", gateways=() if cluster == "alpha" else [gateway(cluster)]
    )


def test_a_sidecar_gets_services_and_its_own_workload_a_gateway_what_is_exported():
    compiler = compiled(a_view(service(an_owner("alpha", ORDERS), an_owner("beta", ORDERS))))
    host = "orders.shop.svc.clusterset.local"
    assert sorted(ProxyConfig(compiler, SIDECAR).names(CLUSTER)) == [
        f"inbound|8080||{host}",
        f"outbound|8080||{host}",
        f"outbound|8080||{host}|alpha",
        f"outbound|8080||{host}|beta",
    ]
    gateway_config = ProxyConfig(compiler, GATEWAY)
    assert list(gateway_config.names(CLUSTER)) == [f"outbound_.8080_._.{host}"]
    assert list(gateway_config.names(LISTENER)) == ["eastwest"]


def test_what_is_not_exported_or_not_ours_is_not_at_the_gateway():
    view = a_view(service(an_owner("beta", ORDERS)))
    view.put(service(an_owner("alpha", KEYS[1]), key=KEYS[1]))
    assert list(ProxyConfig(compiled(view), GATEWAY).names(CLUSTER)) == []


def test_a_readiness_change_touches_one_assignment():
    before = service(an_owner("alpha", ORDERS), an_owner("beta", ORDERS))
    view = a_view(before, service(an_owner("beta", KEYS[1]), key=KEYS[1]))
    compiler = compiled(view)
    config = ProxyConfig(compiler, SIDECAR)
    view.put(with_ready(before, "beta", ready=False), exported_to=["beta"])
    assert config.apply(compiler.update([ORDERS])) == {
        ENDPOINTS: {"outbound|8080||orders.shop.svc.clusterset.local|beta"}
    }


def test_an_owner_without_gateways_keeps_its_cluster_with_an_empty_assignment():
    view = a_view(service(an_owner("beta", ORDERS)))
    compiler = compiled(view)
    view.put(service(msgspec.structs.replace(an_owner("beta", ORDERS), gateways=())))
    compiler.update([ORDERS])
    name = "outbound|8080||orders.shop.svc.clusterset.local|beta"
    resource = ProxyConfig(compiler, SIDECAR).get(ENDPOINTS, name)
    assert resource is not None
    assert not decode(resource).endpoints


def test_an_owner_that_stops_serving_a_port_loses_its_cluster_there_and_the_others_stay():
    view = a_view(service(an_owner("alpha", ORDERS), an_owner("beta", ORDERS)))
    compiler = compiled(view)
    config = ProxyConfig(compiler, SIDECAR)
    moved = owner("beta", [endpoint("beta", service_port=81)], gateways=[gateway("beta")])
    view.put(service(an_owner("alpha", ORDERS), moved, ports=[(81, "http"), (8080, "http")]))
    config.apply(compiler.update([ORDERS]))
    host = "orders.shop.svc.clusterset.local"
    assert {name for name in config.names(CLUSTER) if name.startswith("outbound|")} == {
        *(f"outbound|8080||{host}{owned}" for owned in ("", "|alpha")),
        *(f"outbound|81||{host}{owned}" for owned in ("", "|beta")),
    }
    assert not unresolved(config)


def test_a_new_grant_touches_routes_and_roots_of_the_workloads_proxy_only():
    view = a_view(service(an_owner("alpha", ORDERS)))
    compiler = compiled(view)
    config, other = ProxyConfig(compiler, SIDECAR), ProxyConfig(compiler, sidecar(id="s2"))
    view.sources[ORDERS] = (AdmittedSource(trust_domain="beta.example"),)
    dirty = compiler.update([ORDERS])
    assert config.apply(dirty) == {
        ROUTES: {"inbound|8080||orders.shop.svc.clusterset.local"},
        SECRET: {"inbound"},
    }
    assert other.apply(dirty) == {}


def test_rotated_roots_touch_secrets_only():
    view = a_view(service(an_owner("alpha", ORDERS), an_owner("beta", ORDERS)))
    view.sources[ORDERS] = (AdmittedSource(trust_domain="beta.example"),)
    compiler = compiled(view)
    config = ProxyConfig(compiler, SIDECAR)
    view.trust(roots("alpha"), roots("beta", "NEW PEM\n"), roots("gamma"))
    assert config.apply(compiler.update([])) == {SECRET: {"roots/beta.example", "inbound"}}


def test_an_owner_without_known_roots_waits_for_them():
    view = a_view(service(an_owner("alpha", ORDERS), an_owner("beta", ORDERS)))
    view.trust(roots("alpha"))
    compiler = compiled(view)
    config = ProxyConfig(compiler, SIDECAR)
    assert unresolved(config) == set()
    assert compiler.problems == {
        ORDERS: "service shop/orders: no roots are known for trust domain beta.example"
    }
    view.trust(roots("alpha"), roots("beta"))
    changed = config.apply(compiler.update([]))
    assert "outbound|8080||orders.shop.svc.clusterset.local|beta" in changed[CLUSTER]
    assert not compiler.problems
    view.trust(roots("alpha"))
    config.apply(compiler.update([]))
    assert unresolved(config) == set()


def test_a_service_that_cannot_be_compiled_keeps_its_last_good_form_and_stops_no_other():
    view = a_view(service(an_owner("beta", ORDERS)))
    compiler = compiled(view)
    before = everything(ProxyConfig(compiler, SIDECAR))
    bad = gateway("beta", port=-1)
    view.put(service(owner("beta", [endpoint("beta")], gateways=[bad])))
    view.put(service(an_owner("beta", KEYS[1]), key=KEYS[1]))
    compiler.update([ORDERS, KEYS[1]])
    after = everything(ProxyConfig(compiler, SIDECAR))
    assert "service shop/orders" in compiler.problems[ORDERS]
    assert {key: version for key, version in after.items() if "orders" in key[1]} == {
        key: version for key, version in before.items() if "orders" in key[1]
    }
    assert (CLUSTER, "outbound|8080||cart.shop.svc.clusterset.local") in after


def test_bare_names_belong_to_the_callers_namespace():
    compiler = compiled(a_view(*(service(an_owner("alpha", key), key=key) for key in KEYS)))

    def bare(namespace: str) -> set[str]:
        config = decode(compiler.outbound_routes(namespace))
        return {
            name
            for host in config.virtual_hosts
            for name in host.domains
            if "." not in name and ":" not in name
        }

    assert bare("shop") == {"orders", "cart", "*"}
    assert bare("bank") == {"ledger", "*"}
    assert bare("none") == {"*"}


def test_a_cluster_that_has_not_joined_serves_no_workload():
    class NotJoined(DictView):
        def admission(self, key):
            return None

    view = NotJoined("alpha")
    view.trust(roots("alpha"))
    config = ProxyConfig(compiled(view), SIDECAR)
    assert list(config.names(LISTENER)) == ["outbound"]


@st.composite
def services(draw: st.DrawFn, key: ServiceKey) -> Service:
    found = draw(st.lists(st.sampled_from(CLUSTERS), min_size=1, unique=True).map(sorted))
    ports = draw(st.sampled_from([[(8080, "http")], [(80, "http"), (9090, "tcp")], [(9090, "tcp")]]))
    return service(*(an_owner(cluster, key, draw(st.booleans())) for cluster in found), key=key, ports=ports)


STEPS = st.lists(
    st.one_of(
        st.sampled_from(KEYS).flatmap(lambda key: services(key)),
        st.sampled_from(KEYS),  # Remove it.
        st.sets(st.sampled_from(CLUSTERS), min_size=1),  # Roots known.
        st.sets(st.sampled_from(CLUSTERS)),  # Who is granted orders.
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(STEPS)
def test_after_any_history_the_result_is_that_of_a_fresh_compilation_and_all_references_resolve(steps):
    view = a_view()
    compiler = compiled(view)
    configs = [ProxyConfig(compiler, SIDECAR), ProxyConfig(compiler, GATEWAY)]
    for position, step in enumerate(steps):
        changed: list[ServiceKey] = []
        if isinstance(step, Service):
            view.put(step, exported_to=["beta"] if len(step.owners) % 2 else [])
            changed = [step.key]
        elif isinstance(step, ServiceKey):
            view.known.pop(step, None)
            changed = [step]
        elif position % 2:
            view.trust(*map(roots, step))
        else:
            view.sources[ORDERS] = tuple(AdmittedSource(trust_domain=f"{each}.example") for each in step)
            changed = [ORDERS]
        before = [everything(config) for config in configs]
        dirty = compiler.update(changed)
        for config, old in zip(configs, before, strict=True):
            told = {(kind, name) for kind, found in config.apply(dirty).items() for name in found}
            new = everything(config)
            assert {each for each in old.keys() | new.keys() if old.get(each) != new.get(each)} <= told
            assert unresolved(config) == set()
    fresh = compiled(view)
    for config, proxy in zip(configs, (SIDECAR, GATEWAY), strict=True):
        assert everything(config) == everything(ProxyConfig(fresh, proxy))


def test_equal_views_give_equal_bytes_whatever_the_order_of_their_making():
    found = [service(an_owner("alpha", key), an_owner("beta", key), key=key) for key in KEYS]
    one, other = compiled(a_view(*found)), compiled(a_view(*reversed(found)))
    assert everything(ProxyConfig(one, SIDECAR)) == everything(ProxyConfig(other, SIDECAR))


def test_units_do_not_outlive_their_service():
    view = a_view(service(an_owner("beta", ORDERS)))
    compiler = compiled(view)
    del view.known[ORDERS]
    compiler.update([ORDERS])
    config = ProxyConfig(compiler, msgspec.structs.replace(SIDECAR, workloads=()))
    assert list(config.names(CLUSTER)) == []
    assert list(config.names(ENDPOINTS)) == []

"""What one service, proxy or grant becomes in Envoy's language."""

import pytest
from envoy.config.core.v3.health_check_pb2 import UNHEALTHY
from msgspec.structs import replace

from discovery.core.view import Admission, AdmittedSource
from gateways.core import authorization, clusters, endpoints, listeners, names, outbound, routes, trust
from gateways.core.compile import compile_service
from gateways.core.proxy import Proxy
from gateways.core.wire import CLUSTER, ENDPOINTS
from tests.unit.gateways.builders import ORDERS, endpoint, gateway, owner, roots, service, sidecar, workload
from tests.unit.gateways.decoding import (
    addresses,
    decode,
    downstream_tls,
    http_manager,
    members,
    upstream_tls,
)

HOST = "orders.shop.svc.clusterset.local"
LOCAL = owner("alpha", [endpoint("alpha")], local=True)
REMOTE = owner("beta", [endpoint("beta"), endpoint("beta", "e2")], gateways=[gateway("beta")])


def clusters_of(found, port=0):
    return {each.name: decode(each) for each in clusters.service_clusters(found, found.ports[port])}


def assignments_of(found, port=0):
    return {each.name: decode(each) for each in endpoints.service_endpoints(found, found.ports[port])}


def test_a_service_is_one_cluster_per_owner_and_an_aggregate_in_the_views_order():
    found = clusters_of(service(LOCAL, REMOTE))
    assert list(found) == [
        f"outbound|8080||{HOST}|alpha",
        f"outbound|8080||{HOST}|beta",
        f"outbound|8080||{HOST}",
    ]
    assert members(found[f"outbound|8080||{HOST}"]) == list(found)[:2]


def test_an_owners_cluster_trusts_one_domain_and_names_its_identities():
    cluster = clusters_of(service(LOCAL, REMOTE))[f"outbound|8080||{HOST}|beta"]
    context = upstream_tls(cluster)
    validation = context.common_tls_context.combined_validation_context
    assert context.sni == f"outbound_.8080_._.{HOST}"
    assert list(context.common_tls_context.alpn_protocols) == ["h2"]
    assert validation.validation_context_sds_secret_config.name == "roots/beta.example"
    assert [
        matcher.matcher.exact
        for matcher in validation.default_validation_context.match_typed_subject_alt_names
    ] == ["spiffe://beta.example/ns/shop/sa/orders"]


def test_an_owner_without_identities_is_nobody_and_not_anybody():
    empty = replace(REMOTE, identities=())
    context = upstream_tls(clusters_of(service(empty))[f"outbound|8080||{HOST}|beta"])
    matchers = context.common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    assert [matcher.matcher.exact for matcher in matchers] == ["spiffe://beta.example/nobody"]


def test_only_gateways_are_health_checked_and_only_as_gateways():
    found = clusters_of(service(LOCAL, REMOTE))
    assert not found[f"outbound|8080||{HOST}|alpha"].health_checks
    remote = found[f"outbound|8080||{HOST}|beta"]
    (check,) = remote.health_checks
    (match,) = remote.transport_socket_matches
    assert check.transport_socket_match_criteria == match.match
    assert check.http_health_check.host == "health.beta.isthmus.internal"


def test_only_what_the_network_says_ejects_an_endpoint():
    for cluster in clusters_of(service(LOCAL, REMOTE)).values():
        if cluster.HasField("outlier_detection"):
            detection = cluster.outlier_detection
            assert detection.split_external_local_origin_errors
            assert detection.enforcing_consecutive_5xx.value == 0
            assert detection.enforcing_consecutive_gateway_failure.value == 0
            assert detection.enforcing_consecutive_local_origin_failure.value == 100


def test_a_tcp_port_speaks_no_http2():
    found = service(owner("alpha", [endpoint("alpha", protocol="tcp")], local=True), ports=[(8080, "tcp")])
    cluster = clusters_of(found)[f"outbound|8080||{HOST}|alpha"]
    assert not cluster.typed_extension_protocol_options
    assert not upstream_tls(cluster).common_tls_context.alpn_protocols
    assert routes.virtual_hosts(found) == ()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(LOCAL, ["127.105.0.1:15006"], id="direct"),
        pytest.param(REMOTE, ["127.105.0.254:15443"], id="through-the-gateway"),
        pytest.param(
            owner(
                "alpha",
                [endpoint("alpha", ready=False), endpoint("alpha", "e2", listen_port=15007)],
                local=True,
            ),
            ["127.105.0.1:15007"],
            id="unready-is-left-out",
        ),
    ],
)
def test_an_assignment_holds_what_can_be_called_now(found, expected):
    assignment = assignments_of(service(found))[f"outbound|8080||{HOST}|{found.cluster}"]
    assert addresses(assignment) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(
            owner("alpha", [endpoint("alpha", ready=False)], local=True), ["127.105.0.1:15006"], id="direct"
        ),
        pytest.param(
            owner("beta", [endpoint("beta", ready=False)], gateways=[gateway("beta")]),
            ["127.105.0.254:15443"],
            id="behind-the-gateway",
        ),
        pytest.param(
            owner("beta", [endpoint("beta")], gateways=[replace(gateway("beta"), ready=False)]),
            ["127.105.0.254:15443"],
            id="the-gateway-itself",
        ),
    ],
)
def test_where_nothing_is_ready_all_is_the_last_resort(found, expected):
    assignment = assignments_of(service(found))[f"outbound|8080||{HOST}|{found.cluster}"]
    assert addresses(assignment) == expected
    (place,) = assignment.endpoints
    assert [each.health_status for each in place.lb_endpoints] == [UNHEALTHY]
    assert place.load_balancing_weight.value == 1


def test_direct_endpoints_keep_place_and_weight():
    rows = [
        endpoint("alpha", "e1", region="r1", zone="b", weight=3),
        endpoint("alpha", "e2", region="r1", zone="a"),
        endpoint("alpha", "e3", region="r1", zone="b", weight=0),
    ]
    (assignment,) = assignments_of(service(owner("alpha", rows, local=True))).values()
    assert [
        (place.locality.zone, [each.load_balancing_weight.value for each in place.lb_endpoints])
        for place in assignment.endpoints
    ] == [("a", [1]), ("b", [3, 1])]


def test_the_weight_of_a_gateway_is_its_share_of_what_is_ready_behind():
    rows = [endpoint("beta", f"e{number}") for number in range(5)]
    gateways = [gateway("beta", "gw1"), gateway("beta", "gw2", address="127.105.0.253")]
    (assignment,) = assignments_of(service(owner("beta", rows, gateways=gateways))).values()
    assert [each.load_balancing_weight.value for each in assignment.endpoints[0].lb_endpoints] == [3, 3]


def test_who_does_not_serve_a_port_is_sent_no_calls_for_it():
    """A gateway passes nothing on for a port that nobody has behind it: a call would end there."""
    admin = owner("gamma", [endpoint("gamma", service_port=81)], gateways=[gateway("gamma")])
    found = service(LOCAL, REMOTE, admin, ports=[(81, "http"), (8080, "http")])
    assert members(clusters_of(found, 0)[f"outbound|81||{HOST}"]) == [f"outbound|81||{HOST}|gamma"]
    assert set(assignments_of(found, 0)) == {f"outbound|81||{HOST}|gamma"}
    assert set(assignments_of(found, 1)) == {f"outbound|8080||{HOST}|{name}" for name in ("alpha", "beta")}


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(owner("alpha", [], local=True), id="none"),
        pytest.param(owner("beta", [], gateways=[gateway("beta")]), id="none-behind-the-gateway"),
        pytest.param(owner("beta", [endpoint("beta", service_port=9090)]), id="another-port-only"),
        pytest.param(owner("beta", [endpoint("beta", protocol="tcp")]), id="another-protocol-only"),
    ],
)
def test_a_port_that_nobody_serves_is_nowhere(found):
    assert clusters_of(service(found)) == assignments_of(service(found)) == {}
    unit = compile_service(service(found), exported=True)
    assert (unit.sidecar, unit.gateway, unit.hosts, unit.ports) == ((), (), (), ())


def test_a_gateway_passes_on_what_its_own_cluster_serves_whatever_others_speak_there():
    mine = owner("alpha", [endpoint("alpha", protocol="tcp")], local=True)
    unit = compile_service(service(mine, REMOTE), exported=True)
    assert [each.name for each in unit.gateway] == [f"outbound_.8080_._.{HOST}"] * 2
    assert addresses(decode(unit.gateway[1])) == ["127.105.0.1:15006"]
    # Its own callers are sent to those who speak what the service is settled to.
    assert members(clusters_of(service(mine, REMOTE))[f"outbound|8080||{HOST}"]) == [
        f"outbound|8080||{HOST}|beta"
    ]


def test_a_port_is_at_the_gateway_of_those_clusters_that_serve_it():
    admin = owner("gamma", [endpoint("gamma", service_port=81)], gateways=[gateway("gamma")])
    unit = compile_service(service(LOCAL, admin, ports=[(81, "http"), (8080, "http")]), exported=True)
    assert {each.name for each in unit.gateway} == {f"outbound_.8080_._.{HOST}"}


def test_the_readiness_and_weight_of_a_gateway_are_those_of_the_port():
    rows = [
        endpoint("beta", "e1"),
        endpoint("beta", "e2"),
        endpoint("beta", "e3", service_port=81, ready=False),
    ]
    beta = owner("beta", rows, gateways=[gateway("beta")])
    assert [(each.weight, each.ready) for each in endpoints.owner_targets(beta, rows[0].ports[0])] == [
        (2, True)
    ]
    assert [(each.weight, each.ready) for each in endpoints.owner_targets(beta, rows[2].ports[0])] == [
        (1, False)
    ]


@pytest.mark.parametrize(
    ("share_percent", "factor"),
    [pytest.param(100, None, id="whole"), pytest.param(25, 25, id="in-between"), pytest.param(0, None, id="drained")],
)  # fmt: skip
def test_the_share_of_a_cluster_that_is_drained_is_what_its_assignment_says_that_it_can_take(
    share_percent, factor
):
    found = service(owner("alpha", [endpoint("alpha")], local=True, share_percent=share_percent), REMOTE)
    drained, other = assignments_of(found).values()
    assert drained.HasField("policy") == (factor is not None)
    assert factor in (None, drained.policy.overprovisioning_factor.value)
    assert not other.HasField("policy")
    assert addresses(drained) == ["127.105.0.1:15006"]


def test_a_step_of_a_drain_changes_assignments_and_nothing_else():
    before = compile_service(service(LOCAL, REMOTE), exported=True)
    after = compile_service(service(replace(LOCAL, share_percent=50), REMOTE), exported=True)
    assert before.hosts == after.hosts
    assert before.gateway == after.gateway
    changed = [(one.type_url, one.name) for one in after.sidecar if one not in before.sidecar]
    assert changed == [(ENDPOINTS, f"outbound|8080||{HOST}|alpha")]


def test_a_gateway_knows_a_service_by_its_sni_and_only_the_own_endpoints():
    found = service(LOCAL, REMOTE)
    sni = f"outbound_.8080_._.{HOST}"
    assert clusters.gateway_cluster(found, 8080).name == sni
    assignment = endpoints.gateway_endpoints(found, 8080)
    assert (assignment.name, addresses(decode(assignment))) == (sni, ["127.105.0.1:15006"])


def domains(blocks):
    config = decode(routes.outbound_routes(blocks, cluster="alpha"))
    return [list(host.domains) for host in config.virtual_hosts]


def test_a_service_is_found_by_every_spelling_of_its_name_with_and_without_port():
    spellings = [HOST, "orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local"]
    expected = [text for spelling in spellings for text in (spelling, f"{spelling}:8080")]
    assert domains(routes.virtual_hosts(service(LOCAL))) == [expected, ["*"]]


def test_a_caller_of_the_same_namespace_may_use_the_bare_name():
    ours, unknown = domains(routes.local_virtual_hosts(service(LOCAL)))
    assert ours[-2:] == ["orders", "orders:8080"]
    assert unknown == ["*"]


@pytest.mark.parametrize(
    ("ports", "bare"),
    [
        pytest.param([(8080, "http")], 8080, id="the-only-one"),
        pytest.param([(80, "http"), (8080, "http")], 80, id="http's-own"),
        pytest.param([(9090, "http"), (8081, "http"), (22, "tcp")], 8081, id="the-lowest-http-port"),
    ],
)
def test_a_host_without_port_means_one_port(ports, bare):
    found = [
        host.name
        for host in decode(
            routes.outbound_routes(routes.virtual_hosts(service(LOCAL, ports=ports)), cluster="alpha")
        ).virtual_hosts
        if "orders.shop" in host.domains
    ]
    assert found == [f"{HOST}:{bare}"]


def test_only_idempotent_methods_are_repeated_after_delivery():
    config = decode(routes.outbound_routes(routes.virtual_hosts(service(LOCAL)), cluster="alpha"))
    idempotent, others = config.virtual_hosts[0].routes
    assert idempotent.match.headers[0].string_match.safe_regex.regex == "GET|HEAD|OPTIONS|PUT|DELETE|TRACE"
    assert "reset" in idempotent.route.retry_policy.retry_on.split(",")
    assert others.route.retry_policy.retry_on == "connect-failure,refused-stream,reset-before-request"
    assert not others.route.retry_policy.retriable_status_codes


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        pytest.param([], ["prefix spiffe://beta.example/"], id="the-own-domain-alone"),
        pytest.param(
            [AdmittedSource(trust_domain="alpha.example")],
            ["prefix spiffe://alpha.example/", "prefix spiffe://beta.example/"],
            id="a-whole-domain",
        ),
        pytest.param(
            [AdmittedSource(trust_domain="alpha.example", namespaces=("web", "ops"))],
            [
                "prefix spiffe://alpha.example/ns/ops/",
                "prefix spiffe://alpha.example/ns/web/",
                "prefix spiffe://beta.example/",
            ],
            id="namespaces",
        ),
        pytest.param(
            [
                AdmittedSource(
                    trust_domain="alpha.example", principals=("spiffe://alpha.example/ns/web/sa/a",)
                )
            ],
            ["prefix spiffe://beta.example/", "spiffe://alpha.example/ns/web/sa/a"],
            id="a-principal",
        ),
        pytest.param(
            [
                AdmittedSource(
                    trust_domain="alpha.example",
                    namespaces=("web",),
                    principals=("spiffe://alpha.example/ns/web/sa/a", "spiffe://alpha.example/ns/ops/sa/b"),
                )
            ],
            ["prefix spiffe://beta.example/", "spiffe://alpha.example/ns/web/sa/a"],
            id="all-lists-must-match",
        ),
        pytest.param(
            [
                AdmittedSource(
                    trust_domain="alpha.example", principals=("spiffe://gamma.example/ns/web/sa/a",)
                )
            ],
            ["prefix spiffe://beta.example/"],
            id="a-principal-of-another-domain-admits-nobody",
        ),
    ],
)
def test_an_admission_names_the_own_domain_and_what_is_granted(sources, expected):
    admission = Admission(own_trust_domain="beta.example", sources=tuple(sources))
    matchers = authorization.admit_per_route(admission).rbac.matcher.matcher_list.matchers
    values = [matcher.predicate.single_predicate.value_match for matcher in matchers]
    assert sorted(value.exact or f"prefix {value.prefix}" for value in values) == sorted(expected)
    tls = [matcher.exact or f"prefix {matcher.prefix}" for matcher in authorization.uri_matchers(admission)]
    assert sorted(tls) == sorted(expected)


def test_every_listener_refuses_to_share_its_address():
    proxy = sidecar(workloads=[workload()])
    admission = Admission(own_trust_domain="alpha.example")
    gateway_proxy = Proxy(
        id="g", cluster="alpha", agent="a", kind="gateway", address="127.105.0.1", gateway_name="gw1"
    )
    found = [
        outbound.outbound_listener(sidecar(), "127.105.0.1", 15001),
        listeners.inbound_listener(proxy, proxy.workloads[0], proxy.workloads[0].ports[0], admission),
        listeners.gateway_listener(gateway_proxy),
    ]
    for listener in map(decode, found):
        assert listener.HasField("enable_reuse_port")
        assert not listener.enable_reuse_port.value


def test_an_inbound_chain_begins_with_the_guard_and_admits_nobody_by_itself():
    proxy = sidecar(workloads=[workload()])
    admission = Admission(own_trust_domain="alpha.example")
    listener = decode(
        listeners.inbound_listener(proxy, proxy.workloads[0], proxy.workloads[0].ports[0], admission)
    )
    (chain,) = listener.filter_chains
    context, manager = downstream_tls(chain), http_manager(chain)
    assert context.require_client_certificate.value
    assert [each.name for each in manager.http_filters] == [
        "isthmus.one_identity",
        "envoy.filters.http.rbac",
        "envoy.filters.http.router",
    ]
    assert manager.forward_client_cert_details == manager.SANITIZE_SET


def test_a_tcp_chain_asks_for_the_admitted_identities_in_the_handshake():
    proxy = sidecar(workloads=[workload(protocol="tcp")])
    admission = Admission(own_trust_domain="alpha.example")
    listener = decode(
        listeners.inbound_listener(proxy, proxy.workloads[0], proxy.workloads[0].ports[0], admission)
    )
    (chain,) = listener.filter_chains
    assert [each.name.rpartition(".")[2] for each in chain.filters] == ["rbac", "rbac", "tcp_proxy"]
    validation = downstream_tls(chain).common_tls_context.combined_validation_context
    matchers = validation.default_validation_context.match_typed_subject_alt_names
    assert [matcher.matcher.prefix for matcher in matchers] == ["spiffe://alpha.example/"]


def test_a_gateway_passes_services_on_and_answers_for_its_own_health():
    proxy = Proxy(
        id="g", cluster="beta", agent="a", kind="gateway", address="127.105.0.1", gateway_name="gw1"
    )
    passing, health = decode(listeners.gateway_listener(proxy)).filter_chains
    assert list(passing.filter_chain_match.server_names) == ["*.svc.clusterset.local"]
    assert not passing.HasField("transport_socket")
    assert list(health.filter_chain_match.server_names) == [
        "health.gw1.beta.isthmus.internal",
        "health.beta.isthmus.internal",
    ]


def test_inbound_roots_are_those_of_admitted_domains_that_are_known():
    known = {each.trust_domain: each for each in map(roots, ("alpha", "beta", "gamma"))}
    admissions = [
        Admission(
            own_trust_domain="beta.example",
            sources=(
                AdmittedSource(trust_domain="alpha.example"),
                AdmittedSource(trust_domain="lost.example"),
            ),
        )
    ]
    secret = trust.inbound_roots_secret(admissions, known)
    assert secret is not None
    for name, expected in (("alpha", True), ("beta", True), ("gamma", False), ("lost", False)):
        assert (f"{name}.example".encode() in secret.message_bytes) is expected
    assert trust.inbound_roots_secret(admissions, {}) is None


def test_an_application_is_one_address():
    found = workload(app=("127.105.0.9", 8081))
    cluster = clusters.application_cluster(found, found.ports[0])
    assert (cluster.type_url, cluster.name) == (CLUSTER, names.inbound_cluster(ORDERS, 8080))
    assert addresses(decode(cluster).load_assignment) == ["127.105.0.9:8081"]

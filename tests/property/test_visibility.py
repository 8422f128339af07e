"""One oracle over every way in which a cluster learns of services: nothing is seen that may not be, nothing is missing.

Each read path gives a set of facts; the oracle says which they should be. Mistakes are planted into each path
and must be found: an oracle that cannot fail proves nothing.
"""

from collections.abc import Callable

import dns.message
import dns.rcode
import msgspec
import pytest
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.core.spiffe import parse
from discovery.core.dns_answer import answer
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import Change, Endpoint, Resource, ServiceKey, pack
from discovery.core.tables import EMPTY_TABLES, Tables
from discovery.core.views import ViewIndex
from federation.api.caller import require_operator
from federation.kernel.errors import IsthmusError
from gateways.core import routes
from gateways.core.compile import ViewCompiler
from gateways.core.explain import Caller, explain
from gateways.core.routes import AUTHORIZATION_FILTER
from gateways.core.wire import CLUSTER, ENDPOINTS
from tests.property.catalog_rows import (
    ALL_KEYS,
    CLUSTERS,
    COMMON,
    DOMAINS,
    NAMESPACES,
    SERVICES,
    alias_rows,
    cluster_rows,
    controller_rows,
    endpoint_rows,
    every_export_rows,
    export_rows,
    grant_rows,
    import_rows,
)
from tests.property.visibility_facts import (
    IDENTITIES,
    Facts,
    admission_facts,
    api_facts,
    dns_facts,
    explained_facts,
    gateway_facts,
    host,
    view_facts,
    xds_facts,
)
from tests.support.visibility_oracle import VisibilityOracle
from tests.unit.discovery.builders import (
    endpoint,
    gateway,
    key,
    put,
    put_alias,
    put_cluster,
    put_cluster_export,
    put_export,
    put_external,
    put_grant,
    put_import,
    resource,
)
from tests.unit.gateways.builders import workload
from tests.unit.gateways.decoding import addresses, decode

Rows = list[Resource | Endpoint]

# Every endpoint has an address of its own, so that an address tells whose it is.
ENDPOINTS_OF_ALL = {
    (cluster, name): endpoint(
        cluster,
        "e1",
        namespace=name.namespace,
        service=name.service,
        address=f"10.{number}.{position}.1",
    )
    for number, cluster in enumerate(CLUSTERS)
    for position, name in enumerate(ServiceKey(ns, service) for ns in NAMESPACES for service in SERVICES)
}
# Of these too, two for each cluster.
OUTSIDE = [
    resource(put_external(cluster, namespace, service, f"203.0.{number}.{position}"))
    for number, cluster in enumerate(CLUSTERS)
    for position, (namespace, service) in enumerate((("shop", "orders"), ("pay", "carts")))
]
# The names below a headless service's.
LABELS = [
    *((cluster, "e1") for cluster in CLUSTERS),
    *((cluster, f"ext-203-0-{number}-{at}") for number, cluster in enumerate(CLUSTERS) for at in (0, 1)),
]
FOUNDED = [row for row in COMMON if isinstance(row, Resource) and row.key.kind in ("Cluster", "TrustDomain")]


def loss_rows() -> st.SearchStrategy[Resource]:
    return st.builds(
        lambda owner, namespace, services, then: resource(
            put(
                key("LossPolicy", "l", scope=owner, namespace=namespace),
                {"services": services, "onLoss": then},
            )
        ),
        st.sampled_from(CLUSTERS),
        st.sampled_from(NAMESPACES),
        st.just(["*"]) | st.lists(st.sampled_from(SERVICES), min_size=1, max_size=1),
        st.sampled_from(("keep", "last-resort", "withdraw")),
    )


def verdict_rows() -> st.SearchStrategy[Resource]:
    return st.builds(
        lambda cluster, state: resource(put(key("Verdict", cluster), {"state": state, "sinceMs": 1})),
        st.sampled_from(CLUSTERS),
        st.sampled_from(("ok", "dead", "dead")),
    )


policies = st.one_of(
    st.sampled_from(OUTSIDE),
    export_rows(),
    export_rows(),
    grant_rows(),
    grant_rows(),
    every_export_rows(),
    import_rows(),
    alias_rows(),
    cluster_rows(),
    controller_rows("10.0.0.1", "10.1.1.1", "10.1.0.1", "203.0.1.0"),
    loss_rows(),
    verdict_rows(),
)
catalogs = st.builds(
    lambda present, edges, found, gone: [
        *(row for row in FOUNDED if row.key.name not in gone),
        *present,
        *(gateway(cluster) for cluster in edges),
        *found,
    ],
    st.lists(st.sampled_from(list(ENDPOINTS_OF_ALL.values())), min_size=2, unique_by=lambda row: row.key),
    st.sets(st.sampled_from(CLUSTERS)),
    st.lists(policies, min_size=2, max_size=14),
    st.sets(st.sampled_from(DOMAINS), max_size=1),
)


def tables_of(rows: Rows) -> Tables:
    changes = [
        Change("endpoints" if isinstance(row, Endpoint) else "resources", row.key.encode(), pack(row))
        for row in rows
    ]
    return EMPTY_TABLES.with_changes(changes, 1)


class Seen:
    """What the product makes of a catalog for one cluster."""

    def __init__(self, rows: Rows, viewer: str) -> None:
        self.tables = tables_of(rows)
        self.viewer = viewer
        self.view = ViewIndex(viewer)
        self.compiler = ViewCompiler(viewer, self.view)
        self.compiler.update(self.view.reset(self.tables))


# -- the read paths: what comes out ----------------------------------------------------------------


def by_view(seen: Seen) -> Facts:
    found: Facts = set()
    for name in seen.view.services():
        service = seen.view.service(name)
        assert service is not None
        found |= {(host(name), owner.cluster, e.address) for owner in service.owners for e in owner.endpoints}
    return found


def by_xds(seen: Seen) -> Facts:
    """Envoy's clusters and the addresses behind them, of own endpoints and gateways, and whom routes lead to."""
    found: Facts = set()
    for name in seen.compiler.shared("sidecar", CLUSTER):
        parts = name.split("|")
        if len(parts) == 5:
            found.add(("cluster", parts[3], parts[4]))
            sent = decode(seen.compiler.shared("sidecar", ENDPOINTS)[name])
            found |= {("address", parts[3], place.split(":")[0]) for place in addresses(sent)}
    for virtual_host in decode(seen.compiler.outbound_routes("nowhere")).virtual_hosts:
        if virtual_host.name != "unknown":
            leads_to = virtual_host.routes[0].route.cluster.split("|")[3]
            found.add(("route", virtual_host.name.split(":")[0], leads_to))
    return found


def by_gateway(seen: Seen) -> Facts:
    """The names that the cluster's gateways pass on."""
    return {(name.split("_._.")[1],) for name in seen.compiler.shared("gateway", CLUSTER)}


def by_dns(seen: Seen) -> Facts:
    zone, found = CompiledZone(), set()
    zone.replace(seen.view)
    for name in ALL_KEYS:
        question = dns.message.make_query(host(name), "A")
        reply = answer(question.to_wire(), zone, transport="tcp")
        assert reply is not None
        message = dns.message.from_wire(reply)
        if message.rcode() == dns.rcode.NOERROR:
            texts = [rr.to_text() for each in message.answer for rr in each]
            found |= {(host(name), "own" if text.startswith("241.") else text) for text in texts}
        for cluster, label in LABELS:
            inner = f"{label}.{cluster}.{host(name)}"
            reply = answer(dns.message.make_query(inner, "A").to_wire(), zone, transport="tcp")
            assert reply is not None
            message = dns.message.from_wire(reply)
            found |= {(inner, rr.to_text()) for each in message.answer for rr in each}
    return found


def by_explanation(seen: Seen) -> Facts:
    found: Facts = set()
    if seen.viewer not in seen.view.policies.clusters:
        return found
    for name in ALL_KEYS:
        told = explain(seen.view, seen.compiler, Caller(seen.viewer), name, ())
        found |= {(host(name), one.cluster) for one in told.owners if one.visible}
        # What is told to be sent and answered is of visible owners alone.
        found |= {(host(name), m.name.split("|")[4].partition(".")[0]) for p in told.envoy for m in p.members}
        assert told.visible == any(one.visible for one in told.owners) == bool(told.dns or _silent(told.type))
    return found


def _silent(service_type: str) -> bool:
    """A headless service may be visible and have nothing to answer."""
    return service_type == "Headless"


def by_admission(seen: Seen) -> Facts:
    """Whom the inbound route of a workload of the cluster lets in, evaluated as Envoy does."""
    found: Facts = set()
    for name in ALL_KEYS:
        admission = seen.compiler.admission(name)
        if admission is None:
            continue
        made = workload(seen.viewer, key=name)
        config = decode(routes.inbound_routes(made, made.ports[0], admission))
        packed = config.virtual_hosts[0].routes[0].typed_per_filter_config[AUTHORIZATION_FILTER]
        rules = RBACPerRoute.FromString(packed.value).rbac.matcher.matcher_list.matchers
        matches = [rule.predicate.single_predicate.value_match for rule in rules]
        found |= {
            (host(name), identity)
            for identity in IDENTITIES
            if any(
                identity == match.exact if match.exact else identity.startswith(match.prefix)
                for match in matches
            )
        }
    return found


def by_api(seen: Seen) -> Facts:
    """Which operators the API of the cluster's controller serves at all, with the same check for each path."""
    found: Facts = set()
    for cluster in CLUSTERS:
        for domain in DOMAINS:
            operator = parse(f"spiffe://{domain}/isthmus/{cluster}/operator/admin")
            try:
                require_operator(operator, seen.tables, cluster=seen.viewer)
            except IsthmusError:
                continue
            found.add((cluster, domain))
    return found


PATHS: dict[str, tuple[Callable[[Seen], Facts], Callable[[VisibilityOracle, str], Facts]]] = {
    "view": (by_view, view_facts),
    "xds": (by_xds, xds_facts),
    "gateway": (by_gateway, gateway_facts),
    "dns": (by_dns, dns_facts),
    "explain": (by_explanation, explained_facts),
    "admission": (by_admission, admission_facts),
    "api": (by_api, api_facts),
}


@settings(max_examples=60)
@given(rows=catalogs, viewer=st.sampled_from(CLUSTERS))
def test_every_read_path_shows_what_may_be_seen_and_nothing_else(rows, viewer):
    seen, oracle = Seen(rows, viewer), VisibilityOracle(rows)
    for path, (come_out, expected) in PATHS.items():
        assert come_out(seen) == expected(oracle, viewer), path


# -- the oracle can fail ---------------------------------------------------------------------------


def without(*kinds: str) -> Callable[[Rows], Rows]:
    """A path that forgets to look at these kinds."""
    return lambda rows: [row for row in rows if isinstance(row, Endpoint) or row.key.kind not in kinds]


def to_everybody(rows: Rows) -> Rows:
    """A path that takes every export for one to all clusters."""

    def opened(row: Resource | Endpoint) -> Resource | Endpoint:
        if isinstance(row, Endpoint) or not row.key.kind.endswith("ExportPolicy"):
            return row
        spec = msgspec.json.decode(row.spec, type=dict[str, object]) | {"consumers": ["*"]}
        return msgspec.structs.replace(row, spec=msgspec.json.encode(spec))

    return [opened(row) for row in rows]


def of_any_trust_domain(rows: Rows) -> Rows:
    """A path that does not read whom a grant is for."""

    def opened(row: Resource | Endpoint) -> Resource | Endpoint:
        if isinstance(row, Endpoint) or row.key.kind != "Grant":
            return row
        spec = msgspec.json.decode(row.spec, type=dict[str, object]) | {"sources": [{}]}
        return msgspec.structs.replace(row, spec=msgspec.json.encode(spec))

    return [opened(row) for row in rows]


def renamed(rows: Rows) -> Rows:
    """A path that takes one cluster's trust domain for another's."""
    swapped = {"beta.test": b"gamma.test", "gamma.test": b"beta.test"}

    def other(row: Resource | Endpoint) -> Resource | Endpoint:
        if isinstance(row, Endpoint) or row.key.kind != "Cluster":
            return row
        domain = msgspec.json.decode(row.spec, type=dict[str, object])["trustDomain"]
        spec = row.spec.replace(str(domain).encode(), swapped.get(str(domain), b"alpha.test"))
        return msgspec.structs.replace(row, spec=spec)

    return [other(row) for row in rows]


def of_ranges_of_then(rows: Rows) -> Rows:
    """A path that judges an address once, when it is declared."""

    def opened(row: Resource | Endpoint) -> Resource | Endpoint:
        if isinstance(row, Endpoint) or row.key.kind != "Cluster":
            return row
        spec = msgspec.json.decode(row.spec, type=dict[str, object]) | {"ranges": []}
        return msgspec.structs.replace(row, spec=msgspec.json.encode(spec))

    return [opened(row) for row in rows]


PLANTED = [
    *((path, "forgets imports", without("ImportPolicy")) for path in ("view", "xds", "dns", "explain")),
    *((path, "ignores consumers", to_everybody) for path in ("view", "xds", "dns", "explain", "admission")),
    *((path, "ignores whom a grant names", of_any_trust_domain) for path in ("view", "xds", "dns", "explain", "admission")),
    *((path, "withdraws nothing", without("Verdict")) for path in ("view", "xds", "dns", "explain")),
    ("xds", "leaves aliases out", without("ServiceAlias")),
    *((path, "leaves external services out", without("ExternalService")) for path in ("view", "xds")),
    *((path, "serves what ranges of now leave out", of_ranges_of_then) for path in ("view", "xds", "gateway", "dns", "explain")),
    *((path, "serves where a controller listens", without("Controller")) for path in ("view", "xds")),
    ("gateway", "exports by habit", to_everybody),
    ("api", "asks nobody's cluster", renamed),
]  # fmt: skip


# Something for each rule to decide: what only one cluster may see, what nobody is granted, what alpha refuses,
# what went with a dead cluster, what is kept for oneself, an alias, what ranges of now leave out (two services of
# beta), and what points to a controller.
RICH: Rows = [
    *FOUNDED,
    resource(put_cluster("beta", ranges=["10.1.0.0/23"])),
    resource(
        put(
            key("Controller", "alpha-1"),
            {
                "cluster": "alpha",
                "role": "member",
                "identity": "spiffe://alpha.test/isthmus/alpha/controller/1",
                "control": "10.1.1.1:15006",
            },
        )
    ),
    *(row for (cluster, _), row in ENDPOINTS_OF_ALL.items() if cluster in ("beta", "gamma")),
    ENDPOINTS_OF_ALL["alpha", ServiceKey("pay", "orders")],
    *(gateway(cluster) for cluster in CLUSTERS),
    resource(put_export("beta", "shop", "orders", consumers=["gamma"], type="Headless")),
    resource(put_grant("beta", "shop", "*")),
    resource(put_export("beta", "pay", "carts")),
    resource(put_grant("beta", "pay", "*", trustDomains=["gamma.test"])),
    resource(put_cluster_export("gamma")),
    *(resource(put_grant("gamma", namespace, "*")) for namespace in NAMESPACES),
    resource(put_import("alpha", action="Refuse", clusters=["gamma"], services=["carts"])),
    resource(put(key("Verdict", "gamma"), {"state": "dead", "sinceMs": 1})),
    resource(
        put(
            key("LossPolicy", "l", scope="gamma", namespace="shop"),
            {"services": ["orders"], "onLoss": "withdraw"},
        )
    ),
    resource(put_export("alpha", "pay", "orders", consumers=["alpha"])),
    resource(put_alias("alpha", "shop", "also", "orders", "pay")),
    *(row for row in OUTSIDE if row.key.scope == "beta"),
]


@pytest.mark.parametrize("viewer", CLUSTERS)
@pytest.mark.parametrize("path", PATHS)
def test_a_catalog_with_something_of_everything_is_seen_as_it_should_be(path, viewer):
    come_out, expected = PATHS[path]
    assert come_out(Seen(RICH, viewer)) == expected(VisibilityOracle(RICH), viewer)


@pytest.mark.parametrize(
    ("path", "mistake"), [pytest.param(path, do, id=f"{path}-{what}") for path, what, do in PLANTED]
)
def test_a_mistake_that_is_planted_into_a_path_is_found(path, mistake):
    come_out, expected = PATHS[path]
    oracle = VisibilityOracle(RICH)
    wrong = [name for name in CLUSTERS if come_out(Seen(mistake(RICH), name)) != expected(oracle, name)]
    assert wrong


@settings(max_examples=60)
@given(
    more=st.lists(st.one_of(endpoint_rows(), endpoint_rows(), export_rows(), import_rows()), max_size=12),
    places=st.lists(cluster_rows(), max_size=3),
)
def test_clusters_that_see_the_same_exports_decide_alike(more, places):
    """Wherever they are: nearness orders whom callers try, and has no say in what a service is."""
    tables = tables_of([*COMMON, *places, *more])
    decided: dict[tuple[ServiceKey, frozenset[str]], tuple[object, ...]] = {}
    for viewer in CLUSTERS:
        view = ViewIndex(viewer)
        view.reset(tables)
        for name in view.services():
            service = view.service(name)
            assert service is not None
            owners = frozenset(owner.cluster for owner in service.owners)
            if viewer in owners and not view.consumers(name):
                continue  # What it keeps for itself comes first, and only it knows.
            said = (service.ports, service.type, service.affinity)
            assert decided.setdefault((name, owners), said) == said

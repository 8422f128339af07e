"""What a cluster sees of another: what is exported and granted to it, in order of distance (D1, S2)."""

import pytest

from discovery.core.model import Change, Endpoint, EndpointPort, Resource, ServiceKey
from discovery.core.overlay import Overlay
from discovery.core.tables import EMPTY_TABLES
from discovery.core.view import Admission, AdmittedSource, Gateway, Service
from discovery.core.views import ViewIndex
from tests.unit.discovery.builders import (
    TRUST_DOMAINS,
    endpoint,
    gateway,
    key,
    put,
    put_cluster,
    put_drain,
    put_export,
    put_grant,
    put_trust_domain,
    resource,
)
from tests.unit.discovery.rows import FEDERATION, changes, tables_of

ORDERS = ServiceKey("shop", "orders")


def view_of(viewer: str, *rows: Resource | Endpoint) -> ViewIndex:
    view = ViewIndex(viewer)
    view.reset(tables_of(*rows))
    return view


def orders(viewer: str, *rows: Resource | Endpoint) -> Service:
    service = view_of(viewer, *rows).service(ORDERS)
    assert service is not None
    return service


def owners(service: Service) -> list[str]:
    return [owner.cluster for owner in service.owners]


EXPORT, GRANT = resource(put_export("beta", "shop", "*")), resource(put_grant("beta", "shop", "*"))


def grant(*services: str, **source: list[str]) -> Resource:
    return resource(put_grant("beta", "shop", *services, **source))


def export(*services: str, consumers: tuple[str, ...] = ("*",)) -> Resource:
    return resource(put_export("beta", "shop", *services, consumers=consumers))


@pytest.mark.parametrize(
    ("policies", "seen"),
    [
        pytest.param([], False, id="nothing-by-default"),
        pytest.param([EXPORT], False, id="exported-only"),
        pytest.param([GRANT], False, id="granted-only"),
        pytest.param([EXPORT, GRANT], True, id="exported-and-granted"),
        pytest.param([export("carts"), GRANT], False, id="another-service-exported"),
        pytest.param([export("carts", "orders"), grant("orders")], True, id="by-name"),
        pytest.param([export("*", consumers=("gamma",)), GRANT], False, id="exported-to-another"),
        pytest.param([export("*", consumers=("gamma", "alpha")), GRANT], True, id="exported-to-us"),
        pytest.param([EXPORT, grant("carts")], False, id="another-service-granted"),
        pytest.param([EXPORT, grant("*", trustDomains=["alpha.test"])], True, id="granted-to-our-trust-domain"),
        pytest.param([EXPORT, grant("*", trustDomains=["gamma.test"])], False, id="granted-to-another-trust-domain"),
        pytest.param([EXPORT, grant("*", principals=["spiffe://alpha.test/ns/a/sa/b"])], True, id="granted-to-one-of-ours"),
        pytest.param([EXPORT, grant("*", principals=["spiffe://alpha.test.x/ns/a/sa/b"])], False, id="to-a-name-like-ours"),
        pytest.param(
            [EXPORT, grant("*", trustDomains=["alpha.test"], principals=["spiffe://gamma.test/ns/a/sa/b"])],
            False,
            id="all-lists-must-match",
        ),
        pytest.param([resource(put_export("beta", "pay", "*")), GRANT], False, id="export-of-another-namespace"),
        pytest.param([resource(put_export("gamma", "shop", "*")), GRANT], False, id="export-by-another-cluster"),
    ],
)  # fmt: skip
def test_a_service_of_another_trust_domain_is_seen_when_it_is_exported_and_granted(policies, seen):
    view = view_of("alpha", endpoint("beta"), *policies)
    assert (view.service(ORDERS) is not None) == seen
    assert list(view.services()) == ([ORDERS] if seen else [])


def test_within_a_trust_domain_an_export_is_enough():
    row = endpoint("alpha")
    assert view_of("delta", row).service(ORDERS) is None
    assert owners(orders("delta", row, resource(put_export("alpha", "shop", "*")))) == ["alpha"]


def test_nobody_is_seen_whose_roots_are_unknown():
    rows = [row for row in FEDERATION if row.key.name != "beta.test"]
    view = ViewIndex("alpha")
    view.reset(EMPTY_TABLES.with_changes(changes(*rows, endpoint("beta"), EXPORT, GRANT), 1))
    assert list(view.services()) == []


def test_our_own_gateways_and_parts_are_no_services():
    view = view_of(
        "alpha", gateway("alpha"), gateway("beta"), resource(put_export("beta", "isthmus-system", "*"))
    )
    assert list(view.services()) == []
    assert view.service(ServiceKey("isthmus-system", "eastwest")) is None


def test_a_cluster_that_has_not_joined_sees_nothing():
    view = view_of("omega", endpoint("alpha"), EXPORT, GRANT)
    assert list(view.services()) == []
    assert view.admission(ORDERS) is None


SHARED = [
    *(resource(put_export(name, "shop", "*")) for name in ("beta", "delta", "gamma")),
    *(resource(put_grant(name, "shop", "*")) for name in ("beta", "gamma")),
]


def test_owners_are_ordered_by_distance():
    places = {
        "alpha": ("eu", "eu-1"),
        "beta": ("eu", "eu-2"),
        "gamma": ("us", "eu-1"),
        "delta": ("eu", "eu-1"),
    }
    rows = []
    for name, (region, zone) in places.items():
        spec = {"role": "primary", "trustDomain": TRUST_DOMAINS[name], "region": region, "zone": zone}
        if name == "delta":
            spec |= {"role": "remote", "home": "alpha"}
        rows += [resource(put(key("Cluster", name), spec)), endpoint(name)]
    assert owners(orders("alpha", *rows, *SHARED)) == ["alpha", "delta", "beta", "gamma"]


def test_unknown_places_are_no_neighbours_and_names_decide():
    rows = [endpoint(name) for name in ("gamma", "beta", "delta", "alpha")]
    assert owners(orders("alpha", *rows, *SHARED)) == ["alpha", "beta", "delta", "gamma"]


@pytest.mark.parametrize(
    ("viewer", "share_percent", "expected"),
    [
        pytest.param("alpha", 25, ["alpha", "beta"], id="in-its-place-while-it-has-a-share"),
        pytest.param("alpha", 0, ["beta", "alpha"], id="drained-comes-last-also-for-its-own-callers"),
        pytest.param("beta", 0, ["beta", "alpha"], id="as-before-where-it-was-last"),
    ],
)
def test_a_drained_cluster_is_the_last_resort(viewer, share_percent, expected):
    policies = [
        resource(put(owner, "shop", "*")) for owner in ("alpha", "beta") for put in (put_export, put_grant)
    ]
    drain = resource(put_drain("alpha", share_percent))
    service = orders(viewer, *policies, endpoint("alpha"), endpoint("beta"), drain)
    assert owners(service) == expected
    assert {owner.cluster: owner.share_percent for owner in service.owners} == {
        "alpha": share_percent,
        "beta": 100,
    }


def test_nobody_else_means_that_a_drained_cluster_serves():
    service = orders("alpha", endpoint("alpha"), resource(put_drain("alpha", 0)))
    assert owners(service) == ["alpha"]


def test_another_cluster_is_reached_through_its_gateways():
    rows = [
        endpoint("beta"),
        gateway("beta", "gw-2", ready=False),
        gateway("beta"),
        gateway("gamma"),
        *SHARED,
    ]
    (owner,) = orders("alpha", *rows).owners
    assert (owner.local, owner.direct) == (False, False)
    identity = "spiffe://beta.test/isthmus/beta/gateway/gw-{}".format
    assert owner.gateways == (
        Gateway(name="gw-1", address="10.1.0.1", port=15006, identity=identity(1), ready=True),
        Gateway(name="gw-2", address="10.1.0.1", port=15006, identity=identity(2), ready=False),
    )


def test_a_cluster_on_the_same_network_is_reached_directly():
    lan = [resource(put_cluster(name, network="lan")) for name in ("alpha", "beta")]
    (owner,) = orders("alpha", endpoint("beta"), gateway("beta"), *SHARED, *lan).owners
    assert (owner.direct, owner.gateways) == (True, ())


def test_ports_are_the_union_and_the_first_cluster_by_name_decides_a_conflict():
    def row(cluster: str, *ports: tuple[int, str]) -> Endpoint:
        made = (EndpointPort(name=f"p{n}", service_port=n, listen_port=9, protocol=p) for n, p in ports)  # type: ignore[arg-type]
        return endpoint(cluster, ports=tuple(made))

    rows = [row("gamma", (80, "tcp"), (81, "tcp")), row("beta", (82, "tcp"), (80, "http"))]
    service = orders("gamma", *rows, *SHARED, resource(put_cluster("gamma")))
    assert owners(service) == ["gamma", "beta"]
    assert [(port.service_port, port.protocol, port.listen_port) for port in service.ports] == [
        (80, "http", 0),
        (81, "tcp", 0),
        (82, "tcp", 0),
    ]


@pytest.mark.parametrize(
    ("policies", "sources"),
    [
        pytest.param([], [], id="own-only"),
        pytest.param([GRANT], [], id="granted-but-exported-to-nobody"),
        pytest.param([EXPORT], [], id="exported-but-granted-to-nobody"),
        pytest.param([EXPORT, GRANT], ["alpha.test", "gamma.test"], id="anybody"),
        pytest.param([export("*", consumers=("gamma",)), GRANT], ["gamma.test"], id="only-who-may-see-it"),
        pytest.param([export("*", consumers=("delta",)), GRANT], ["alpha.test"], id="by-a-remote-of-a-trust-domain"),
        pytest.param([EXPORT, grant("*", trustDomains=["gamma.test", "omega.test"])], ["gamma.test"], id="only-the-federated"),
        pytest.param([EXPORT, grant("carts")], [], id="another-service"),
    ],
)  # fmt: skip
def test_callers_of_other_trust_domains_need_an_export_and_a_grant(policies, sources):
    view = view_of("beta", endpoint("beta"), *policies)
    expected = tuple(AdmittedSource(trust_domain=name) for name in sources)
    assert view.admission(ORDERS) == Admission(own_trust_domain="beta.test", sources=expected)


@pytest.mark.parametrize(
    "newcomer",
    [
        pytest.param(resource(put_trust_domain("gamma.test")), id="its-roots"),
        pytest.param(resource(put_cluster("gamma")), id="itself"),
    ],
)
def test_who_joins_is_admitted_by_what_is_open_to_all(newcomer):
    rows = [row for row in FEDERATION if row.key != newcomer.key]
    before = EMPTY_TABLES.with_changes(changes(*rows, endpoint("beta"), EXPORT, GRANT), 1)
    view = ViewIndex("beta")
    view.reset(before)
    assert AdmittedSource(trust_domain="gamma.test") not in view.admission(ORDERS).sources
    assert view.update(before.with_changes(changes(newcomer), 2), changes(newcomer)) == {ORDERS}
    assert AdmittedSource(trust_domain="gamma.test") in view.admission(ORDERS).sources


def test_a_grant_keeps_its_limits():
    principals = [
        "spiffe://gamma.test/ns/n/sa/z",
        "spiffe://gamma.test/ns/n/sa/a",
        "spiffe://alpha.test/ns/n/sa/a",
    ]
    view = view_of(
        "beta", EXPORT, grant("orders", trustDomains=["gamma.test"], namespaces=["n"], principals=principals)
    )
    admission = view.admission(ORDERS)
    assert admission is not None
    assert admission.sources == (
        AdmittedSource(
            trust_domain="gamma.test",
            namespaces=("n",),
            principals=("spiffe://gamma.test/ns/n/sa/a", "spiffe://gamma.test/ns/n/sa/z"),
        ),
    )


def test_a_gateway_compiles_what_its_cluster_exports_to_somebody_else():
    view = view_of("beta", export("orders", consumers=("alpha", "beta")))
    assert view.consumers(ORDERS) == {"alpha"}
    assert view.consumers(ServiceKey("shop", "carts")) == frozenset()


def test_roots_are_a_new_mapping_only_when_one_changed():
    view = view_of("alpha")
    first = view.trust_domains()
    tables = tables_of(endpoint("alpha"))
    assert view.update(tables, changes(endpoint("alpha"))) == {ORDERS}
    assert view.trust_domains() is first
    rotated = changes(resource(put_trust_domain("beta.test", sequence=2, roots=["NEW"])))
    assert view.update(tables.with_changes(rotated, 2), rotated) == frozenset()
    assert view.trust_domains()["beta.test"].roots_pem == ("NEW",)
    assert view.trust_domains()["beta.test"].sequence == 2


def test_a_record_that_this_build_cannot_read_is_set_aside_and_the_rest_goes_on():
    newer = resource(
        put(key("ExportPolicy", "export", scope="beta", namespace="shop"), {"services": ["*"], "later": 1})
    )
    good = resource(put_export("gamma", "shop", "*"))
    rows = [
        newer,
        GRANT,
        good,
        resource(put_grant("gamma", "shop", "*")),
        endpoint("beta"),
        endpoint("gamma"),
    ]
    view = view_of("alpha", *rows)
    service = view.service(ORDERS)
    assert service is not None
    assert owners(service) == ["gamma"]
    assert list(view.quarantined) == ["clusters/beta/ExportPolicy/shop/export"]
    repaired = changes(EXPORT)
    assert view.update(tables_of(*rows[1:], EXPORT), repaired) == {ORDERS}
    assert view.quarantined == {}


class Counted(ViewIndex):
    """Counts the services that it computes."""

    computed = 0

    def _compute(self, key: ServiceKey) -> Service | None:
        self.computed += 1
        return super()._compute(key)


def test_the_cost_of_a_change_is_that_of_the_services_concerned():
    rows = [endpoint("alpha", service=f"s{number}") for number in range(300)]
    rows += [endpoint("beta", service=f"s{number}") for number in range(5)]
    rows += [endpoint("beta", service=f"s{number}", namespace="hidden") for number in range(300)]
    tables = tables_of(*rows, gateway("beta"), EXPORT, GRANT)
    view = Counted("alpha")
    view.reset(tables)
    for change, expected in (
        (endpoint("alpha", "another", service="s7"), 1),
        (gateway("beta", ready=False), 5 + 1),
        (grant("s1"), 5),
        (resource(put_drain("beta", 75)), 1),  # Only what is granted is seen by now.
    ):
        view.computed = 0
        tables = tables.with_changes(changes(change), tables.revision + 1)
        view.update(tables, changes(change))
        assert view.computed == expected


def test_remembered_services_are_bounded(monkeypatch):
    monkeypatch.setattr("discovery.core.views.ENDPOINTS_MEMOISED_MAX", 5)
    rows = [endpoint("alpha", f"e{row}", service=f"s{number}") for number in range(9) for row in range(2)]
    view = view_of("alpha", *rows)
    for number in (*range(9), *range(9)):
        service = view.service(ServiceKey("shop", f"s{number}"))
        assert service is not None
        assert len(service.owners[0].endpoints) == 2
        assert len(view._services) == 2
        assert view.service(ServiceKey("shop", f"s{number}")) is service


# Local first: the own cluster's rows come from its agents.


def test_an_overlay_shows_the_local_rows_of_its_cluster_and_the_global_ones_of_others():
    mine, stale, theirs = endpoint("alpha", "mine"), endpoint("alpha", "stale"), endpoint("beta")
    local = EMPTY_TABLES.with_changes(changes(mine), 0).endpoints
    overlay = Overlay("alpha")
    overlay.reset(tables_of(stale, theirs), local)
    assert names(overlay) == ["mine", "orders-1"]
    later, other = endpoint("alpha", "later"), endpoint("beta", "other")
    assert overlay.follow(2, changes(later, other, EXPORT)) == changes(other, EXPORT)
    assert overlay.tables.revision == 2
    assert names(overlay) == ["mine", "orders-1", "other"]
    removed = Change("endpoints", mine.key.encode(), None)
    assert overlay.declare((*changes(later), removed)) == (*changes(later), removed)
    assert names(overlay) == ["later", "orders-1", "other"]
    assert overlay.tables.revision == 2


def names(overlay: Overlay) -> list[str]:
    return [row.key.name for row in overlay.tables.list_endpoints(ORDERS)]

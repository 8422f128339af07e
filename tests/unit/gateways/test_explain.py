"""Why a service is as a caller sees it: each reason, beside the view's and the compiler's own answer."""

import pytest

from discovery.core.model import Change, Endpoint, EndpointPort, Resource, ServiceKey
from discovery.core.tables import EMPTY_TABLES
from discovery.core.verdicts import verdict_key
from discovery.core.views import ViewIndex
from federation.kernel.errors import InvalidInputError
from gateways.core.compile import ViewCompiler
from gateways.core.explain import (
    ENDPOINTS_EXPLAINED_MAX,
    POLICIES_EXPLAINED_MAX,
    WITHDRAWN_EXPLAINED_MAX,
    Caller,
    explain,
    parse_caller,
    withdrawn_of,
)
from gateways.core.explained import Explanation, OwnerFact
from tests.unit.discovery.builders import (
    endpoint,
    gateway,
    key,
    put,
    put_cluster,
    put_drain,
    put_export,
    put_grant,
    resource,
)
from tests.unit.discovery.rows import FEDERATION, changes, tables_of

ORDERS = ServiceKey("shop", "orders")
EXPORT, GRANT = resource(put_export("beta", "shop", "*")), resource(put_grant("beta", "shop", "*"))
PORT_81 = EndpointPort(name="admin", service_port=81, listen_port=16000)


def explained(caller: str, *rows: Resource | Endpoint, key: ServiceKey = ORDERS) -> Explanation:
    who = parse_caller(caller)
    view = ViewIndex(who.cluster)
    keys = view.reset(tables_of(*rows))
    compiler = ViewCompiler(who.cluster, view)
    compiler.update(keys)
    return explain(view, compiler, who, key, ())


def owner(caller: str, *rows: Resource | Endpoint, cluster: str = "beta") -> OwnerFact:
    return next(one for one in explained(caller, *rows).owners if one.cluster == cluster)


def test_a_caller_is_a_cluster_or_one_identity_of_it():
    assert parse_caller("alpha") == Caller("alpha")
    assert parse_caller("alpha/shop/web") == Caller("alpha", "shop", "web")


@pytest.mark.parametrize(
    "text", ["", "/", "alpha/", "alpha/shop", "alpha//web", "a/b/c/d", "Alpha", "x" * 9_999]
)
def test_anything_else_is_no_caller(text):
    with pytest.raises(InvalidInputError, match=r"^from: "):
        parse_caller(text)


@pytest.mark.parametrize(
    ("rows", "visible", "why"),
    [
        pytest.param([], False, "not exported: no ExportPolicy of beta/shop shows orders to alpha", id="not-exported"),
        pytest.param([GRANT], False, "not exported: no ExportPolicy of beta/shop shows orders to alpha", id="granted-only"),
        pytest.param([EXPORT], False, "not granted: no Grant of beta/shop lets alpha.test call orders", id="not-granted"),
        pytest.param([EXPORT, GRANT], True, "exported by ExportPolicy export, granted by Grant grant", id="both"),
        pytest.param(
            [EXPORT, GRANT, *(resource(put_export("beta", "shop", "orders", name=f"x{n}")) for n in range(6))],
            True,
            "exported by ExportPolicy export, x0, x1, x2, x3 and 2 more, granted by Grant grant",
            id="by-many",
        ),
    ],
)  # fmt: skip
def test_an_owner_is_seen_by_a_policy_or_not_seen_for_want_of_one(rows, visible, why):
    fact = owner("alpha", endpoint("beta"), *rows)
    assert (fact.visible, fact.why) == (visible, why)
    assert fact.order == (0 if visible else None)
    if not visible:
        assert [(one.called, one.why) for one in fact.endpoints] == [("no", why)]


@pytest.mark.parametrize(("choice", "visible"), [("withdraw", False), ("last-resort", True)])
def test_what_the_death_of_an_owner_did_is_told(choice, visible):
    verdict = resource(put(verdict_key("beta"), {"state": "dead", "sinceMs": 1}))
    policy = put(
        key("LossPolicy", "loss", scope="beta", namespace="shop"), {"services": ["*"], "onLoss": choice}
    )
    found = owner("alpha", endpoint("beta"), EXPORT, GRANT, verdict, resource(policy))
    assert (found.visible, found.why) == (
        visible,
        f"beta is dead, and a LossPolicy of beta/shop says {choice}",
    )


def test_an_owner_whose_roots_are_unknown_is_not_seen():
    rows = [row for row in FEDERATION if row.key.name != "beta.test"]
    view = ViewIndex("alpha")
    view.reset(EMPTY_TABLES.with_changes(changes(*rows, endpoint("beta"), EXPORT, GRANT), 1))
    found = explain(view, ViewCompiler("alpha", view), Caller("alpha"), ORDERS, ())
    assert not found.visible
    assert found.owners[0].why.startswith("the roots of trust domain beta.test are not known")


def test_the_own_cluster_and_trust_domain_need_less():
    row = endpoint("alpha")
    assert owner("alpha", row, cluster="alpha").why == "own cluster: what is registered is seen"
    export = resource(put_export("alpha", "shop", "*"))
    fact = owner("delta/shop/web", row, export, cluster="alpha")
    assert fact.why == "exported by ExportPolicy export; same trust domain: no Grant needed"
    assert (fact.admits_caller, fact.admits_why) == (True, "every identity of alpha.test")
    assert [one.kind for one in fact.policies] == ["ExportPolicy"]


def test_endpoints_of_a_cluster_without_record_are_named():
    found = explained("alpha", endpoint("alpha"), endpoint("omega", identity="spiffe://o/a"))
    assert [(one.cluster, one.why) for one in found.owners if not one.visible] == [
        ("omega", "there is no readable Cluster record of omega")
    ]


def test_our_own_parts_are_no_services():
    found = explained("alpha", gateway("alpha"), key=ServiceKey("isthmus-system", "eastwest"))
    assert (found.visible, found.dns, found.envoy) == (False, (), ())
    assert found.owners[0].why == "isthmus-system holds our own parts, which are no services"


@pytest.mark.parametrize(
    ("policy", "applies", "why"),
    [
        pytest.param(EXPORT, True, "shows it to *", id="export"),
        pytest.param(resource(put_export("beta", "shop", "carts")), False, "names the services carts", id="of-another"),
        pytest.param(resource(put_export("beta", "shop", "*", consumers=["gamma"])), False, "shows it to gamma", id="to-another"),
        pytest.param(GRANT, True, "admits spiffe://alpha.test/ns/shop/sa/web", id="grant"),
        pytest.param(resource(put_grant("beta", "shop", "carts")), False, "names the services carts", id="grant-of-another"),
        pytest.param(resource(put_grant("beta", "shop", "*", trustDomains=["gamma.test"])), False, "has no source of alpha.test", id="grant-to-another"),
        pytest.param(resource(put_grant("beta", "shop", "*", namespaces=["pay"])), True, "does not admit spiffe://alpha.test/ns/shop/sa/web", id="grant-to-another-namespace"),
    ],
)  # fmt: skip
def test_each_policy_says_what_it_does_for_this_caller(policy, applies, why):
    # Admission needs an export too; one of another name that is not looked at.
    base = resource(put_export("beta", "shop", "*", consumers=["alpha"], name="base"))
    facts = owner("alpha/shop/web", endpoint("beta"), policy, base).policies
    (fact,) = (one for one in facts if one.name == policy.key.name)
    assert (fact.kind, fact.applies, fact.why) == (policy.key.kind, applies, why)


@pytest.mark.parametrize(
    ("caller", "source", "admitted", "why"),
    [
        ("alpha/shop/web", {}, True, "by Grant grant"),
        ("alpha/shop/web", {"namespaces": ["shop"]}, True, "by Grant grant"),
        ("alpha/pay/web", {"namespaces": ["shop"]}, False, "no Grant that applies names spiffe://alpha.test/ns/pay/sa/web"),
        ("alpha/shop/web", {"principals": ["spiffe://alpha.test/ns/shop/sa/web"]}, True, "by Grant grant"),
        ("alpha/shop/we", {"principals": ["spiffe://alpha.test/ns/shop/sa/web"]}, False, "no Grant that applies names spiffe://alpha.test/ns/shop/sa/we"),
        ("alpha", {"namespaces": ["shop"]}, None, "identities of Grant grant"),
        ("alpha", {"trustDomains": ["gamma.test"]}, None, "nobody of this cluster"),
    ],
)  # fmt: skip
def test_a_service_that_is_seen_admits_only_whom_a_grant_names(caller, source, admitted, why):
    grant = resource(put_grant("beta", "shop", "*", **source))
    fact = owner(caller, endpoint("beta"), EXPORT, grant)
    assert (fact.admits_caller, fact.admits_why) == (admitted, why)


@pytest.mark.parametrize(
    ("rows", "fates"),
    [
        pytest.param([endpoint("alpha", "a")], [("a", "yes", "ready")], id="ready"),
        pytest.param(
            [endpoint("alpha", "a"), endpoint("alpha", "b", ready=False)],
            [("a", "yes", "ready"), ("b", "no", "not ready, while others of alpha are")],
            id="one-of-two",
        ),
        pytest.param(
            [endpoint("alpha", "a", ready=False)],
            [("a", "last resort", "nothing of alpha is ready: called when no owner has better")],
            id="none-ready",
        ),
        pytest.param(
            [endpoint("beta", "b"), EXPORT, GRANT],
            [("b", "no", "beta is on another network and has no gateway")],
            id="no-gateway",
        ),
        pytest.param(
            [endpoint("beta", "b"), gateway("beta"), EXPORT, GRANT],
            [("b", "yes", "ready, behind gateway gw-1")],
            id="behind-a-gateway",
        ),
        pytest.param(
            [endpoint("beta", "b"), gateway("beta", ready=False), EXPORT, GRANT],
            [("b", "last resort", "no gateway of beta is ready: called when no owner has better, behind gw-1")],
            id="gateway-not-ready",
        ),
        pytest.param(
            [endpoint("beta", "b", ready=False), gateway("beta"), EXPORT, GRANT],
            [("b", "last resort", "nothing of beta is ready: called when no owner has better, behind gw-1")],
            id="gateway-with-nothing-ready",
        ),
        pytest.param(
            [endpoint("alpha", "a", ready=False, ports=(PORT_81,)), endpoint("alpha", "b")],
            [("a", "last resort", "nothing of alpha is ready: called when no owner has better"), ("b", "yes", "ready")],
            id="each-port-for-itself",
        ),
    ],
)  # fmt: skip
def test_each_endpoint_says_why_it_is_called_or_not(rows, fates):
    found = explained("alpha", *rows)
    assert [(e.name, e.called, e.why) for one in found.owners for e in one.endpoints] == fates


def test_owners_say_why_they_stand_in_this_order():
    places = {"alpha": ("eu", "1"), "beta": ("eu", "2"), "gamma": ("us", "1"), "delta": ("eu", "1")}
    rows = [
        resource(put_cluster(name, region=region, zone=zone, **({"role": "remote", "home": "alpha"} if name == "delta" else {})))
        for name, (region, zone) in places.items()
    ]  # fmt: skip
    shared = [
        policy
        for name in places
        for policy in (resource(put_export(name, "shop", "*")), resource(put_grant(name, "shop", "*")))
    ]
    found = explained("alpha", *rows, *shared, *(endpoint(name) for name in places))
    assert [(one.order, one.cluster, one.distance) for one in found.owners] == [
        (0, "alpha", "own cluster"),
        (1, "delta", "same zone"),
        (2, "beta", "same region"),
        (3, "gamma", "elsewhere"),
    ]


def test_an_owner_that_is_drained_says_so():
    found = explained(
        "alpha", endpoint("alpha"), endpoint("beta"), EXPORT, GRANT, resource(put_drain("alpha", 0))
    )
    assert [(one.cluster, one.distance) for one in found.owners] == [
        ("beta", "elsewhere"),
        ("alpha", "own cluster; drained: 0% of its traffic"),
    ]


def test_what_envoy_gets_and_what_dns_says_is_told():
    found = explained("alpha", endpoint("alpha", weight=3), endpoint("beta"), gateway("beta"), EXPORT, GRANT)
    (port,) = found.envoy
    host = "orders.shop.svc.clusterset.local"
    assert (port.service_port, port.cluster) == (8080, f"outbound|8080||{host}")
    assert [(m.priority, m.name, [(t.weight, t.health) for t in m.targets]) for m in port.members] == [
        (0, f"outbound|8080||{host}|alpha", [(3, "unknown")]),
        (1, f"outbound|8080||{host}|beta", [(1, "unknown")]),
    ]
    assert [(one.name, one.type) for one in found.dns] == [
        (host, "A"),
        (host, "SRV"),
        (f"_http._tcp.{host}", "SRV"),
    ]
    assert found.dns[0].data.startswith("241.")
    assert found.dns[1].data == f"0 1 8080 {host}."


def test_what_is_not_visible_has_neither_address_nor_clusters():
    found = explained("alpha", endpoint("beta"))
    assert (found.visible, found.dns, found.envoy) == (False, (), ())


def test_a_service_that_nobody_has_is_explained_by_nothing():
    found = explained("alpha")
    assert (found.visible, found.owners, found.problem) == (False, (), "")


def test_an_explanation_is_bounded_and_its_counts_are_of_all():
    many = [endpoint("alpha", f"e{n}", ready=n % 2 == 0) for n in range(ENDPOINTS_EXPLAINED_MAX + 10)]
    exports = [
        resource(put_export("beta", "shop", "*", name=f"x{n}")) for n in range(POLICIES_EXPLAINED_MAX + 10)
    ]
    alpha, beta = explained("alpha", *many, *exports, endpoint("beta")).owners
    assert (alpha.endpoint_count, alpha.ready_count) == (len(many), len(many) // 2)
    assert len(alpha.endpoints) == ENDPOINTS_EXPLAINED_MAX
    assert len(beta.policies) == POLICIES_EXPLAINED_MAX


def test_what_was_withdrawn_and_did_not_come_back_is_remembered_newest_first():
    def gone(name: str, cluster: str = "alpha", **rest: str) -> Change:
        return Change("endpoints", endpoint(cluster, name, **rest).key.encode(), None)

    history = [
        (3, (gone("a"), gone("back"))),
        (4, (gone("other", service="carts"), *changes(endpoint("alpha", "back")))),
        (5, (gone("b", "beta"),)),
        (6, (gone("a"),)),
    ]
    found = withdrawn_of(history, tables_of(endpoint("alpha", "back")), ORDERS)
    assert [(one.revision, one.cluster, one.name) for one in found] == [(6, "alpha", "a"), (5, "beta", "b")]
    many = [(n, (gone(f"e{n}"),)) for n in range(WITHDRAWN_EXPLAINED_MAX + 5)]
    assert len(withdrawn_of(many, tables_of(), ORDERS)) == WITHDRAWN_EXPLAINED_MAX


def test_conflicts_name_who_decides_and_who_lost():
    older = resource(put_export("beta", "shop", "*", type="Headless"), created=1)
    younger = resource(put_export("alpha", "shop", "*", name="mine"), created=2)
    tcp = EndpointPort(name="http", service_port=8080, listen_port=15006, protocol="tcp")
    rows = [endpoint("alpha", ports=(tcp,)), endpoint("beta"), gateway("beta"), older, younger, GRANT]
    found = explained("alpha", *rows)
    assert (found.type, found.decided_by) == ("Headless", "beta (ExportPolicy export)")
    assert [(one.cluster, one.policy, one.reason) for one in found.conflicts] == [
        ("alpha", "ExportPolicy mine", "TypeConflict"),
        ("alpha", "ExportPolicy mine", "PortConflict"),
    ]
    # Who lost a port is called at it by nobody, and says why.
    assert [(one.cluster, e.called, e.why) for one in found.owners for e in one.endpoints] == [
        ("alpha", "no", "no agreement on what is spoken at 8080: see conflicts"),
        ("beta", "yes", "ready, behind gateway gw-1"),
    ]

"""What policies share: of a namespace, of a whole cluster, what the consumer takes, and whom a grant lets in."""

import json
from typing import Any

import pytest

from discovery.core.kinds import decode_spec
from discovery.core.model import Endpoint, Resource, ServiceKey
from discovery.core.views import ViewIndex
from federation.kernel.errors import Code, InvalidInputError
from tests.unit.discovery.builders import (
    endpoint,
    founded,
    put_cluster_export,
    put_export,
    put_grant,
    put_import,
    resource,
)
from tests.unit.discovery.test_views import tables_of

NAMESPACES = ("kube-system", "pay", "shop")
GRANTS = [resource(put_grant("beta", namespace, "*")) for namespace in NAMESPACES]
THEIRS = [
    endpoint("beta", namespace=namespace, service=service)
    for namespace in NAMESPACES
    for service in ("carts", "orders")
]


def seen(*policies: Resource | Endpoint, viewer: str = "alpha") -> set[str]:
    view = ViewIndex(viewer)
    view.reset(tables_of(*THEIRS, *GRANTS, *policies))
    return {str(key) for key in view.services()}


def every(*names: str) -> set[str]:
    return {f"{name}/{service}" for name in names for service in ("carts", "orders")}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param([], set(), id="nothing-by-default"),
        pytest.param([put_cluster_export("beta")], every("pay", "shop"), id="all-but-system-namespaces"),
        pytest.param([put_cluster_export("beta", exceptNamespaces=["pay"])], every("shop"), id="but-for-one"),
        pytest.param([put_cluster_export("beta", consumers=["gamma"])], set(), id="to-somebody-else"),
        pytest.param([put_cluster_export("beta", consumers=["gamma"]), put_export("beta", "pay", "carts")], {"pay/carts"}, id="policies-add-up"),
        pytest.param([put_cluster_export("beta", exceptNamespaces=["pay"]), put_export("beta", "pay", "carts")], {*every("shop"), "pay/carts"}, id="an-exception-is-not-a-ban"),
        pytest.param([put_export("beta", "kube-system", "*")], every("kube-system"), id="system-by-name-only"),
        pytest.param([put_cluster_export("gamma")], set(), id="of-another-cluster"),
    ],
)  # fmt: skip
def test_a_cluster_shows_what_its_policies_export(policies, expected):
    assert seen(*map(resource, policies)) == expected


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        pytest.param([], every("pay", "shop"), id="all-by-default"),
        pytest.param([{"action": "Refuse"}], set(), id="none"),
        pytest.param([{"action": "Refuse", "clusters": ["gamma"]}], every("pay", "shop"), id="none-of-another"),
        pytest.param([{"action": "Refuse", "namespaces": ["pay"]}], every("shop"), id="none-of-a-namespace"),
        pytest.param([{"action": "Refuse", "services": ["carts"]}], {"pay/orders", "shop/orders"}, id="none-of-a-name"),
        pytest.param([{"namespaces": ["pay"]}], every("pay"), id="only-what-is-taken"),
        pytest.param([{"namespaces": ["pay"]}, {"services": ["orders"]}], {*every("pay"), "shop/orders"}, id="what-any-takes"),
        pytest.param([{"namespaces": ["pay"]}, {"action": "Refuse", "services": ["carts"]}], {"pay/orders"}, id="refusing-wins"),
        pytest.param([{"clusters": ["gamma"]}], set(), id="only-of-another"),
        pytest.param([{"clusters": ["beta"], "namespaces": ["pay"], "services": ["carts"]}], {"pay/carts"}, id="all-lists-match"),
    ],
)  # fmt: skip
def test_a_cluster_takes_what_its_import_policies_let_in(imports, expected):
    policies = [put_import("alpha", name=f"i{n}", **spec) for n, spec in enumerate(imports)]
    assert seen(*map(resource, (put_cluster_export("beta"), *policies))) == expected


def test_an_import_policy_speaks_for_its_own_cluster_alone_and_never_about_it():
    refuse = resource(put_import("alpha", action="Refuse"))
    exported = resource(put_cluster_export("beta"))
    assert seen(exported, refuse, viewer="gamma") == every("pay", "shop")
    assert seen(exported, refuse, endpoint("alpha")) == {"shop/orders"}


@pytest.mark.parametrize(
    ("source", "trust_domains"),
    [
        pytest.param({}, {"alpha.test", "gamma.test"}, id="anybody"),
        pytest.param({"trustDomains": ["alpha.test"]}, {"alpha.test"}, id="a-trust-domain"),
        pytest.param({"namespaces": ["web"]}, {"alpha.test", "gamma.test"}, id="a-namespace-of-any"),
        pytest.param({"principals": ["spiffe://gamma.test/ns/web/sa/x"]}, {"gamma.test"}, id="an-identity"),
        pytest.param({"trustDomains": ["alpha.test"], "principals": ["spiffe://gamma.test/ns/web/sa/x"]}, set(), id="an-identity-of-another"),
        pytest.param({"trustDomains": ["omega.test"]}, set(), id="unknown-trust-domain"),
    ],
)  # fmt: skip
def test_a_grant_admits_by_trust_domain_namespace_and_identity(source, trust_domains):
    view = ViewIndex("beta")
    grant, export = put_grant("beta", "shop", "orders", **source), put_export("beta", "shop", "orders")
    view.reset(tables_of(endpoint("beta"), resource(grant), resource(export)))
    admission = view.admission(ServiceKey("shop", "orders"))
    assert admission is not None
    assert {one.trust_domain for one in admission.sources} == trust_domains
    assert {one.namespaces for one in admission.sources} <= {tuple(source.get("namespaces", ()))}
    for viewer in ("alpha", "gamma"):
        theirs = ViewIndex(viewer)
        theirs.reset(tables_of(endpoint("beta"), resource(grant), resource(export)))
        assert bool(list(theirs.services())) == (f"{viewer}.test" in trust_domains)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("ExportPolicy", {"services": ["*"], "type": "ExternalName"}, "invalid enum value 'ExternalName' - at `$.type`"),
        ("ExportPolicy", {"services": ["*"], "sessionAffinity": "Cookie"}, "invalid enum value 'Cookie'"),
        ("ExportPolicy", {"services": ["Orders"]}, "spec.services[0]: 'Orders' is not a name"),
        ("ExportPolicy", {"services": ["orders.pay"]}, "spec.services[0]: 'orders.pay' is not a name"),
        ("ExportPolicy", {"services": ["оrders"]}, "is not a name"),  # noqa: RUF001 - a Cyrillic letter
        ("ExportPolicy", {"services": ["o" * 64]}, "has 64 characters, at most 63 are allowed"),
        ("ClusterExportPolicy", {"services": ["*"]}, "unknown field `services`"),
        ("ClusterExportPolicy", {"consumers": []}, "spec.consumers is empty"),
        ("ClusterExportPolicy", {"exceptNamespaces": ["*"]}, "spec.exceptNamespaces[0]: '*' is not a name"),
        ("ImportPolicy", {"action": "Drop"}, "invalid enum value 'Drop' - at `$.action`"),
        ("ImportPolicy", {"clusters": []}, "spec.clusters is empty"),
        ("ImportPolicy", {"namespaces": ["a b"]}, "spec.namespaces[0]: 'a b' is not a name"),
    ],
)  # fmt: skip
def test_what_a_policy_cannot_say_is_refused_naming_the_field(kind: str, spec: dict[str, Any], message: str):
    with pytest.raises(InvalidInputError) as caught:
        decode_spec(kind, json.dumps(spec).encode(), where="here")
    assert message in caught.value.message


@pytest.mark.parametrize("put", [put_cluster_export("alpha"), put_import("alpha")])
def test_only_the_cluster_itself_says_what_it_exports_and_takes(put):
    log = founded()
    assert log.write("beta", put).code == Code.PERMISSION_DENIED
    assert log.write("alpha", put).code == 0

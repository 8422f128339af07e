"""A peer that means harm: it exports every name of ours, floods us with names, or is somebody's double."""

import json
from typing import Any

import pytest

from discovery.core.conditions import Conditions
from discovery.core.kinds import decode_spec
from discovery.core.model import EndpointPort, Resource, ServiceKey
from discovery.core.policies import ALIASES_MAX, OVERRULED_MAX, Policies
from discovery.core.views import ViewIndex
from federation.kernel.errors import Code, InvalidInputError
from federation.kernel.limits import RESOURCE_BYTES_MAX
from tests.unit.discovery.builders import (
    endpoint,
    founded,
    key,
    put,
    put_alias,
    put_cluster_export,
    put_export,
    put_grant,
    put_import,
    resource,
)
from tests.unit.discovery.test_views import tables_of

OURS = [endpoint("alpha", service=f"s{number}") for number in range(20)]
TCP = EndpointPort(name="http", service_port=8080, listen_port=15006, protocol="tcp")
THEIRS = [endpoint("beta", service=f"s{number}", ports=(TCP,)) for number in range(20)]
GREEDY = [
    resource(put_export("beta", "shop", "*", type="Headless"), created=0),
    resource(put_grant("beta", "shop", "*")),
]


def services(view: ViewIndex) -> list[tuple[str, str, str]]:
    found = [view.service(name) for name in view.services()]
    return [(str(one.key), one.type, one.ports[0].protocol) for one in found if one is not None]


def viewed(*rows: Any) -> ViewIndex:
    view = ViewIndex("alpha")
    view.reset(tables_of(*rows))
    return view


def test_who_exports_every_name_of_ours_changes_nothing_of_what_we_keep_for_ourselves():
    assert services(viewed(*OURS, *THEIRS, *GREEDY)) == services(viewed(*OURS))


def test_who_exports_every_name_later_changes_nothing_of_what_we_export():
    exported = resource(put_export("alpha", "shop", "*"), created=1)
    late = [resource(put_export("beta", "shop", "*", type="Headless"), created=2), GREEDY[1]]
    assert services(viewed(*OURS, exported, *THEIRS, *late)) == services(viewed(*OURS, exported))


def test_what_a_peer_exports_can_be_refused_whole():
    refuse = resource(put_import("alpha", action="Refuse", clusters=["beta"]))
    exported = resource(put_export("alpha", "shop", "*"), created=1)
    view = viewed(*OURS, exported, *THEIRS, *GREEDY, refuse)
    assert services(view) == services(viewed(*OURS, exported))
    assert view.owned_by("beta") == frozenset()


@pytest.mark.parametrize(
    "name", ["Orders", "orders.", "or.ders", "\u03bfrders", "orders\0", "", "-o", "o" * 64, "xn--\u0430"]
)
@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("ExportPolicy", lambda name: {"services": [name]}),
        ("ClusterExportPolicy", lambda name: {"exceptNamespaces": [name]}),
        ("ImportPolicy", lambda name: {"services": [name]}),
        ("ServiceAlias", lambda name: {"service": name}),
        ("Grant", lambda name: {"services": [name], "sources": [{}]}),
    ],
)  # fmt: skip
def test_a_name_that_only_looks_like_one_is_refused_by_every_kind(kind, spec, name):
    with pytest.raises(InvalidInputError, match=r"^here: "):
        decode_spec(kind, json.dumps(spec(name)).encode(), where="here")


@pytest.mark.parametrize("name", ["Orders", "ord.ers", "o" * 64])
def test_an_alias_is_called_as_a_service_may_be(name):
    log = founded()
    target = key("ServiceAlias", name, scope="alpha", namespace="shop")
    outcome = log.write("alpha", put(target, {"service": "orders"}))
    assert (outcome.code, log.catalog.tables.resource(target)) == (Code.INVALID_ARGUMENT, None)


def test_a_policy_of_thousands_of_names_is_refused_by_its_size_and_changes_nothing():
    log = founded()
    names = [f"service-{number}" for number in range(RESOURCE_BYTES_MAX // 10)]
    before = log.catalog.revision
    assert log.write("alpha", put_export("alpha", "shop", *names)).code == Code.RESOURCE_EXHAUSTED
    assert log.catalog.revision == before


def test_a_flood_of_aliases_costs_a_bounded_number_of_names_and_the_others_are_told():
    aliases = [
        resource(put_alias("alpha", "web", f"n{number:05}", "orders", "shop")) for number in range(1_500)
    ]
    view = viewed(endpoint("alpha"), *aliases)
    assert len(list(view.services())) == 1 + ALIASES_MAX
    conditions = Conditions("alpha")
    conditions.reset(tables_of(endpoint("alpha"), *aliases))
    told = conditions.writes(0, 2_000)
    assert len(told) == 1_500 - ALIASES_MAX
    assert all(b"TooManyAliases" in (one.status or b"") for one in told)


def test_thousands_of_policies_that_contradict_each_other_are_one_bounded_claim():
    many: list[Resource] = [
        resource(put_export("beta", "shop", "orders", name=f"p{n}", type="Headless"), created=n)
        for n in range(500)
    ]
    claim = Policies(tables_of(*many)).claim("beta", ServiceKey("shop", "orders"), ())
    assert len(claim.overruled) == OVERRULED_MAX
    assert claim.said.policy == "ExportPolicy p0"


def test_what_a_cluster_exports_of_the_systems_namespaces_is_nothing():
    rows = [
        endpoint("beta", namespace=namespace)
        for namespace in ("kube-system", "kube-public", "kube-node-lease", "shop")
    ]
    grants = [resource(put_grant("beta", row.key.namespace, "*")) for row in rows]
    view = viewed(*rows, *grants, resource(put_cluster_export("beta")))
    assert [str(name) for name in view.services()] == ["shop/orders"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        pytest.param({"trustDomains": ["*"]}, "spec.sources[0].trustDomains[0]: '*' is not a name", id="no-wildcard-of-domains"),
        pytest.param({"trustDomains": ["Beta.test"]}, "trustDomains[0]: 'Beta' is not a name", id="a-domain-in-another-case"),
        pytest.param({"trustDomains": ["beta.xn--test-"]}, "trustDomains[0]", id="a-look-alike"),
        pytest.param({"namespaces": ["*"]}, "spec.sources[0].namespaces[0]: '*' is not a name", id="no-wildcard-of-namespaces"),
        pytest.param({"namespaces": ["shop/sa/web"]}, "namespaces[0]", id="more-than-a-namespace"),
        pytest.param({"namespaces": [""]}, "namespaces[0]", id="no-namespace"),
        pytest.param({"principals": ["beta.test/ns/shop/sa/web"]}, "spec.sources[0].principals[0] is 'beta.test/ns/shop/sa/web', expected spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/NAME", id="no-scheme"),
        pytest.param({"principals": ["spiffe://beta.test/ns/shop/sa/*"]}, "principals[0]: '*' is not a name", id="no-wildcard-of-principals"),
        pytest.param({"principals": ["spiffe://beta.test/ns/shop/sa/"]}, "principals[0]: '' is not a name", id="no-account"),
        pytest.param({"principals": ["spiffe://Beta.test/ns/shop/sa/web"]}, "principals[0]", id="a-principal-in-another-case"),
        pytest.param({"principals": ["spiffe://beta.test/isthmus/beta/agent/a1"]}, "principals[0] is", id="not-a-workload"),
    ],
)  # fmt: skip
def test_a_grant_that_could_let_in_nobody_whom_its_author_meant_is_refused_naming_the_field(source, says):
    """It would stand there as if it worked, and deny."""
    log = founded()
    refused = log.write("alpha", put_grant("alpha", "shop", "*", **source))
    assert refused.code == Code.INVALID_ARGUMENT
    assert says in refused.message
    log.accept(
        "alpha",
        put_grant(
            "alpha",
            "shop",
            "*",
            trustDomains=["beta.test"],
            namespaces=["shop"],
            principals=["spiffe://beta.test/ns/shop/sa/web"],
        ),
    )

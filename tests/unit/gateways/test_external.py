"""External services on the data path: called directly and in the clear, ordered by what checkers miss."""

from typing import Any

import pytest
from envoy.config.core.v3.health_check_pb2 import DEGRADED, UNHEALTHY, UNKNOWN

from discovery.core.model import Change, Endpoint, Resource, ServiceKey, pack
from discovery.core.tables import EMPTY_TABLES
from discovery.core.views import ViewIndex
from gateways.core import names
from gateways.core.compile import ViewCompiler
from gateways.core.explain import Caller, explain
from gateways.core.explained import OwnerFact
from gateways.core.handover import orphans
from gateways.core.whatif import lose_service
from gateways.core.wire import CLUSTER, ENDPOINTS
from tests.unit.discovery.builders import (
    endpoint,
    gateway,
    put_cluster,
    put_drain,
    put_export,
    put_external,
    put_grant,
    put_trust_domain,
    resource,
    with_states,
)
from tests.unit.gateways.decoding import addresses, decode, members

ORDERS = ServiceKey("shop", "orders")
BASE = [
    *(resource(put_cluster(name, network=name)) for name in ("alpha", "beta")),
    *(resource(put_trust_domain(name)) for name in ("alpha.test", "beta.test")),
    resource(put_export("beta", "shop", "*")),
    resource(put_grant("beta", "shop", "*")),
]
OUTSIDE = resource(put_external("beta", "shop", "orders", "203.0.113.5", "203.0.113.6"))
PORT = 8080
PART = names.owner_cluster(ORDERS, PORT, "beta.external")


class Made:
    """What callers of a cluster get of a catalog."""

    def __init__(self, viewer: str, *rows: Resource | Endpoint) -> None:
        changes = [
            Change("endpoints" if isinstance(row, Endpoint) else "resources", row.key.encode(), pack(row))
            for row in (*BASE, *rows)
        ]
        self.viewer = viewer
        self.view = ViewIndex(viewer)
        self.compiler = ViewCompiler(viewer, self.view)
        self.compiler.update(self.view.reset(EMPTY_TABLES.with_changes(changes, 1)))

    def sent(self, type_url: str, name: str, kind: Any = "sidecar") -> Any:
        return decode(self.compiler.shared(kind, type_url)[name])

    def told(self) -> list[OwnerFact]:
        found = explain(self.view, self.compiler, Caller(self.viewer, "shop", "web"), ORDERS, ())
        return list(found.owners)


def health(assignment: Any) -> dict[str, int]:
    return {
        each.endpoint.address.socket_address.address: each.health_status
        for locality in assignment.endpoints
        for each in locality.lb_endpoints
    }


def test_an_address_outside_is_called_directly_and_in_the_clear():
    made = Made("alpha", OUTSIDE, gateway("beta"))
    cluster = made.sent(CLUSTER, PART)
    assert not cluster.HasField("transport_socket")
    assert not cluster.health_checks
    assert not cluster.typed_extension_protocol_options  # HTTP/1.1.
    assert addresses(made.sent(ENDPOINTS, PART)) == ["203.0.113.5:8080", "203.0.113.6:8080"]


def test_callers_name_one_port_and_the_address_listens_at_another():
    ports = [{"name": "http", "port": 80, "targetPort": 8443, "protocol": "tcp"}]
    made = Made("alpha", resource(put_external("beta", ports=ports)))
    part = names.owner_cluster(ORDERS, 80, "beta.external")
    assert addresses(made.sent(ENDPOINTS, part)) == ["203.0.113.5:8443"]


def test_registered_endpoints_of_the_same_cluster_come_first():
    made = Made("alpha", OUTSIDE, endpoint("beta"), gateway("beta"))
    aggregate = made.sent(CLUSTER, names.service_cluster(ORDERS, PORT))
    assert members(aggregate) == [names.owner_cluster(ORDERS, PORT, "beta"), PART]
    assert [(one.cluster, one.external, one.order) for one in made.told()] == [
        ("beta", False, 0),
        ("beta", True, 1),
    ]


def test_a_gateway_passes_nothing_on_to_an_address_that_speaks_no_mutual_tls():
    made = Made("beta", OUTSIDE)
    assert not made.compiler.shared("gateway", CLUSTER)
    made = Made("beta", OUTSIDE, endpoint("beta"))
    sni = names.service_sni(ORDERS, PORT)
    assert addresses(made.sent(ENDPOINTS, sni, "gateway")) == ["10.1.0.1:15006"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, {"203.0.113.5": UNKNOWN, "203.0.113.6": UNKNOWN}),
        ({"a5": "degraded"}, {"203.0.113.5": DEGRADED, "203.0.113.6": UNKNOWN}),
        ({"a5": "degraded", "a6": "degraded"}, {"203.0.113.5": DEGRADED, "203.0.113.6": DEGRADED}),
        ({"a5": "unhealthy"}, {"203.0.113.6": UNKNOWN}),
        ({"a5": "unhealthy", "a6": "degraded"}, {"203.0.113.6": DEGRADED}),
        ({"a5": "unhealthy", "a6": "unhealthy"}, {"203.0.113.5": UNHEALTHY, "203.0.113.6": UNHEALTHY}),
    ],
)
def test_a_warning_goes_behind_and_a_loss_away_while_another_is_left(states, expected):
    made = Made("alpha", with_states(OUTSIDE, **states))
    assignment = made.sent(ENDPOINTS, PART)
    assert health(assignment) == expected
    # One that is well takes everything.
    assert assignment.policy.overprovisioning_factor.value >= 100 * len(expected)


@pytest.mark.parametrize(
    ("states", "called", "why"),
    [
        ({}, "yes", "missed by nobody that counts"),
        ({"a5": "degraded"}, "last resort", "degraded, missed by alpha: called when none is left"),
        ({"a5": "unhealthy"}, "no", "unhealthy, missed by alpha, while others are not"),
        ({"a5": "unhealthy", "a6": "unhealthy"}, "last resort", "unhealthy, missed by alpha, as all others"),
    ],
)
def test_why_an_address_is_called_or_not_is_told(states, called, why):
    [fact] = Made("alpha", with_states(OUTSIDE, **states)).told()
    assert (fact.visible, fact.external, fact.admits_caller) == (True, True, True)
    assert fact.endpoints[0].called == called
    assert why in fact.endpoints[0].why


def test_what_is_not_exported_is_not_there_and_why_is_told():
    made = Made("beta", resource(put_external("alpha")))
    assert made.view.service(ORDERS) is None
    [fact] = made.told()
    assert (fact.visible, fact.endpoints[0].called) == (False, "no")
    assert fact.why.startswith("not exported")


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        pytest.param([endpoint("beta")], [("beta", False, True), ("beta", True, True)], id="both-seen"),
        pytest.param(
            [endpoint("beta"), resource(put_cluster("beta", network="beta", ranges=["10.200.0.0/16"]))],
            [("beta", True, True), ("beta", False, False)],
            id="one-of-them-not-served",
        ),
        pytest.param(
            [endpoint("beta"), resource(put_export("beta", "shop", "carts"))],
            [("beta", False, False), ("beta", True, False)],
            id="both-hidden",
        ),
    ],
)
def test_the_policies_of_a_cluster_are_told_once_for_what_is_registered_and_what_is_outside(rows, parts):
    told = Made("alpha", OUTSIDE, *rows).told()
    assert [(one.cluster, one.external, one.visible) for one in told] == parts
    assert [sorted(policy.kind for policy in one.policies) for one in told] == [["ExportPolicy", "Grant"], []]


def test_a_drain_or_a_loss_of_its_cluster_leaves_an_address_where_it_is():
    made = Made("alpha", OUTSIDE, endpoint("beta"), gateway("beta"), resource(put_drain("beta", 0)))
    service = made.view.service(ORDERS)
    assert service is not None
    assert [(one.part, one.share_percent) for one in service.owners] == [("beta.external", 100), ("beta", 0)]
    assert not list(orphans(service, "alpha", "beta", ()))
    [loss] = lose_service(service, service, "alpha", {"beta"})
    assert (loss.outcome, loss.owners_then) == ("thinner", ("beta.external",))

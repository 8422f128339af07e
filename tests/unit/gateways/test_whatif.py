"""What losing clusters would do: to services, to the log, to remote clusters."""

import msgspec
import pytest

from discovery.core.specs import ClusterSpec
from discovery.core.view import Service
from gateways.core.whatif import (
    ServiceLoss,
    lose_clusters,
    lose_quorum,
    lose_service,
    ready_endpoints,
    worst_first,
)
from tests.unit.gateways.builders import endpoint, gateway, owner, service

HERE = owner("alpha", [endpoint("alpha")], local=True)
HERE_UNREADY = owner("alpha", [endpoint("alpha", ready=False)], local=True)
B = owner("beta", [endpoint("beta"), endpoint("beta", "e2")], gateways=[gateway("beta")])
B_UNREADY = owner("beta", [endpoint("beta", ready=False)], gateways=[gateway("beta")])
C = owner("gamma", [endpoint("gamma", address="127.105.0.2")])

PORT = endpoint("beta").ports[0]


def losses(found: Service, *lost: str) -> list[ServiceLoss]:
    return list(lose_service(found, found, "alpha", frozenset(lost)))


@pytest.mark.parametrize(
    ("owners", "lost", "outcome", "served", "ready"),
    [
        pytest.param([B], ["beta"], "dies", ("beta", ""), (2, 0), id="the-only-owner"),
        pytest.param([B, C], ["beta", "gamma"], "dies", ("beta", ""), (3, 0), id="all-owners"),
        pytest.param([B, C], ["beta"], "moves", ("beta", "gamma"), (3, 1), id="the-first-owner"),
        pytest.param([HERE, B], ["beta"], "thinner", ("alpha", "alpha"), (3, 1), id="one-that-stood-by"),
        pytest.param([HERE_UNREADY, B], ["beta"], "last resort", ("beta", "alpha"), (2, 0), id="nothing-ready-is-left"),
        pytest.param([HERE_UNREADY, B, C], ["beta"], "moves", ("beta", "gamma"), (3, 1), id="past-what-is-not-ready"),
        pytest.param([B_UNREADY, C], ["beta"], "thinner", ("gamma", "gamma"), (1, 1), id="what-nobody-called"),
    ],
)  # fmt: skip
def test_callers_of_a_lost_owner_are_served_by_the_next_one(owners, lost, outcome, served, ready):
    (loss,) = losses(service(*owners), *lost)
    assert (loss.caller, loss.service, loss.service_port) == ("alpha", "shop/orders", 8080)
    assert loss.outcome == outcome
    assert (loss.served_by, loss.served_then) == served
    assert (loss.ready_now, loss.ready_then) == ready
    assert loss.owners_then == tuple(one.cluster for one in owners if one.cluster not in lost)


def test_who_owns_nothing_of_a_service_is_not_missed():
    assert losses(service(HERE, B), "gamma") == []
    # On another network, and without a gateway: nobody reaches it as it is.
    assert losses(service(HERE, msgspec.structs.replace(B, gateways=())), "beta") == []


def test_each_port_is_lost_for_itself():
    admin = owner("gamma", [endpoint("gamma", service_port=81)])
    found = losses(service(B, admin, ports=[(81, "http"), (8080, "http")]), "gamma")
    # A gateway is one for all ports, but beta's is sent for 8080 alone: nothing stands behind it at 81.
    assert [(one.service_port, one.outcome, one.ready_now, one.ready_then) for one in found] == [
        (81, "dies", 1, 0)
    ]


def test_only_ready_endpoints_behind_a_ready_gateway_count():
    assert ready_endpoints(B, PORT) == 2
    assert ready_endpoints(B, msgspec.structs.replace(PORT, service_port=81)) == 0
    down = [msgspec.structs.replace(gateway("beta"), ready=False)]
    assert ready_endpoints(owner("beta", [endpoint("beta")], gateways=down), PORT) == 0


def test_the_worst_comes_first():
    found = [
        *losses(service(HERE, B), "beta"),
        *losses(service(B, C), "beta"),
        *losses(service(HERE_UNREADY, B), "beta"),
        *losses(service(B), "beta"),
    ]
    assert [one.outcome for one in sorted(found, key=worst_first)] == [
        "dies",
        "last resort",
        "moves",
        "thinner",
    ]


@pytest.mark.parametrize(
    ("voters", "silent", "lost", "answering", "needed", "survives"),
    [
        ("abc", "", "a", 2, 2, True),
        ("abc", "", "ab", 1, 2, False),
        ("abc", "c", "a", 1, 2, False),
        ("abc", "c", "c", 2, 2, True),
        ("abcde", "e", "ab", 2, 3, False),
        ("abcde", "", "ab", 3, 3, True),
        ("ab", "", "a", 1, 2, False),
        ("a", "", "a", 0, 1, False),
        ("abc", "", "x", 3, 2, True),
    ],
)
def test_the_log_goes_on_while_a_majority_of_all_voters_answers(
    voters, silent, lost, answering, needed, survives
):
    heard = set(voters) - set(silent)
    found = lose_quorum(voters, heard, frozenset(lost))
    assert (found.answering, found.needed, found.survives) == (answering, needed, survives)
    assert found.lost == tuple(sorted(set(voters) & set(lost)))
    assert found.silent == tuple(sorted(set(silent) - set(lost)))
    assert found.survives_now == (len(heard) >= needed)


def test_remote_clusters_lose_their_home_and_gateways_go_with_their_cluster():
    clusters = {
        "alpha": ClusterSpec(role="primary", trust_domain="a"),
        "beta": ClusterSpec(role="primary", trust_domain="b"),
        "delta": ClusterSpec(role="remote", trust_domain="a", home="alpha"),
        "echo": ClusterSpec(role="remote", trust_domain="a", home="alpha"),
    }
    found = lose_clusters(clusters, {"beta": (gateway("beta"),)}, {"alpha", "echo"}, {"echo"})
    assert [(one.cluster, one.lost, one.home_lost, one.gateways, one.ready_gateways) for one in found] == [
        ("alpha", True, False, 0, 0),
        ("beta", False, False, 1, 1),
        ("delta", False, True, 0, 0),
        ("echo", True, False, 0, 0),
    ]
    assert [one.cluster for one in found if one.found_dead] == ["echo"]

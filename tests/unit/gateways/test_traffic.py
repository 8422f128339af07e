"""What Envoy's counters say of the requests to each service."""

import pytest

from gateways.core.traffic import Counted, Reading, read_counters

ORDERS = "cluster.outbound|8080||orders.shop.svc.clusterset.local"


@pytest.mark.parametrize(
    ("counters", "services"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param(
            {
                f"{ORDERS}.upstream_rq_completed": 40,
                f"{ORDERS}.upstream_rq_5xx": 3,
                f"{ORDERS}.external.upstream_rq_completed": 40,
                f"{ORDERS}.retry.upstream_rq_completed": 7,
                f"{ORDERS}|alpha.upstream_cx_total": 9,
                f"{ORDERS}|alpha.upstream_cx_connect_fail": 8,
            },
            {"shop/orders:8080": Counted(40, 3)},
            id="http-is-what-the-caller-got",
        ),
        pytest.param(
            {
                f"{ORDERS}|alpha.upstream_cx_total": 9,
                f"{ORDERS}|alpha.upstream_cx_connect_fail": 4,
                f"{ORDERS}|beta.upstream_cx_total": 10,
                f"{ORDERS}.upstream_cx_connect_attempts_exceeded": 2,
                f"{ORDERS}.upstream_cx_none_healthy": 1,
            },
            {"shop/orders:8080": Counted(18, 3)},
            id="tcp-is-what-was-connected",
        ),
        pytest.param(
            {
                "cluster.inbound|8080||orders.shop.svc.clusterset.local.upstream_rq_completed": 4,
                "cluster.PassthroughCluster.upstream_cx_total": 4,
                "cluster.outbound_.8080_._.orders.shop.svc.clusterset.local.upstream_cx_total": 4,
                "cluster.outbound|8080||orders.example.com.upstream_rq_completed": 4,
                "http.outbound.downstream_rq_completed": 4,
                "cluster.outbound|x.y": 3,
                "server.live": 1,
            },
            {},
            id="what-is-no-call-to-a-service",
        ),
    ],
)
def test_what_each_service_counted(counters, services):
    assert read_counters(counters).services == services


def test_owners_are_known_by_what_they_ever_had():
    counters = {
        f"{ORDERS}|alpha.membership_change": 2,
        f"{ORDERS}|beta.membership_change": 1,
        "cluster.outbound|80||cart.shop.svc.clusterset.local|beta.membership_change": 1,
    }
    assert read_counters(counters).served_by == {
        "alpha": {"shop/orders:8080"},
        "beta": {"shop/orders:8080", "shop/cart:80"},
    }


@pytest.mark.parametrize(
    ("before", "now", "added"),
    [
        pytest.param(Counted(10, 1), Counted(30, 4), Counted(20, 3), id="added"),
        pytest.param(Counted(10, 1), Counted(10, 1), Counted(0, 0), id="nothing"),
        pytest.param(Counted(100, 50), Counted(7, 2), Counted(7, 2), id="envoy-began-anew"),
    ],
)
def test_what_was_added_since(before, now, added):
    assert Reading({"one": now}, {}).since(Reading({"one": before}, {})) == {"one": added}
    assert Reading({"new": now}, {}).since(Reading({}, {})) == {"new": now}

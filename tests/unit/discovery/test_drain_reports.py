"""When a drain makes callers fail: who may say so, what counts, and that the share comes back in the same entry."""

import msgspec
import pytest

from discovery.core.drain_reports import (
    MILLION,
    WATCHED_AFTER_MS_MIN,
    fails_too_often,
    watched_left_ms,
)
from discovery.core.error_window import SERVICES_PER_SLICE_MAX, WINDOW_MS, ErrorWindow
from discovery.core.kinds import decode_spec
from discovery.core.specs import DRAIN_FAILING_MAX, TRAFFIC_COUNT_MAX, DrainSpec, ServiceTraffic
from federation.kernel.errors import Code
from tests.unit.discovery.builders import Log, founded, key, put, put_cluster, put_drain

OK = 0
LIMIT = 10_000  # 1%


def traffic(
    requests: int, errors: int, before: tuple[int, int] = (0, 0), service: str = "shop/orders:8080"
) -> ServiceTraffic:
    return ServiceTraffic(
        service=service,
        requests=requests,
        errors=errors,
        requests_before=before[0],
        errors_before=before[1],
    )


@pytest.mark.parametrize(
    ("seen", "limit", "expected"),
    [
        pytest.param(traffic(1_000, 11), LIMIT, True, id="above-the-limit"),
        pytest.param(traffic(1_000, 10), LIMIT, False, id="at-the-limit"),
        pytest.param(traffic(5, 5), LIMIT, True, id="a-quiet-service-that-is-down"),
        pytest.param(traffic(2, 2), LIMIT, False, id="a-service-that-nobody-calls"),
        pytest.param(traffic(20, 5), 10 * LIMIT, False, id="few-requests-are-taken-for-fifty"),
        pytest.param(traffic(20, 6), 10 * LIMIT, True, id="unless-so-many-fail-that-it-is-too-much-of-fifty"),
        pytest.param(traffic(20, 8, (100, 20)), LIMIT, False, id="a-quiet-service-that-failed-before"),
        pytest.param(traffic(50, 2), LIMIT, False, id="two-are-no-rate"),
        pytest.param(traffic(50, 3), LIMIT, True, id="three-of-fifty"),
        pytest.param(traffic(1_000, 55, (1_000, 50)), LIMIT, False, id="it-failed-before"),
        pytest.param(traffic(1_000, 61, (1_000, 50)), LIMIT, True, id="more-than-before"),
        pytest.param(traffic(1_000, 10, (100, 100)), LIMIT, False, id="better-than-before"),
        pytest.param(traffic(1_000, 1_000), MILLION, False, id="no-limit-at-all"),
        pytest.param(traffic(1_000, 3), 0, True, id="nothing-may-fail"),
        pytest.param(traffic(TRAFFIC_COUNT_MAX, TRAFFIC_COUNT_MAX), LIMIT, True, id="huge"),
    ],
)
def test_what_fails_too_often(seen, limit, expected):
    assert fails_too_often(seen, limit) is expected


# -- the state machine -------------------------------------------------------------------------------


def draining(share_percent: int = 50, **spec: object) -> Log:
    log = founded()  # alpha, beta and alpha's remote delta.
    log.accept("alpha", put_cluster("gamma"), put_drain("beta", share_percent, startedMs=7, **spec))
    return log


def report(by: str, *failing: ServiceTraffic, started_ms: int = 7, subject: str = "beta", **rest: object):
    spec = {"startedMs": started_ms, "failing": msgspec.to_builtins(failing or (traffic(400, 40),)), **rest}
    return put(key("DrainReport", subject, scope=by), spec)


def row(log: Log) -> DrainSpec:
    found = log.catalog.tables.resource(key("Drain", "beta"))
    assert found is not None
    spec = decode_spec("Drain", found.spec, where="test")
    assert isinstance(spec, DrainSpec)
    return spec


def test_a_drain_under_which_requests_fail_is_given_up_and_says_where_and_what():
    log = draining()
    log.accept("gamma", report("gamma", traffic(400, 40, (1_000, 1)), traffic(100, 9, service="")))
    given_up = row(log)
    assert given_up.share_percent == 100
    assert given_up.rolled_back == (
        "for callers in cluster gamma too many requests fail:"
        " shop/orders:8080 10.00% of 400 (before: 0.10%), all services 9.00% of 100 (before: 0.00%)"
    )


@pytest.mark.parametrize(
    ("log", "operation"),
    [
        pytest.param(draining(), report("gamma", started_ms=6), id="of-an-earlier-drain"),
        pytest.param(draining(), report("gamma", traffic(400, 4)), id="within-its-limit"),
        pytest.param(draining(errorsPerMillionMax=200_000), report("gamma"), id="its-limit-is-its-own"),
        pytest.param(draining(forced=True), report("gamma"), id="by-force"),
        pytest.param(draining(rolledBack="why"), report("gamma"), id="given-up-already"),
    ],
)
def test_a_report_that_ends_no_drain(log, operation):
    before = row(log)
    log.accept("gamma", operation)
    assert row(log) == before


@pytest.mark.parametrize(
    ("every_ms", "watched_ms"),
    [
        pytest.param(60_000, 60_000, id="for-as-long-as-the-others"),
        pytest.param(1_000, WATCHED_AFTER_MS_MIN, id="longer-where-those-were-close"),
        pytest.param(0, WATCHED_AFTER_MS_MIN, id="also-of-a-drain-at-once"),
    ],
)
def test_after_its_last_step_a_drain_is_watched(every_ms, watched_ms):
    for waited_ms, given_up, left_ms in (
        (0, True, watched_ms + 1),
        (watched_ms, True, 1),
        (watched_ms + 1, False, 0),
    ):
        log = founded()
        log.wait(5_000)
        last = {"startedMs": 7, "steppedMs": log.catalog.now_ms, "everyMs": every_ms}
        log.accept("alpha", put_cluster("gamma"), put_drain("beta", 0, **last))
        log.wait(waited_ms)
        assert watched_left_ms(row(log), now_ms=log.catalog.now_ms) == left_ms
        log.accept("gamma", report("gamma"))
        assert watched_left_ms(row(log), now_ms=log.catalog.now_ms) == 0
        assert bool(row(log).rolled_back) is given_up, waited_ms


@pytest.mark.parametrize(
    ("proposer", "operation", "code"),
    [
        pytest.param("gamma", report("gamma"), OK, id="of-the-own-callers"),
        pytest.param("beta", report("beta"), OK, id="of-callers-in-the-drained-cluster"),
        pytest.param("alpha", report("delta"), OK, id="by-the-home-of-a-remote"),
        pytest.param("beta", report("gamma"), Code.PERMISSION_DENIED, id="in-the-name-of-another"),
        pytest.param("gamma", report("gamma", subject="alpha"), Code.FAILED_PRECONDITION, id="of-what-is-not-drained"),
        pytest.param("gamma", report("gamma", traffic(10, 11)), Code.INVALID_ARGUMENT, id="more-errors-than-requests"),
        pytest.param("gamma", report("gamma", traffic(50, -1)), Code.INVALID_ARGUMENT, id="negative"),
        pytest.param("gamma", report("gamma", traffic(TRAFFIC_COUNT_MAX + 1, 5)), Code.INVALID_ARGUMENT, id="huge"),
        pytest.param("gamma", report("gamma", traffic(50, 5, service="x" * 141)), Code.INVALID_ARGUMENT, id="a-long-name"),
        pytest.param("gamma", report("gamma", traffic(50, 5, service="a\nb")), Code.INVALID_ARGUMENT, id="lines"),
        pytest.param("gamma", report("gamma", *[traffic(50, 5)] * 21), Code.INVALID_ARGUMENT, id="too-many"),
        pytest.param("gamma", report("gamma", failing=[]), Code.INVALID_ARGUMENT, id="nothing"),
    ],
)  # fmt: skip
def test_who_may_report_what(proposer, operation, code):
    log = draining()
    assert log.write(proposer, operation).code == code
    assert bool(row(log).rolled_back) is (code == OK)


def test_a_refused_write_gives_nothing_up():
    log = draining()
    assert log.write("gamma", report("gamma"), report("alpha")).code == Code.PERMISSION_DENIED
    assert not row(log).rolled_back


@pytest.mark.parametrize(
    "limit",
    [
        {"errorsPerMillionMax": -1},
        {"errorsPerMillionMax": 1_000_001},
        {"capacityPercentMin": -1},
        {"capacityPercentMin": 101},
    ],
)
def test_the_limits_of_a_drain_are_shares(limit):
    assert founded().write("alpha", put_drain("beta", **limit)).code == Code.INVALID_ARGUMENT


# -- the window --------------------------------------------------------------------------------------


def test_reports_of_several_agents_are_added_up():
    window = ErrorWindow()
    for agent in range(4):
        window.add((traffic(20, 1), traffic(20, 0, service="shop/cart:80")), now_ms=agent)
    assert window.failing(LIMIT, now_ms=4) == (traffic(80, 4),)


def test_what_is_older_than_the_window_is_forgotten():
    window = ErrorWindow()
    window.add((traffic(100, 50),), now_ms=1_000)
    assert window.failing(LIMIT, now_ms=1_000 + WINDOW_MS - 1_000)
    assert not window.failing(LIMIT, now_ms=2_000 + WINDOW_MS)
    assert not window.failing(LIMIT, now_ms=3_000)


def test_what_failed_before_weighs_as_its_agents_do():
    window = ErrorWindow()
    for now_ms in (0, 1_000, 2_000):
        window.add((traffic(100, 10, (1_000, 100)),), now_ms=now_ms)
    assert not window.failing(LIMIT, now_ms=2_000)


def test_the_worst_come_first_and_only_so_many():
    window = ErrorWindow()
    many = [traffic(1_000, 100 + number, service=f"shop/s{number}:80") for number in range(40)]
    window.add(many, now_ms=0)
    found = window.failing(LIMIT, now_ms=0)
    assert [one.errors for one in found] == [139 - number for number in range(DRAIN_FAILING_MAX)]


def test_a_flood_of_services_is_left_out_but_for_the_sum_of_all():
    window = ErrorWindow()
    names = [f"shop/s{number}:80" for number in range(SERVICES_PER_SLICE_MAX + 10)]
    window.add([traffic(1, 0, service=name) for name in names], now_ms=0)
    window.add([traffic(100, 50, service=""), traffic(100, 50, service="shop/late:80")], now_ms=0)
    assert [one.service for one in window.failing(LIMIT, now_ms=0)] == [""]

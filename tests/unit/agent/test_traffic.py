"""What an agent reports while a cluster is drained: what its Envoy counted since, beside what it counted before."""

import pytest

from discovery.core.spec_checks import check_traffic
from discovery.core.specs import DRAIN_FAILING_MAX, TRAFFIC_COUNT_MAX, ServiceTraffic
from federation.agent.traffic import (
    DRAINS_REMEMBERED_MAX,
    IDLE_MAX_S,
    IDLE_S,
    WATCH_MAX_S,
    WATCH_S,
    TrafficMeter,
    make_report,
    pause_s,
)
from federation.api.messages import TrafficReport, WatchedDrain
from gateways.core.traffic import Counted, Reading
from gateways.runtime.admin import REQUEST_TIMEOUT_S

BETA = WatchedDrain(cluster="beta", started_ms=7)
GAMMA = WatchedDrain(cluster="gamma", started_ms=9)


def reading(requests: int, errors: int) -> Reading:
    """Of orders, which beta serves, and of cart, which it does not."""
    services = {"shop/orders:80": Counted(requests, errors), "shop/cart:80": Counted(9 * requests, 0)}
    return Reading(services, {"beta": frozenset({"shop/orders:80"}), "alpha": frozenset(services)})


class Meter:
    """A meter whose readings the test gives, and what it told."""

    def __init__(self) -> None:
        self.told: list[TrafficReport] = []
        self.meter = TrafficMeter(self._read, self.told.extend)

    async def _read(self) -> dict[str, int]:
        raise AssertionError("nothing runs")

    def watch(self, *drains: WatchedDrain) -> None:
        self.meter.watch(frozenset(drains))

    def take(self, *readings: Reading) -> list[TrafficReport]:
        self.told.clear()
        for one in readings:
            self.meter._take(one)
        return list(self.told)


def orders(
    requests: int, errors: int, before: tuple[int, int], service: str = "shop/orders:80"
) -> ServiceTraffic:
    return ServiceTraffic(
        service=service, requests=requests, errors=errors, requests_before=before[0], errors_before=before[1]
    )


def test_nothing_is_told_while_nothing_is_drained():
    assert Meter().take(reading(10, 0), reading(20, 0), reading(30, 5)) == []


def test_what_is_told_is_what_came_since_of_the_services_of_the_drained_cluster_and_what_was_before():
    one = Meter()
    one.take(reading(100, 1), reading(200, 2), reading(300, 3))
    one.watch(BETA)
    assert one.take(reading(305, 4)) == []  # Of both times.
    (report,) = one.take(reading(405, 44))
    assert (report.drained, report.started_ms) == ("beta", 7)
    assert report.services == (orders(100, 40, (200, 2), ""), orders(100, 40, (200, 2)))
    assert one.take(reading(405, 44)) == []  # No request, no report.


def test_a_second_drain_is_compared_with_the_time_before_the_first():
    one = Meter()
    one.take(reading(100, 0), reading(200, 0))
    one.watch(BETA)
    one.take(reading(300, 50))
    one.watch(BETA, WatchedDrain(cluster="alpha", started_ms=8))
    told = one.take(reading(400, 60))
    assert {report.drained: report.services[0].requests_before for report in told} == {
        "beta": 100,
        "alpha": 1_000,
    }


def test_what_failed_under_a_drain_is_not_taken_for_usual_under_the_next():
    one = Meter()
    one.take(reading(100, 0), reading(200, 0))
    one.watch(BETA)
    one.take(reading(300, 50), reading(400, 100))
    one.watch()
    one.take(reading(500, 100))
    one.watch(WatchedDrain(cluster="beta", started_ms=90))
    (report,) = one.take(reading(500, 100), reading(600, 110))
    assert (report.services[0].requests_before, report.services[0].errors_before) == (100, 0)


def test_who_loses_its_controllers_during_a_drain_compares_with_the_time_before_it_still():
    one = Meter()
    one.take(reading(100, 0), reading(200, 0))
    one.watch(BETA)
    one.take(reading(300, 50))
    one.watch()
    one.take(reading(400, 100), reading(500, 150), reading(600, 200))
    one.watch(BETA)
    (report,) = one.take(reading(600, 200), reading(700, 250))
    assert (report.services[0].requests_before, report.services[0].errors_before) == (100, 0)
    one.watch()
    one.watch(WatchedDrain(cluster="beta", started_ms=90))
    (report,) = one.take(reading(700, 250), reading(800, 300))
    assert (report.services[0].requests_before, report.services[0].errors_before) == (200, 100)


def test_so_many_drains_are_remembered_and_no_more():
    one = Meter()
    for number in range(3 * DRAINS_REMEMBERED_MAX):
        one.watch(WatchedDrain(cluster="beta", started_ms=number), BETA)
    assert len(one.meter._remembered) == DRAINS_REMEMBERED_MAX


def test_nobody_asks_again_and_nothing_is_told():
    one = Meter()
    one.watch(BETA)
    one.take(reading(100, 0))
    one.watch()
    assert one.take(reading(200, 100)) == []


def test_a_cluster_that_serves_nothing_here_is_not_reported():
    assert make_report(GAMMA, frozenset(), {"shop/orders:80": Counted(10, 10)}, {}) is None


def test_the_worst_services_are_named_and_all_are_summed():
    added = {f"shop/s{number}:80": Counted(100, number) for number in range(50)}
    report = make_report(BETA, frozenset(added), added, {})
    assert report is not None
    assert report.services[0] == orders(5_000, sum(range(50)), (0, 0), "")
    assert [one.errors for one in report.services[1:]] == list(range(49, 49 - DRAIN_FAILING_MAX + 1, -1))
    assert len(report.services) == DRAIN_FAILING_MAX


def test_whatever_is_counted_the_report_is_one_that_controllers_take():
    huge = {"shop/orders:80": Counted(TRAFFIC_COUNT_MAX * 2, TRAFFIC_COUNT_MAX * 2)}
    report = make_report(BETA, frozenset(huge), huge, huge)
    assert report is not None
    for one in report.services:
        check_traffic(one, "report")


@pytest.mark.parametrize(
    ("took_s", "watching", "expected_s"),
    [
        pytest.param(0.0, True, WATCH_S, id="a-quick-one"),
        pytest.param(0.06, True, 3.0, id="two-in-a-hundred-of-the-time"),
        pytest.param(REQUEST_TIMEOUT_S, True, WATCH_MAX_S, id="one-that-nobody-answered"),
        pytest.param(0.0, False, IDLE_S, id="a-quick-one-of-quiet-times"),
        pytest.param(0.6, False, 30.0, id="in-quiet-times-the-same-share"),
        pytest.param(REQUEST_TIMEOUT_S, False, IDLE_MAX_S, id="in-quiet-times-longer"),
    ],
)
def test_pauses_grow_with_what_a_reading_takes_but_no_failure_goes_unseen_for_long(
    took_s, watching, expected_s
):
    assert pause_s(took_s, watching=watching) == pytest.approx(expected_s)

"""What the proxies of one cluster counted in the last seconds, while another cluster is drained: added up and judged.

Each agent tells what its Envoy counted since it told last: the sum of all services that the drained cluster serves, and
the worst of them one by one. Figures of before the drain come with each report, so that adding reports up weights both
alike. Times are of the controller's own monotonic clock. Memory is bounded: some seconds, so many services in each.
"""

from collections.abc import Iterable

from discovery.core.drain_reports import fails_too_often, per_million
from discovery.core.specs import DRAIN_FAILING_MAX, ServiceTraffic

WINDOW_MS = 5_000
SLICE_MS = 1_000
SERVICES_PER_SLICE_MAX = 2_000

_Counts = tuple[int, int, int, int]


class ErrorWindow:
    """The reports of the last WINDOW_MS about one drain."""

    def __init__(self) -> None:
        self._slices: dict[int, dict[str, _Counts]] = {}  # By the number of their second, oldest first.

    def add(self, services: Iterable[ServiceTraffic], *, now_ms: int) -> None:
        """Take one report. What does not fit is left out: then only the rate of all services together is known."""
        self._forget(now_ms)
        counted = self._slices.setdefault(now_ms // SLICE_MS, {})
        for one in services:
            if one.service in counted or not one.service or len(counted) < SERVICES_PER_SLICE_MAX:
                counted[one.service] = _sum(counted.get(one.service, (0, 0, 0, 0)), _counts(one))

    def failing(self, errors_per_million_max: int, *, now_ms: int) -> tuple[ServiceTraffic, ...]:
        """Return what fails more often than the limit allows, the worst first."""
        self._forget(now_ms)
        total: dict[str, _Counts] = {}
        for counted in self._slices.values():
            for service, counts in counted.items():
                total[service] = _sum(total.get(service, (0, 0, 0, 0)), counts)
        found = [
            one
            for service, (requests, errors, requests_before, errors_before) in total.items()
            if fails_too_often(
                one := ServiceTraffic(
                    service=service,
                    requests=requests,
                    errors=errors,
                    requests_before=requests_before,
                    errors_before=errors_before,
                ),
                errors_per_million_max,
            )
        ]
        found.sort(key=lambda one: (-per_million(one.errors, one.requests), one.service))
        return tuple(found[:DRAIN_FAILING_MAX])

    def _forget(self, now_ms: int) -> None:
        oldest = (now_ms - WINDOW_MS) // SLICE_MS
        for number in [number for number in self._slices if number <= oldest]:
            del self._slices[number]


def _counts(one: ServiceTraffic) -> _Counts:
    return (one.requests, one.errors, one.requests_before, one.errors_before)


def _sum(one: _Counts, other: _Counts) -> _Counts:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])

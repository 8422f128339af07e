"""Counts what fails for the callers beside this agent while another cluster is drained, and tells the controllers.

Envoy's counters are read now and then, so that it is known how many requests failed before a drain began; and every second
while a controller says that one is under way. Only then anything is sent. Reading costs Envoy's main thread, not
its workers: where it takes long, the pauses between two readings grow, up to a bound.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from discovery.core.specs import DRAIN_FAILING_MAX, TRAFFIC_COUNT_MAX, ServiceTraffic
from federation.api.messages import TrafficReport, WatchedDrain
from federation.kernel.errors import UnavailableError
from gateways.core.traffic import NOTHING, Counted, Reading, read_counters

WATCH_S = 1.0
IDLE_S = 10.0
# What failed before a drain is what failed within the last IDLE_S times this, or IDLE_MAX_S where readings take long.
READINGS_KEPT = 6
# Of so many drains, the newest, it is remembered what they are compared with: who loses its controllers during one and
# finds them again must not take what failed meanwhile for usual.
DRAINS_REMEMBERED_MAX = 64
# Reading takes so little of the time of Envoy's main thread: 2 in a hundred.
PAUSE_PER_READING = 50
# But what nobody reads nobody sees fail. A reading that nobody answered took `REQUEST_TIMEOUT_S` of the admin interface,
# nearly all of it in a queue: it is no measure of what reading costs, and must not blind the meter for minutes.
WATCH_MAX_S = 5.0  # So that within the shortest time for which a last step is watched something is told.
IDLE_MAX_S = 60.0


class TrafficMeter:
    """Reads one Envoy; `run` ends only by cancellation."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Mapping[str, int]]],
        tell: Callable[[tuple[TrafficReport, ...]], None],
    ) -> None:
        self._read = read
        self._tell = tell
        self._readings: deque[Reading] = deque(maxlen=READINGS_KEPT)  # Of quiet times, the newest last.
        self._last: Reading | None = None
        self._quiet: dict[str, Counted] = {}  # What was counted in the last quiet time.
        self._before: dict[WatchedDrain, dict[str, Counted]] = {}
        self._remembered: dict[WatchedDrain, dict[str, Counted]] = {}  # Of those that nobody asks about now.
        self._news = asyncio.Event()

    def watch(self, drains: frozenset[WatchedDrain]) -> None:
        """Begin or go on to count for these drains, and no others."""
        known = self._before
        if drains == known.keys():
            return
        if not known:
            self._last = None  # What is counted until the next reading belongs to both times.
            self._learn_quiet()
        remembered = self._remembered | known
        self._before = {drain: remembered.get(drain, self._quiet) for drain in drains}
        over = [(drain, before) for drain, before in remembered.items() if drain not in drains]
        self._remembered = dict(over[-DRAINS_REMEMBERED_MAX:])
        self._news.set()

    async def run(self) -> None:
        """Read, and tell what has to be told."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            self._news.clear()  # Of what comes during the reading the next one comes at once.
            with contextlib.suppress(
                UnavailableError
            ):  # It starts, or starts again: the proxy's status says so.
                self._take(read_counters(await self._read()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s(loop.time() - began_s, watching=bool(self._before))):
                    await self._news.wait()

    def _take(self, reading: Reading) -> None:
        last, self._last = self._last, reading
        if not self._before:
            self._readings.append(reading)
            return
        added = reading.since(last) if last is not None else {}
        reports = tuple(
            report
            for drain, before in self._before.items()
            if (
                report := make_report(drain, reading.served_by.get(drain.cluster, frozenset()), added, before)
            )
        )
        if reports:
            self._tell(reports)

    def _learn_quiet(self) -> None:
        """Note what was counted before the first drain; nothing is known of an Envoy that has just started.

        Readings begin anew after a drain, so that what failed under it is not taken for usual.
        """
        if len(self._readings) > 1:
            self._quiet = self._readings[-1].since(self._readings[0])
        self._readings.clear()


def pause_s(took_s: float, *, watching: bool) -> float:
    """Return how long to wait after a reading that took, or was given up after, so long."""
    shortest_s, longest_s = (WATCH_S, WATCH_MAX_S) if watching else (IDLE_S, IDLE_MAX_S)
    return min(longest_s, max(shortest_s, PAUSE_PER_READING * took_s))


def make_report(
    drain: WatchedDrain,
    services: frozenset[str],
    added: Mapping[str, Counted],
    before: Mapping[str, Counted],
) -> TrafficReport | None:
    """Return what was added by the services that the drained cluster serves, the worst of them by name; None: nothing."""
    counted = [
        (service, added[service], before.get(service, NOTHING))
        for service in services
        if service in added and added[service].requests
    ]
    if not counted:
        return None
    counted.sort(key=lambda one: (-one[1].errors, -one[1].requests, one[0]))
    total, total_before = NOTHING, NOTHING
    for _, now, then in counted:
        total, total_before = total.plus(now), total_before.plus(then)
    return TrafficReport(
        drained=drain.cluster,
        started_ms=drain.started_ms,
        services=(
            _traffic("", total, total_before),
            *(_traffic(*one) for one in counted[: DRAIN_FAILING_MAX - 1]),
        ),
    )


def _traffic(service: str, now: Counted, before: Counted) -> ServiceTraffic:
    requests, requests_before = (min(one.requests, TRAFFIC_COUNT_MAX) for one in (now, before))
    return ServiceTraffic(
        service=service,
        requests=requests,
        errors=min(now.errors, requests),
        requests_before=requests_before,
        errors_before=min(before.errors, requests_before),
    )

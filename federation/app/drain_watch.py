"""What callers of the served clusters see of drains: asked of their agents, added up, said in the catalog when too much fails.

    Drain row --> WatchDrains to every agent --> TrafficReport each second --> ErrorWindow --> DrainReport row

The row is written when more begins to fail than the drain allows, and deleted when that is over: nothing is written while
nothing fails. What follows from it is the state machine's (`discovery.core.drain_reports`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import msgspec
import structlog

from discovery.core.commands import Delete, Put
from discovery.core.drain_reports import watched_after_ms
from discovery.core.error_window import ErrorWindow
from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, ResourceKey
from discovery.core.spec_checks import check_traffic
from discovery.core.specs import DRAIN_FAILING_MAX, DrainReportSpec, DrainSpec
from federation.api.messages import TrafficReport, WatchedDrain
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.api.registry import ClusterRegistry
from federation.kernel.errors import InvalidInputError, IsthmusError

TURN_S = 0.5

_log = structlog.get_logger("drains")


class DrainWatch:
    """Looks at drains for the clusters that a controller serves. Lives on the event loop."""

    def __init__(
        self,
        *,
        catalog: CatalogReader,
        proposer: Proposer,
        registries: Mapping[str, ClusterRegistry],
        clock: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._proposer = proposer
        self._registries = registries
        self._clock = clock
        self._drains: dict[WatchedDrain, DrainSpec] = {}  # That are looked at now.
        self._drained_s: dict[
            WatchedDrain, float
        ] = {}  # When those that took their last step were first seen so.
        self._windows: dict[tuple[str, WatchedDrain], ErrorWindow] = {}  # By the cluster of the callers.
        self._news = asyncio.Event()

    async def watched(self) -> AsyncIterator[tuple[WatchedDrain, ...]]:
        """Yield the drains that are looked at now, unless there are none, and again whenever they change."""
        told: tuple[WatchedDrain, ...] = ()
        while True:
            news, drains = self._news, tuple(self._drains)
            if drains != told:
                told = drains
                yield told
            else:
                await news.wait()

    def take(self, cluster: str, report: TrafficReport) -> None:
        """Add what an agent of `cluster` counted; raises InvalidInputError for what no Envoy can have counted."""
        drain = WatchedDrain(cluster=report.drained, started_ms=report.started_ms)
        if drain not in self._drains:
            return  # It ended meanwhile, or nobody asked.
        if len(report.services) > DRAIN_FAILING_MAX:
            raise InvalidInputError(
                f"traffic report has {len(report.services)} services, at most {DRAIN_FAILING_MAX} are allowed"
            )
        for position, one in enumerate(report.services):
            check_traffic(one, f"traffic report: services[{position}]")
        window = self._windows.setdefault((cluster, drain), ErrorWindow())
        window.add(report.services, now_ms=self._now_ms())

    async def run(self) -> None:
        """Look and say until cancelled."""
        while True:
            await asyncio.sleep(TURN_S)
            self.look()
            for operation in tuple(self.differences()):
                try:
                    await self._proposer.write(operation)
                except (
                    IsthmusError
                ) as error:  # Another controller of the cluster said it, or the drain has ended.
                    _log.info("drain_report_postponed", report=str(operation.key), reason=error.message)
                else:
                    _log.warning(
                        "drain_report", report=str(operation.key), failing=isinstance(operation, Put)
                    )

    def look(self) -> None:
        """Take notice of the drains of now; of one that took its last step for `watched_after_ms`.

        By this process's own clock, since a mirror knows no federation time; the state machine judges by that.
        """
        now_s = self._clock()
        drained: dict[WatchedDrain, float] = {}
        found: dict[WatchedDrain, DrainSpec] = {}
        for row in self._catalog.tables.list_resources(FEDERATION_SCOPE, "Drain"):
            drain = decode_spec("Drain", row.spec, where=str(row.key))
            assert isinstance(drain, DrainSpec)
            if drain.forced or drain.rolled_back:
                continue
            watched = WatchedDrain(cluster=row.key.name, started_ms=drain.started_ms)
            if drain.share_percent == 0:
                drained[watched] = self._drained_s.get(watched, now_s)
            if drain.share_percent or now_s - drained[watched] <= watched_after_ms(drain) / 1000:
                found[watched] = drain
        self._drained_s = drained
        known, self._drains = self._drains, found
        if found.keys() == known.keys():
            return
        self._windows = {key: window for key, window in self._windows.items() if key[1] in found}
        news, self._news = self._news, asyncio.Event()
        news.set()

    def differences(self) -> Iterator[Put | Delete]:
        """Yield what has to be written so that the catalog says what is seen."""
        now_ms = self._now_ms()
        for cluster in tuple(self._registries):
            said = {
                row.key.name: decode_spec("DrainReport", row.spec, where=str(row.key))
                for row in self._catalog.tables.list_resources(cluster, "DrainReport")
            }
            wanted: dict[str, DrainReportSpec] = {}
            for watched, drain in self._drains.items():
                window = self._windows.get((cluster, watched))
                limit = drain.errors_per_million_max
                if window is not None and (failing := window.failing(limit, now_ms=now_ms)):
                    wanted[watched.cluster] = DrainReportSpec(started_ms=watched.started_ms, failing=failing)
            for subject in sorted({*said, *wanted}):
                before, now = said.get(subject), wanted.get(subject)
                key = ResourceKey(cluster, "DrainReport", "", subject)
                if now is None:
                    yield Delete(key=key)
                elif not isinstance(before, DrainReportSpec) or before.started_ms != now.started_ms:
                    yield Put(key=key, spec=msgspec.json.encode(now))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

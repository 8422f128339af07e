"""This cluster's eyes on external services: asks their addresses, and says in the catalog which it misses.

A cluster has one member, and that checks. One task for each service asks all of its addresses at once; one compares
what is seen with what was said (`ExternalObservation`) and writes the difference. What follows from it is
decided by the state machine (`discovery.core.external`).
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Protocol

import aiohttp
import msgspec
import structlog

from consensus.core.contract import Status
from discovery.core.commands import Delete, Put, Write
from discovery.core.external import OBSERVATION, observation_key, observed_service
from discovery.core.external_duties import Duties, Tally, concerns_duties, duties, wanted_missed
from discovery.core.kinds import decode_spec
from discovery.core.model import Change, ResourceKey
from discovery.core.opinion import Opinion
from discovery.core.specs import ExternalObservationSpec, ExternalServiceSpec
from federation.agent.probe import ProbeTarget, Thresholds, failure_of, probe_session
from federation.agent.strain import Strain
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.kernel.errors import IsthmusError
from federation.kernel.units import duration_ms

PLAN_EVERY_S = 1.0
# What has just failed is asked again after this time at most.
SUSPECT_INTERVAL_S = 1.0
JITTER = 0.1
SLEEP_S_MAX = 5.0  # A change of what is to be checked is followed within this time.
PROBES_AT_ONCE_MAX = 64
SAY_EVERY_S = 0.5
SAY_TIMEOUT_MS = 3_000
SAID_AT_ONCE_MAX = 100

_log = structlog.get_logger("external")


class Engine(Protocol):
    """What is asked of the engine."""

    def status(self) -> Status:
        """Its own view."""
        ...


class ExternalChecker:
    """Checks for one controller. `changed`, `reset` and `run` belong on one loop."""

    def __init__(
        self,
        cluster: str,
        *,
        catalog: CatalogReader,
        engine: Engine,
        proposer: Proposer,
        is_cut_off: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.opinions: dict[ResourceKey, dict[str, Opinion]] = {}  # Of each service, by address.
        self._cluster = cluster
        self._catalog = catalog
        self._engine = engine
        self._proposer = proposer
        self._is_cut_off = is_cut_off
        self._clock = clock
        self._duties: Duties = {}
        self._strain = Strain(clock)
        self._at_once = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
        self._is_stale = True  # What there is to check may have changed.
        self._news = asyncio.Event()

    def changed(self, changes: tuple[Change, ...]) -> None:
        """Follow what the catalog applied."""
        kinds = {change.key.split(b"\0", 2)[1].decode() for change in changes if change.table == "resources"}
        self._is_stale |= concerns_duties(kinds)

    def reset(self) -> None:
        """A snapshot replaced everything."""
        self._is_stale = True

    async def run(self) -> None:
        """Check until cancelled."""
        async with probe_session() as session, asyncio.TaskGroup() as tasks:
            self._plan()
            tasks.create_task(self._say(), name="external/say")
            while True:
                for key in [one for one in self._duties if one not in self.opinions]:
                    self.opinions[key] = {}
                    tasks.create_task(self._watch(key, session), name=f"external/{key.name}")
                await asyncio.sleep(PLAN_EVERY_S)
                if self._is_stale:
                    self._plan()

    def _plan(self) -> None:
        self._is_stale = False
        self._duties, left_out = duties(self._catalog.tables, self._cluster)
        if left_out:
            _log.warning("external_services_not_checked", services=left_out, reason="too many addresses")

    # -- seeing ------------------------------------------------------------------------------------

    async def _watch(self, key: ResourceKey, session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(SUSPECT_INTERVAL_S * random.random())  # noqa: S311 - not all at one moment
        try:
            while (spec := self._duties.get(key)) is not None:
                due_s = self._clock()
                await self._look(key, spec, session)
                pause_s = duration_ms(spec.check.interval) / 1000
                if any(one.contradictions for one in self.opinions[key].values()):
                    pause_s = min(pause_s, SUSPECT_INTERVAL_S)
                pause_s *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter
                while (left_s := due_s + pause_s - self._clock()) > 0 and self._duties.get(key) == spec:
                    await self._strain.sleep(min(left_s, SLEEP_S_MAX))
        finally:
            del self.opinions[key]

    async def _look(
        self, key: ResourceKey, spec: ExternalServiceSpec, session: aiohttp.ClientSession
    ) -> None:
        """Ask every address once."""
        async with asyncio.TaskGroup() as tasks:
            asked = {
                address: tasks.create_task(self._ask(address, spec, session), name=f"external/{address}")
                for address in spec.addresses
            }
        before = self.opinions[key]
        after: dict[str, Opinion] = {}
        for address, task in asked.items():
            opinion = before.get(address, Opinion())
            after[address] = opinion.after(
                not task.result(),
                now_ms=int(self._clock() * 1000),
                strain=self._strain.value,
                failures_min=spec.check.failures,
                successes_min=spec.check.successes,
            )
            if after[address].sight != opinion.sight:
                _log.info(
                    "sight_changed",
                    service=str(key),
                    address=address,
                    sight=after[address].sight,
                    why=task.result(),
                )
                self._news.set()
        self.opinions[key] = after

    async def _ask(self, address: str, spec: ExternalServiceSpec, session: aiohttp.ClientSession) -> str:
        """Return why an address does not answer as it should, or nothing."""
        target = target_of(address, spec)
        async with self._at_once:
            began_s = self._clock()
            failure = await failure_of(target, session)
        self._strain.note(self._clock() - began_s - target.timeout_ms / 1000)
        return failure

    # -- saying ------------------------------------------------------------------------------------

    async def _say(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAY_EVERY_S):
                    await self._news.wait()
            self._news.clear()
            for operation in self.differences()[:SAID_AT_ONCE_MAX]:
                if self._engine.status().leader is None:
                    break  # Nothing would be heard: by the time it is, it may be wrong.
                try:
                    await self._proposer.propose(Write(operations=(operation,)), timeout_ms=SAY_TIMEOUT_MS)
                except IsthmusError as error:  # Such as of a service that is gone: the next plan knows.
                    _log.info("observation_postponed", row=str(operation.key), reason=error.message)
                else:
                    _log.info("observation_said", row=str(operation.key))

    def differences(self) -> list[Put | Delete]:
        """Return what has to be written so that the catalog says what is seen."""
        said: dict[ResourceKey, tuple[str, ...]] = {}
        for row in self._catalog.tables.list_resources(self._cluster, OBSERVATION):
            spec = decode_spec(OBSERVATION, row.spec, where=str(row.key))
            assert isinstance(spec, ExternalObservationSpec)
            said[observed_service(row.key)] = spec.missed
        is_cut_off, tally = self._is_cut_off(), Tally(self.opinions)
        found: list[Put | Delete] = []
        for key in sorted(said.keys() | self.opinions.keys()):
            before = said.get(key, ())
            wanted = wanted_missed(self._known(key), before, is_held=is_cut_off or tally.is_held(key))
            row_key = observation_key(self._cluster, key)
            if wanted and wanted != before:
                found.append(
                    Put(key=row_key, spec=msgspec.json.encode(ExternalObservationSpec(missed=wanted)))
                )
            elif before and not wanted:
                found.append(Delete(key=row_key))
        return found

    def _known(self, key: ResourceKey) -> dict[str, Opinion]:
        """What is thought of each address that is to be checked; of what is not, nothing."""
        spec, seen = self._duties.get(key), self.opinions.get(key, {})
        return {} if spec is None else {one: seen.get(one, Opinion()) for one in spec.addresses}


def target_of(address: str, spec: ExternalServiceSpec) -> ProbeTarget:
    """Return what is asked of an address."""
    check = spec.check
    port = next(one for one in spec.ports if check.port in (0, one.port))
    return ProbeTarget(
        kind=check.kind,
        host=address,
        port=port.target_port or port.port,
        path=check.path,
        named=check.host,
        statuses=check.statuses,
        interval_ms=duration_ms(check.interval),
        timeout_ms=duration_ms(check.timeout),
        thresholds=Thresholds(failures=check.failures, successes=check.successes),
    )

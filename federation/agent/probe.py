"""Can the application serve? One TCP or HTTP probe per workload, with hysteresis against flapping."""

import asyncio
from collections.abc import Callable
from typing import Literal

import aiohttp
import msgspec

from discovery.core.specs import GroupProbe
from federation.agent.config import ProbeSection, WorkloadSection
from federation.kernel.configfile import host_port
from federation.kernel.errors import InvalidInputError
from federation.kernel.units import duration_ms


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """How many equal results in a row change the verdict; at least 1 each."""

    failures: int
    successes: int


class ProbeState(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, None before the first result, and how many results in a row have contradicted it."""

    ready: bool | None = None
    contradictions: int = 0


def step(state: ProbeState, healthy: bool, thresholds: Thresholds) -> ProbeState:
    """Return the state after one more result.

    The first result decides at once: an agent that starts has nothing older to hold on to. Later a
    verdict turns only after `failures` (or `successes`) contradicting results in a row.
    """
    if state.ready is None or healthy == state.ready:
        return ProbeState(ready=healthy if state.ready is None else state.ready)
    needed = thresholds.successes if healthy else thresholds.failures
    if state.contradictions + 1 >= needed:
        return ProbeState(ready=healthy)
    return ProbeState(ready=state.ready, contradictions=state.contradictions + 1)


class ProbeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, how often and how long for."""

    kind: Literal["tcp", "http"]
    host: str
    port: int
    path: str
    interval_ms: int
    timeout_ms: int
    thresholds: Thresholds
    named: str = ""  # What an HTTP probe asks for as its Host; empty: the address and port.
    statuses: tuple[int, ...] = ()  # Answers that are healthy; none: each 2xx or 3xx.

    @property
    def url(self) -> str:
        """The address of an HTTP probe."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.path}"


def probe_target(workload: WorkloadSection) -> ProbeTarget:
    """Return the probe of a workload of the configuration file."""
    if not workload.probe.path.startswith("/"):
        raise InvalidInputError(f"workload.probe.path: {workload.probe.path!r} does not start with a slash")
    return target_of(workload.app, workload.probe)


def target_of(app: str, probe: ProbeSection | GroupProbe) -> ProbeTarget:
    """Return the probe of the application at `app` (host:port)."""
    host, port = host_port(app, "app")
    return ProbeTarget(
        kind=probe.kind,
        host=host,
        port=port,
        path=probe.path,
        interval_ms=duration_ms(probe.interval),
        timeout_ms=duration_ms(probe.timeout),
        thresholds=Thresholds(failures=probe.failures, successes=probe.successes),
    )


class Prober:
    """Probes one application for ever and tells each change of the verdict, the first one included.

    `why` says what the last failed probe saw; it is empty after a success.
    """

    def __init__(self, target: ProbeTarget, *, on_verdict: Callable[[bool], None]) -> None:
        self._target = target
        self._on_verdict = on_verdict
        self.state = ProbeState()
        self.why = ""

    async def run(self) -> None:
        """Probe until cancelled; an application that is down or answers nonsense is a result, no error."""
        loop = asyncio.get_running_loop()
        async with probe_session() as session:
            due_s = loop.time()
            while True:
                self.why = await failure_of(self._target, session)
                before = self.state.ready
                self.state = step(self.state, not self.why, self._target.thresholds)
                if self.state.ready is not None and self.state.ready != before:
                    self._on_verdict(self.state.ready)
                due_s = max(due_s + self._target.interval_ms / 1000, loop.time())
                await asyncio.sleep(due_s - loop.time())


def probe_session() -> aiohttp.ClientSession:
    """Return a session for probes: a fresh connection each time, as a kept one would not notice that nobody accepts."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0), trust_env=False)


async def failure_of(target: ProbeTarget, session: aiohttp.ClientSession) -> str:
    """Probe once; return why it failed, or nothing. Whatever is there, or is not, is a result and no error."""
    where = f"{target.host}:{target.port}"
    try:
        async with asyncio.timeout(target.timeout_ms / 1000):
            if target.kind == "tcp":
                return await _tcp_failure(target)
            return await _http_failure(target, session)
    except TimeoutError:
        return f"{where}: no answer within {target.timeout_ms} ms"
    except (OSError, aiohttp.ClientError, ValueError) as error:
        return f"{where}: {error or type(error).__name__}"


async def _tcp_failure(target: ProbeTarget) -> str:
    _, writer = await asyncio.open_connection(target.host, target.port)
    writer.close()
    return ""


async def _http_failure(target: ProbeTarget, session: aiohttp.ClientSession) -> str:
    headers = {"Host": target.named} if target.named else None
    async with session.get(target.url, allow_redirects=False, headers=headers) as answer:
        if answer.status in target.statuses or (not target.statuses and 200 <= answer.status < 400):
            return ""
        expected = " or ".join(map(str, target.statuses)) or "2xx or 3xx"
        return f"{target.url}: status {answer.status}, expected {expected}"

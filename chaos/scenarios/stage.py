"""One scenario on its stage: open-loop loads, a process for each caller, and a list of what happened."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from chaos.lab import topology
from chaos.lab.federation import Lab, Say, now_s
from chaos.lab.processes import LabError, LabProcess, wait_until
from chaos.load.client import BEGUN
from chaos.load.dns_watch import Check
from chaos.load.records import (
    Event,
    Plan,
    Record,
    RequestLine,
    Result,
    Sent,
    Stream,
    Target,
    summarize,
)
from chaos.load.retries import RetryCount, differences, retry_counts
from chaos.shop.app import CHAIN_PATH

RATE_PER_S = 200.0  # Single calls, of all callers together.
CHAIN_RATE_PER_S = 20.0  # Purchases through the whole shop.
SECONDS_DEFAULT = 12.0
STEADY_S = 2.0  # Of load before the first fault.
TAIL_S = 2.0  # Of load after the last event.
SECONDS_MAX = 300.0
_BEGIN_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 30.0


class Scenario(NamedTuple):
    """Something that happens to a laboratory under load. `seconds`: how long the load lasts at least."""

    name: str
    title: str
    run: Callable[[Lab, Say, float], tuple[Result, list[Check]]]


class Stage:
    """The load of one scenario, from `with` to `finish`. What is an event happened under load, or LabError.

    `services` are those that every caller calls, or those of each.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        callers: Sequence[str],
        say: Say,
        *,
        services: Sequence[str] | Mapping[str, Sequence[str]] = topology.SERVICES,
        rate_per_s: float = RATE_PER_S,
        chain_rate_per_s: float = 0.0,
        steady_s: float = STEADY_S,
        seconds: float = 0.0,
    ) -> None:
        self.name = name
        self._steady_s = steady_s
        self._seconds = seconds
        self._lab = lab
        self._say = say
        self._events: list[Event] = []
        self._plans = {
            caller: _plan(
                lab,
                caller,
                services[caller] if isinstance(services, Mapping) else services,
                rate_per_s=rate_per_s / len(callers),
                chain_rate_per_s=chain_rate_per_s / len(callers),
            )
            for caller in callers
        }
        self._loads: dict[str, LabProcess] = {}
        self._began_s = 0.0
        self._retried: dict[str, RetryCount] = {}

    def __enter__(self) -> Self:
        """Start the loads, and let them run for a while."""
        self._retried = retry_counts(self._lab)
        try:
            for caller, plan in self._plans.items():
                self._path(caller, "plan.json").write_bytes(msgspec.json.encode(plan))
                files = [str(self._path(caller, kind)) for kind in _FILES]
                command = [sys.executable, "-m", "chaos.load.client", *files]
                self._loads[caller] = self._lab.run(
                    f"load/{self.name}.{caller}",
                    caller,
                    command,
                    user=self._lab.clusters[caller].agents[0].user,
                )
            for load in self._loads.values():
                wait_until(lambda load=load: load.logged(BEGUN), f"{load.name} begins", _BEGIN_TIMEOUT_S)
        except BaseException:
            self.__exit__()
            raise
        self._began_s = now_s()
        time.sleep(self._steady_s)
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop the loads if `finish` has not done so."""
        for load in self._loads.values():
            load.kill()

    def event(self, text: str) -> float:
        """Note what is done or seen now and return the time; raises LabError when a load has ended."""
        at_s = now_s()
        for load in self._loads.values():
            if not load.running():
                raise LabError(f"{load.name} ended before: {text}\n{load.tail()}")
        self._say(text)
        self._events.append(Event(at_s=at_s, text=text))
        return at_s

    def hold(self, seconds: float) -> None:
        """Let the load run."""
        time.sleep(seconds)

    def finish(
        self,
        *,
        fault_s: float,
        restarted_s: float,
        recovered_s: float,
        victims: Iterable[str] = (),
        services: Iterable[str] = (),
    ) -> Result:
        """Stop the loads, write down what happened, and return the figures. Arguments as in `Record`."""
        self.hold(max(TAIL_S, self._began_s + self._seconds - now_s()))
        record = Record(
            name=self.name,
            planned={caller: self._end(caller, load) for caller, load in self._loads.items()},
            retries=differences(self._retried, retry_counts(self._lab)),
            fault_s=fault_s,
            victims=tuple(victims),
            services=tuple(services),
            restarted_s=restarted_s,
            recovered_s=recovered_s,
            events=tuple(self._events),
        )
        record_path(self._lab.directory, self.name).write_bytes(msgspec.json.encode(record))
        return result_of(self._lab.directory, self.name)

    def _end(self, caller: str, load: LabProcess) -> int:
        """Stop a load; returns how many requests it had planned until then."""
        load.terminate(_END_TIMEOUT_S)
        sent = self._path(caller, "sent.json")
        if not sent.exists():
            raise LabError(f"{load.name} wrote no log:\n{load.tail()}")
        return msgspec.json.decode(sent.read_bytes(), type=Sent).planned

    def _path(self, caller: str, kind: str) -> Path:
        return self._lab.directory / f"{self.name}.{caller}.{kind}"


_FILES = ("plan.json", "jsonl", "sent.json", "live.json")


def record_path(directory: Path, name: str) -> Path:
    """Where the record of a scenario lies."""
    return directory / f"{name}.record.json"


def result_of(directory: Path, name: str) -> Result:
    """Compute the figures of a scenario from what it left in `directory`."""
    record = msgspec.json.decode(record_path(directory, name).read_bytes(), type=Record)
    lines = [line for caller in record.planned for line in read_log(directory / f"{name}.{caller}.jsonl")]
    return summarize(record, lines)


def read_log(path: Path) -> Iterator[RequestLine]:
    """Read a request log."""
    for line in path.read_bytes().splitlines():
        yield msgspec.json.decode(line, type=RequestLine)


def _plan(
    lab: Lab, caller: str, services: Sequence[str], *, rate_per_s: float, chain_rate_per_s: float
) -> Plan:
    singles = tuple(_target(lab, caller, service, service) for service in services)
    streams = [Stream(kind="single", targets=singles, rate_per_s=rate_per_s)]
    if chain_rate_per_s:
        chain = _target(lab, caller, "chain", topology.SERVICES[0], CHAIN_PATH)
        streams.append(Stream(kind="chain", targets=(chain,), rate_per_s=chain_rate_per_s))
    return Plan(caller=caller, streams=tuple(streams), seconds_max=SECONDS_MAX)


def _target(lab: Lab, caller: str, name: str, service: str, path: str = "/") -> Target:
    """Return where `caller` calls a service: by plain name where its agent captures that, or at its sidecar."""
    cluster = lab.clusters[caller]
    if cluster.capture:
        return Target(caller=caller, service=name, url=f"http://{topology.plain_name(service)}{path}")
    return Target(
        caller=caller,
        service=name,
        url=f"http://{cluster.agents[0].address}:{topology.OUTBOUND_PORT}{path}",
        host=topology.service_host(service),
    )

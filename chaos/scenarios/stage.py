"""One scenario on its stage: an open-loop load in a process of its own, and a list of what happened."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from chaos.lab import topology
from chaos.lab.federation import Lab, now_s
from chaos.lab.processes import LabError, wait_until
from chaos.load.client import BEGUN
from chaos.load.records import Event, Plan, Record, RequestLine, Result, Sent, Target, summarize

RATE_PER_S = 200.0
STEADY_S = 3.0  # Of load before the first fault.
TAIL_S = 2.0  # Of load after the last event.
DURATION_MAX_S = 300.0
_BEGIN_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 30.0

Say = Callable[[str], None]


class Stage:
    """The load of one scenario, from `with` to `finish`. What is an event happened under load, or LabError."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        callers: Sequence[str],
        say: Say,
        *,
        services: Sequence[str] = topology.SHARED_SERVICES,
        rate_per_s: float = RATE_PER_S,
        steady_s: float = STEADY_S,
    ) -> None:
        self.name = name
        self._steady_s = steady_s
        self._lab = lab
        self._say = say
        self._events: list[Event] = []
        self._plan = Plan(
            targets=tuple(_target(lab, caller, service) for service in services for caller in callers),
            rate_per_s=rate_per_s,
            count_max=int(rate_per_s * DURATION_MAX_S),
        )

    def __enter__(self) -> Self:
        """Start the load, and let it run for a while."""
        plan, log, sent = (self._path(kind) for kind in ("plan.json", "jsonl", "sent.json"))
        plan.write_bytes(msgspec.json.encode(self._plan))
        cluster = next(iter(self._plan.targets)).caller
        command = [sys.executable, "-m", "chaos.load.client", str(plan), str(log), str(sent)]
        self._process = self._lab.run(f"load/{self.name}", cluster, command)
        wait_until(lambda: self._process.logged(BEGUN), f"the load of {self.name} begins", _BEGIN_TIMEOUT_S)
        time.sleep(self._steady_s)
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop the load if `finish` has not done so."""
        self._process.kill()

    def event(self, text: str) -> float:
        """Note what is done or seen now and return the time; raises LabError when the load has ended."""
        at_s = now_s()
        if not self._process.running():
            raise LabError(f"{self.name}: the load ended before: {text}\n{self._process.tail()}")
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
        """Stop the load, write down what happened, and return the figures. Arguments as in `Record`."""
        self.hold(TAIL_S)
        self._process.terminate(_END_TIMEOUT_S)
        if not self._path("sent.json").exists():
            raise LabError(f"{self.name}: the load wrote no log:\n{self._process.tail()}")
        record = Record(
            name=self.name,
            planned=msgspec.json.decode(self._path("sent.json").read_bytes(), type=Sent).planned,
            fault_s=fault_s,
            victims=tuple(victims),
            services=tuple(services),
            restarted_s=restarted_s,
            recovered_s=recovered_s,
            events=tuple(self._events),
        )
        self._path("record.json").write_bytes(msgspec.json.encode(record))
        return result_of(self._lab.directory, self.name)

    def _path(self, kind: str) -> Path:
        return self._lab.directory / f"{self.name}.{kind}"


def result_of(directory: Path, name: str) -> Result:
    """Compute the figures of a scenario from what it left in `directory`."""
    record = msgspec.json.decode((directory / f"{name}.record.json").read_bytes(), type=Record)
    return summarize(record, read_log(directory / f"{name}.jsonl"))


def read_log(path: Path) -> list[RequestLine]:
    """Read a request log."""
    return [msgspec.json.decode(line, type=RequestLine) for line in path.read_bytes().splitlines()]


def _target(lab: Lab, caller: str, service: str) -> Target:
    return Target(
        caller=caller,
        service=service,
        url=f"http://{lab.clusters[caller].agents[0].address}:{topology.OUTBOUND_PORT}/",
        host=f"{service}.{topology.NAMESPACE}:{topology.SERVICE_PORT}",
    )

"""Three members with real catalogs, asked over pipes."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.catalog_load import CLUSTERS, Ask, Loaded
from bench.log_member import prepare
from bench.machine import cpu_s
from bench.stores import NAMES
from chaos.lab.processes import LabError

START_TIMEOUT_S = 60.0
_POLL_S = 0.05

AnswerT = TypeVar("AnswerT")


class CatalogTrio:
    """Three processes, each the controller of some clusters: they are loaded, and say how far behind followers were."""

    def __init__(self, directory: Path, hosts: Sequence[str], environment: Mapping[str, str]) -> None:
        directory.mkdir(parents=True)
        prepare(directory, dict(zip(NAMES, hosts, strict=True)))
        self._logs = {name: (directory / f"{name}.log").open("wb") for name in NAMES}
        self._members = {
            name: subprocess.Popen(
                [sys.executable, "-m", "bench.catalog_load", str(directory), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._logs[name],
                env=environment,
                process_group=0,
            )
            for name in NAMES
        }
        self.controllers: dict[str, str] = {}  # By cluster; the first one's led when they began.

    def found(self) -> None:
        """Wait for a leader, found a federation there, have all of them follow, and give each its clusters."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        leader = ""
        while not leader:
            if time.monotonic() > deadline_s:
                raise LabError(f"no member leads within {START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
            leader = next((name for name in NAMES if self._ask(name, Ask(what="leads"), bool)), "")
        self._ask(leader, Ask(what="found"), bool)
        for name in NAMES:
            self._ask(name, Ask(what="follow"), bool)
        members = sorted(NAMES, key=lambda name: name != leader)
        self.controllers = {
            cluster: members[number % len(members)] for number, cluster in enumerate(CLUSTERS)
        }
        for name in NAMES:
            if not self._ask(name, Ask(what="host", clusters=tuple(self._hosted(name))), bool):
                raise LabError(f"what the first agents declared to {name} did not become global")

    def load(self, per_s: Mapping[str, float], seconds: float) -> tuple[Loaded, list[float]]:
        """Return what a load came to, and how late the followers of all members were, in milliseconds."""
        for name in NAMES:
            self._ask(name, Ask(what="lags"), list[float])
        for name in NAMES:
            rates = {cluster: per_s[cluster] for cluster in self._hosted(name)}
            self._send(name, Ask(what="load", per_s=rates, seconds=seconds))
        parts = [self._answer(name, Loaded) for name in NAMES]
        for part in parts:
            if part.failure:
                raise LabError(part.failure)
        loaded = Loaded(
            took_ms={cluster: took for part in parts for cluster, took in part.took_ms.items()},
            elapsed_s=max(part.elapsed_s for part in parts),
        )
        return loaded, [lag for name in NAMES for lag in self._ask(name, Ask(what="lags"), list[float])]

    def cpu_s(self) -> list[float]:
        """Return what each member has taken of the CPU since its start, in seconds."""
        return [cpu_s(member.pid) for member in self._members.values()]

    def end(self) -> None:
        """End the processes."""
        for name, member in self._members.items():
            member.kill()
            member.wait()
            for pipe in (member.stdin, member.stdout):
                assert pipe is not None
                pipe.close()
            self._logs[name].close()

    def _hosted(self, name: str) -> list[str]:
        return [cluster for cluster, controller in self.controllers.items() if controller == name]

    def _ask(self, name: str, ask: Ask, answer: type[AnswerT]) -> AnswerT:
        self._send(name, ask)
        return self._answer(name, answer)

    def _send(self, name: str, ask: Ask) -> None:
        pipe = self._members[name].stdin
        assert pipe is not None
        try:
            pipe.write(msgspec.json.encode(ask) + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise LabError(f"member {name} ended, see {self._logs[name].name}") from None

    def _answer(self, name: str, answer: type[AnswerT]) -> AnswerT:
        pipe = self._members[name].stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise LabError(f"member {name} ended, see {self._logs[name].name}")
        return msgspec.json.decode(line, type=answer)

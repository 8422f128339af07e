"""Three members with real catalogs, asked over pipes."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.catalog_load import Ask, Loaded
from bench.log_member import prepare
from bench.stores import NAMES
from chaos.lab.processes import LabError

START_TIMEOUT_S = 60.0
_POLL_S = 0.05

AnswerT = TypeVar("AnswerT")


class CatalogTrio:
    """Three processes; the one that leads is loaded, all of them say how far behind their followers were."""

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
        self._leader = ""

    def found(self) -> None:
        """Wait for a leader, found a federation there, and have all of them follow."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._leader:
            if time.monotonic() > deadline_s:
                raise LabError(f"no member leads within {START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
            self._leader = next((name for name in NAMES if self._ask(name, Ask(what="leads"), bool)), "")
        if not self._ask(self._leader, Ask(what="found"), bool):
            raise LabError("what the first agents declared did not become global")
        for name in NAMES:
            self._ask(name, Ask(what="follow"), bool)

    def load(self, per_s: Mapping[str, float], seconds: float) -> tuple[Loaded, list[float]]:
        """Return what a load came to, and how late the followers of all members were, in milliseconds."""
        for name in NAMES:
            self._ask(name, Ask(what="lags"), list[float])
        loaded = self._ask(self._leader, Ask(what="load", per_s=dict(per_s), seconds=seconds), Loaded)
        if loaded.failure:
            raise LabError(loaded.failure)
        return loaded, [lag for name in NAMES for lag in self._ask(name, Ask(what="lags"), list[float])]

    def end(self) -> None:
        """End the processes."""
        for name, member in self._members.items():
            member.kill()
            member.wait()
            for pipe in (member.stdin, member.stdout):
                assert pipe is not None
                pipe.close()
            self._logs[name].close()

    def _ask(self, name: str, ask: Ask, answer: type[AnswerT]) -> AnswerT:
        member = self._members[name]
        assert member.stdin is not None
        assert member.stdout is not None
        try:
            member.stdin.write(msgspec.json.encode(ask) + b"\n")
            member.stdin.flush()
        except BrokenPipeError:
            raise LabError(f"member {name} ended, see {self._logs[name].name}") from None
        line = member.stdout.readline()
        if not line:
            raise LabError(f"member {name} ended, see {self._logs[name].name}")
        return msgspec.json.decode(line, type=answer)

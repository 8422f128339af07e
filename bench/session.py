"""One run of the benchmarks: a work directory, loopback addresses, and a federation that sections share."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from chaos.lab.federation import Lab
from chaos.lab.loopback import LoopbackBlock, claim_block
from chaos.lab.topology import AgentPlan, ClusterPlan, Workload, demo_topology

Say = Callable[[str], None]


class BenchLab(Lab):
    """The demo's federation with applications that say how often a request was tried."""

    def app_command(self, cluster: ClusterPlan, agent: AgentPlan, workload: Workload) -> list[str]:
        """The command that serves one workload."""
        return [
            sys.executable,
            "-m",
            "bench.app",
            f"--service={workload.service}",
            f"--cluster={cluster.name}",
            f"--instance={agent.name}",
            f"--listen={agent.address}:{workload.port}",
        ]


class Session:
    """What the sections of a run share; within `with`."""

    def __init__(self, directory: Path, say: Say) -> None:
        self.directory = directory
        self.say = say
        self._lab: BenchLab | None = None
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """End every process that was started."""
        self._opened.close()

    def claim_block(self) -> LoopbackBlock:
        """Return loopback addresses of one's own until the end of the run."""
        return self._opened.enter_context(claim_block())

    def lab(self) -> BenchLab:
        """Return the federation, built by the operator's command when it is first asked for."""
        if self._lab is None:
            block = self.claim_block()
            clusters = demo_topology(block.prefix)
            self._lab = self._opened.enter_context(BenchLab(clusters, self.directory / "lab", self.say))
            self._lab.build()
        return self._lab

    def end_lab(self) -> None:
        """End the federation, so that it takes nothing from what is measured next."""
        if self._lab is not None:
            self._opened.close()
            self._lab = None

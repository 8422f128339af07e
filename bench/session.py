"""One run of the benchmarks: a work directory, loopback addresses, and a federation that sections share."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

from chaos.lab.federation import Lab
from chaos.lab.loopback import LoopbackBlock, claim_block
from chaos.lab.topology import demo_topology

Say = Callable[[str], None]


class Session:
    """What the sections of a run share; within `with`."""

    def __init__(self, directory: Path, say: Say, *, long: bool = False) -> None:
        self.directory = directory
        self.say = say
        self.long = long  # Take the time for what is measured seldom.
        self._lab: Lab | None = None
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

    def lab(self) -> Lab:
        """Return the federation, built by the operator's command when it is first asked for."""
        if self._lab is None:
            block = self.claim_block()
            clusters = demo_topology(block.prefix)
            self._lab = self._opened.enter_context(Lab(clusters, self.directory / "lab", self.say))
            self._lab.build()
        return self._lab

    def end_lab(self) -> None:
        """End the federation, so that it takes nothing from what is measured next."""
        if self._lab is not None:
            self._opened.close()
            self._lab = None

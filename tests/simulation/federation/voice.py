"""How somebody outside acts: he asks a controller that runs, or has something said in the log."""

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from discovery.core.commands import Body, Command, encode_command
from federation.kernel.errors import IsthmusError

if TYPE_CHECKING:
    from tests.simulation.federation.controllers import SimController
    from tests.simulation.federation.world import World

ADMIN = "spiffe://alpha.test/isthmus/alpha/operator/admin"


class Voice:
    """One of these; `name` tells his commands from others'. What it returns is for the run's log, "" where nothing was done."""

    def __init__(self, world: "World", rng: random.Random, name: str) -> None:
        self._world = world
        self._rng = rng
        self._name = name
        self._count = 0

    def ask(
        self,
        ask: "Callable[[SimController], Awaitable[object]]",
        what: str,
        *,
        of: Callable[[str], bool] = lambda _cluster: True,
    ) -> str:
        """Have a controller do something, if one runs of a cluster that will do."""
        running = [one for one in self._world.controllers.values() if one.process.alive and of(one.cluster)]
        if not running:
            return ""
        asked = self._rng.choice(running)
        asked.process.tasks.create_task(_quietly(ask(asked)), name="operator")
        return f"{what} by {asked.process.name}"

    def say(self, proposer: str, body: Body) -> str:
        """Have a cluster's controllers propose something, if there is a leader."""
        if self._world.agreed.leader() is None:
            return ""
        self._count += 1
        command = Command(request_id=f"{self._name}-{self._count}", proposer=proposer, body=body)
        self._world.agreed.append(encode_command(command))
        return f"{proposer} {str(body)[:120]}"


async def _quietly(asked: Awaitable[object]) -> None:
    """Do as an operator asks; what is refused was said to him."""
    with contextlib.suppress(IsthmusError, TimeoutError):
        await asked

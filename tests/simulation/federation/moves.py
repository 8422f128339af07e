"""What operators do with the remote cluster: they move it between two homes, take it back, and go on after all."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from discovery.core.commands import AdvanceRehoming, Write
from discovery.core.model import ResourceKey
from discovery.core.rehoming import is_under_way
from discovery.core.specs import ClusterSpec, JoinTokenSpec
from federation.api.cluster_requests import RehomeRequest
from federation.app import rehoming
from tests.simulation.federation.founding import put
from tests.simulation.federation.movers import REMOTE, Keeper, MovingDirectory
from tests.simulation.federation.voice import ADMIN, Voice

if TYPE_CHECKING:
    from tests.simulation.federation.controllers import SimController
    from tests.simulation.federation.world import World

HOMES = ("alpha", "beta")
CALM_S = 1.5  # Between two actions, on average.
# As leases of agents are shorter here, so is what a step waits for at most.
ANNOUNCE_MS_MAX, OTHER_WAITS_MS, SETTLE_MS_MAX = 4_000, 5_000, 5_000
NEVER_MS = 2**50


@contextmanager
def short_waits() -> Iterator[None]:
    """Let a run, which is short, see moves end."""
    short = {
        "ANNOUNCE_MS_MAX": ANNOUNCE_MS_MAX,
        "OTHER_WAITS_MS": OTHER_WAITS_MS,
        "SETTLE_MS_MAX": SETTLE_MS_MAX,
    }
    real = {name: getattr(rehoming, name) for name in short}
    try:
        vars(rehoming).update(short)
        yield
    finally:
        vars(rehoming).update(real)


class Moves:
    """Acts until cancelled, at moments of its own; `log` says what was done, and when."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.log: list[str] = []
        self._world = world
        self._rng = rng
        self._voice = Voice(world, rng, "moves")
        self._tokens = 0  # That let it move.
        self._actions: dict[Callable[[ClusterSpec], str], int] = {
            self.move: 6,
            self.take_back: 2,
            self.go_on: 2,
            self.hasty: 2,
        }
        world.rules.moves.unaware = self._unaware
        if world.plan.remote:
            self.forget(REMOTE)

    async def run(self) -> None:
        """Do one thing after the other, where there is a remote cluster."""
        while self._world.plan.remote:
            await asyncio.sleep(self._rng.expovariate(1 / CALM_S))
            action = self._rng.choices(list(self._actions), weights=list(self._actions.values()))[0]
            spec = self._world.rules.truth.tables.cluster(REMOTE)
            if spec is not None and (what := action(spec)):
                self.log.append(f"{self._world.loop.now_s:7.3f} {action.__name__} {what}")

    def forget(self, cluster: str) -> None:
        """The agents of a remote cluster begin at its first home, with nothing on their disks."""
        world = self._world
        for agent in world.agents.values():
            if agent.cluster == cluster == REMOTE and world.plan.remote:
                agent.directory = MovingDirectory(world.directory(list(world.controllers)))
                for is_own in (True, False):
                    agent.show(world.trust_domain(cluster), is_own=is_own)
                rng = random.Random(f"{world.seed}/{agent.name}/identities")
                agent.keeper = Keeper(agent, world.controllers, rng)

    def may_speak(self, speaker: str, cluster: str) -> bool:
        """True for whoever writes for a cluster, also on its way to another home."""
        spec = self._world.rules.truth.tables.cluster(cluster)
        return speaker in (self._world.speaker(cluster), *(() if spec is None else spec.homes))

    def _unaware(self, revision: int, since_s: float) -> Iterator[str]:
        world = self._world
        for name, controller in world.present(world.controllers):
            ran = controller.process.alive and world.started_s.get(name, 0.0) < since_s
            if ran and controller.catalog.revision < revision:
                yield name

    def move(self, spec: ClusterSpec) -> str:
        """An operator of its home lets it go to the other one, which gave leave."""
        if is_under_way(spec):
            return ""
        to = next(name for name in HOMES if name != spec.home)
        self._tokens += 1
        secret = hashlib.sha256(f"move-{self._tokens}".encode()).hexdigest()
        token = JoinTokenSpec(purpose="cluster", cluster=REMOTE, secret_sha256=secret, expires_ms=NEVER_MS)
        key = ResourceKey("", "JoinToken", "", f"move-{self._tokens}")
        if not self._voice.say(to, Write(operations=(put(key, token),))):
            return ""
        within_ms = self._rng.choice([1_000, 4_000, 20_000])
        request = RehomeRequest(to=to, secret_sha256=secret, within_ms=within_ms, force=True)
        return self._of(spec.home, lambda asked: asked.moves.begin(REMOTE, request, ADMIN), str(request))

    def take_back(self, spec: ClusterSpec) -> str:
        """An operator of either home takes it back."""
        if not is_under_way(spec):
            return ""
        return self._of(self._rng.choice(HOMES), lambda asked: asked.moves.abort(REMOTE, ADMIN), "")

    def go_on(self, spec: ClusterSpec) -> str:
        """An operator of the home that it returns from goes on, the other one missed or not."""
        move = spec.rehoming
        if move is None or move.state != "returning":
            return ""
        request = RehomeRequest(to=move.home, force=self._rng.random() < 0.5)
        return self._of(move.home, lambda asked: asked.moves.begin(REMOTE, request, ADMIN), str(request))

    def hasty(self, spec: ClusterSpec) -> str:
        """A home takes the last step although not all have changed, or a cluster that has no say in it does."""
        move = spec.rehoming
        if move is None or move.state != "moving" or move.reason:
            return ""
        return self._voice.say(
            self._rng.choice(self._world.primaries), AdvanceRehoming(cluster=REMOTE, state=move.state)
        )

    def _of(self, cluster: str, ask: "Callable[[SimController], Awaitable[object]]", what: str) -> str:
        return self._voice.ask(ask, what, of=lambda name: name == cluster)

"""What operators do meanwhile: drain clusters, give them back, remove them, let them join anew; and who comes back old."""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from discovery.core.commands import Body, PublishEndpoints, Write, decode_command
from discovery.core.model import FEDERATION_SCOPE, ResourceKey
from discovery.core.specs import ClusterSpec, DrainReportSpec, ServiceTraffic
from federation.api.cluster_requests import DrainRequest
from federation.api.lifecycle import drains
from federation.app.duties import unswept
from tests.simulation.federation.founding import HOME, belongings, joining, put
from tests.simulation.federation.lifecycle_rules import EPOCH
from tests.simulation.federation.plan import CLUSTERS
from tests.simulation.federation.voice import ADMIN, Voice

if TYPE_CHECKING:
    from tests.simulation.federation.controllers import SimController
    from tests.simulation.federation.world import World

CALM_S = 1.2  # Between two actions, on average.
VOTERS_MIN = 3
OFF_S = 8.0  # How long a cluster that is to be removed stays off before it is started again all the same.
POLL_S = 0.25


class Operators:
    """Acts until cancelled, at moments of its own; `log` says what was done, and when."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.log: list[str] = []
        self.absent: set[str] = set()  # Clusters that were removed, or are off until they are.
        self.gone: set[str] = set()  # Of these, who was removed and has not joined anew.
        self._world = world
        self._rng = rng
        self._voice = Voice(world, rng, "operator")
        self._before: dict[str, int] = {}  # Entries of the log when a cluster was removed.
        self._actions: dict[Callable[[], str], int] = {
            self.drain: 6,
            self.undrain: 2,
            self.callers_fail: 4,
            self.false_report: 2,
            self.remove: 3,
            self.old_self: 4,
            self.old_epoch: 1,
        }
        world.rules.lifecycle.on_removed = self._was_removed

    async def run(self) -> None:
        """Do one thing after the other."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / CALM_S))
            action = self._rng.choices(list(self._actions), weights=list(self._actions.values()))[0]
            if what := action():
                self.log.append(f"{self._world.loop.now_s:7.3f} {action.__name__} {what}")

    # -- drains ------------------------------------------------------------------------------------

    def drain(self) -> str:
        """Some controller is asked to drain some cluster."""
        cluster = self._rng.choice(CLUSTERS)
        request = DrainRequest(
            step_percent=self._rng.choice([25, 50, 100]),
            every_ms=self._rng.choice([500, 1_500, 3_000]),
            force=self._rng.random() < 0.4,
            max_error_rate=self._rng.choice([1.0, 1.0, 100.0]),
        )
        return self._voice.ask(
            lambda asked: asked.drains.drain(cluster, request, ADMIN), f"{cluster} {request}"
        )

    def undrain(self) -> str:
        """A cluster that is drained gets its share back."""
        found = sorted(drains(self._world.rules.truth.tables))
        if not found:
            return ""
        cluster = self._rng.choice(found)
        return self._voice.ask(lambda asked: asked.drains.undrain(cluster, ADMIN), cluster)

    def callers_fail(self) -> str:
        """For some seconds requests of one cluster's callers fail; who is asked to count says so."""
        cluster, lasts_s = self._rng.choice(CLUSTERS), self._rng.uniform(1.0, 5.0)
        self._world.failing_until_s[cluster] = self._world.loop.now_s + lasts_s
        return f"{cluster} for {lasts_s:.1f} s"

    def false_report(self) -> str:
        """A cluster says of a drain whatever it likes."""
        found = drains(self._world.rules.truth.tables)
        if not found:
            return ""
        subject, liar = self._rng.choice(sorted(found)), self._rng.choice(CLUSTERS)
        requests = self._rng.choice([10, 100, 2**50])
        one = ServiceTraffic(
            service="", requests=requests, errors=self._rng.choice([0, requests // 2, requests])
        )
        report = DrainReportSpec(
            started_ms=found[subject].started_ms - self._rng.choice([0, 0, 1]), failing=(one,)
        )
        speaker = self._world.speaker(self._rng.choice([liar, liar, self._rng.choice(CLUSTERS)]))
        return self._voice.say(
            speaker, Write(operations=(put(ResourceKey(liar, "DrainReport", "", subject), report),))
        )

    # -- removals ----------------------------------------------------------------------------------

    def remove(self) -> str:
        """A cluster is removed, with force or after a drain, alive or dead; one at a time."""
        world = self._world
        victim = self._rng.choice([one for one in CLUSTERS if one != HOME or not world.plan.remote])
        if self.absent or (world.agreed.votes(victim) and world.agreed.voters <= VOTERS_MIN):
            return ""
        force, is_dead = self._rng.random() < 0.6, self._rng.random() < 0.5
        what = self._voice.ask(
            lambda asked: self._remove(asked, victim, force=force),
            f"{victim}{' by force' if force else ''}{', dead' if is_dead else ''}",
            of=lambda name: name != victim,
        )
        if what and is_dead:
            self.absent.add(victim)
            self._kill(victim)
            world.later(OFF_S, self._back_on, victim)
        return what

    async def _remove(self, asked: "SimController", victim: str, *, force: bool) -> None:
        if not force:
            request = DrainRequest(step_percent=100, every_ms=0, force=True)
            await asked.drains.drain(victim, request, ADMIN)
            async with asyncio.timeout(OFF_S):
                while (await asked.drains.state(victim)).share_percent:  # noqa: ASYNC110 - asked as an operator asks
                    await asyncio.sleep(POLL_S)
            await asked.change_member("remove", victim)
        await asked.removals.remove(victim, ADMIN, force=force)

    def _was_removed(self, cluster: str) -> None:
        """The log has it: what still runs ends in a moment, and for most another cluster takes the name later."""
        world = self._world
        self.absent.add(cluster)
        self.gone.add(cluster)
        self._before[cluster] = len(world.agreed.entries)
        world.agreed.retire(cluster)
        world.later(self._rng.uniform(0.0, 2.0), self._kill, cluster)
        if self._rng.random() < 0.8:
            world.later(self._rng.uniform(2.1, 6.0), self._join, cluster)
        self.log.append(f"{world.loop.now_s:7.3f} removed {cluster}")

    def _join(self, cluster: str) -> None:
        """Another cluster of the name joins, as soon as nothing is left of the last one; nothing is on its disks."""
        world = self._world
        tables = world.rules.truth.tables
        if world.agreed.leader() is None or cluster in unswept(tables):
            world.later(0.5, self._join, cluster)
            return
        epoch = world.rules.lifecycle.epoch(cluster) + 1
        self._voice.say(
            self._sponsor(), Write(operations=tuple(joining(cluster, world.primaries, epoch=epoch)))
        )
        joined = world.rules.truth.tables.cluster(cluster)
        if joined is None or joined.epoch != epoch:
            world.rules.fail(EPOCH, f"{cluster} was to join at epoch {epoch}, and the log has {joined}")
            return
        controllers = [name for name, one in world.controllers.items() if one.cluster == cluster]
        agents = [name for name, one in world.agents.items() if one.cluster == cluster]
        own = belongings(
            cluster,
            world.trust_domain(cluster),
            controllers=controllers,
            agents=agents,
            exports_all=world.plan.exports_all,
        )
        self._voice.say(world.speaker(cluster), Write(operations=tuple(own)))
        self._kill(cluster)
        self.absent.discard(cluster)
        self.gone.discard(cluster)
        world.moves.forget(cluster)
        world.agreed.admit(cluster)
        self.log.append(f"{world.loop.now_s:7.3f} joined {cluster} at epoch {epoch}")
        world.later(0.1, self._start, cluster, 0)

    def _back_on(self, cluster: str) -> None:
        """Nobody has removed it: it is started again."""
        if cluster not in self.gone and cluster in self.absent:
            self.absent.discard(cluster)
            self._start(cluster, len(self._world.agreed.entries) // 2)

    def _kill(self, cluster: str) -> None:
        for process in self._world.net.processes.values():
            if process.site == cluster and process.alive and cluster in self.absent:
                process.kill()

    def _start(self, cluster: str, known_index: int) -> None:
        world = self._world
        for name, controller in world.controllers.items():
            if controller.cluster == cluster:
                world.start_controller(name, known_index)
        for number, (name, agent) in enumerate(world.agents.items()):
            if agent.cluster == cluster:
                world.start_agent(name, [number % 4, (number + 1) % 4], 0.0)
        for name, follower in world.followers.items():
            if follower.cluster == cluster:
                world.start_follower(name, None)

    # -- who comes back ----------------------------------------------------------------------------

    def old_self(self) -> str:
        """What a cluster said before it was removed comes again, late or from a copy of it that nobody stopped."""
        found = self._world.rules.lifecycle.removed
        if not found:
            return ""
        cluster = self._rng.choice(found)
        speaker = self._world.speaker(cluster)
        said = [
            command.body
            for entry in self._world.agreed.entries[: self._before[cluster]]
            if (command := decode_command(entry)).proposer == speaker and _is_of(command.body, cluster)
        ]
        if cluster not in self.gone:
            # Its policies another cluster of its name may write; its endpoints carry the fence of then.
            said = [body for body in said if isinstance(body, PublishEndpoints)]
        return self._voice.say(speaker, self._rng.choice(said)) if said else ""

    def old_epoch(self) -> str:
        """Somebody lets a removed cluster join as if it had never been removed."""
        if not self.gone:
            return ""
        cluster = self._rng.choice(sorted(self.gone))
        spec = ClusterSpec(
            role="primary",
            trust_domain=f"{cluster}.test",
            epoch=self._world.rules.lifecycle.epoch(cluster),
        )
        key = ResourceKey(FEDERATION_SCOPE, "Cluster", "", cluster)
        return self._voice.say(self._sponsor(), Write(operations=(put(key, spec, new=True),)))

    def _sponsor(self) -> str:
        """Return who lets others in: two clusters may be removed at one time, and the log refuses who is gone."""
        return next(one for one in self._world.primaries if one not in self.gone)


def _is_of(body: Body, cluster: str) -> bool:
    match body:
        case PublishEndpoints():
            return body.cluster == cluster
        case Write(operations=operations):
            return all(
                getattr(operation, "key", None) and operation.key.scope == cluster for operation in operations
            )  # type: ignore[union-attr]
        case _:
            return False

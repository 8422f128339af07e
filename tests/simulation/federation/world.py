"""One run: five clusters, what serves and follows them, and faults, all drawn from one seed."""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct

from discovery.core.commands import (
    Command,
    Operation,
    SweepRemoved,
    Tick,
    Write,
    decode_outcome,
    encode_command,
)
from discovery.core.drains import is_under_way
from discovery.core.specs import ObservationSpec, VerdictSpec
from federation.api.lifecycle import drains
from federation.api.messages import Directory, NamedController
from federation.app.duties import unswept
from federation.replication.state import Image
from tests.simulation.checks import ViolationError, first_violation, without_logs
from tests.simulation.federation.agents import Accept, FixedDirectory, SimAgent, simulated_channels
from tests.simulation.federation.agreed_log import AgreedLog
from tests.simulation.federation.controllers import SimController
from tests.simulation.federation.followers import SimFollower
from tests.simulation.federation.founding import (
    HOME,
    belongings,
    controller_spec,
    founding,
    joining,
    trust_domain,
)
from tests.simulation.federation.links import Net, Process, Stream
from tests.simulation.federation.movers import MovingDirectory
from tests.simulation.federation.moves import Moves, short_waits
from tests.simulation.federation.nemesis import Nemesis
from tests.simulation.federation.operators import Operators
from tests.simulation.federation.outside import Outside
from tests.simulation.federation.parts import Parts
from tests.simulation.federation.placement import NOTHING, Placement
from tests.simulation.federation.plan import CLUSTERS, Plan, draw_plan
from tests.simulation.federation.rules import CONVERGED, HELD, Rules
from tests.simulation.virtual import VirtualLoop

T = TypeVar("T", SimController, SimFollower)

AGENTS = 2  # Of each cluster.
CONVERGED_WITHIN_S = 90.0
PLACED_WITHIN_S = 15.0  # After that: who was elsewhere looks again every few seconds.
TICK_S = 0.5
LIFECYCLE_LOOK_S = 1.0
SWEEP_ROWS = 5  # Of a removed cluster at each tick.
MOMENT_S = 0.25  # Between two looks at what is held everywhere.
WALL_S = 1_700_000_000.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What a run ended with; `violation` is None when all held."""

    seed: int
    plan: Plan
    violation: ViolationError | None
    faults: list[str]
    entries: int
    revision: int
    checked: int
    dead: int  # Verdicts.
    unhealthy: int  # Addresses outside, counted with each change.
    moved: int  # How often the remote cluster came to another home...
    returned: int  # ... or returned.
    seconds: float
    trace: str


def run(seed: int, parts: Parts | None = None) -> Outcome:
    """Run one seed from beginning to end."""
    state = random.getstate()
    random.seed(seed)  # The product spreads its retries by the module's generator.
    try:
        with simulated_channels(), short_waits(), without_logs():
            return World(seed, parts or Parts()).run()
    finally:
        random.setstate(state)


class World:
    """The state of one run."""

    def __init__(self, seed: int, parts: Parts) -> None:
        self.seed = seed
        self.plan = plan = draw_plan(seed)
        self.loop = VirtualLoop()
        self.rules = Rules(parts, lambda: self.loop.now_s)
        self.net = Net(self.loop, seed, delay_ms=plan.delay_ms, jitter=plan.jitter)
        self.wall_jump_s: dict[str, float] = {}
        self.started_s: dict[str, float] = {}  # Controllers, the last time.
        self.failing_until_s: dict[str, float] = {}  # By the cluster of callers whose requests fail.
        self.primaries = CLUSTERS[:-1] if plan.remote else CLUSTERS
        names = [f"{cluster}-1" for cluster in self.primaries] + (["alpha-2"] if plan.second else [])
        processes = {name: self.net.add(name, name.partition("-")[0]) for name in names}
        voters = [processes[name] for name in names[: 3 if plan.remote else 5]]
        self.agreed = AgreedLog(self.net, self._rng("log"), self.rules, voters=voters)
        self.outside = Outside(self, self._rng("outside"))
        self.controllers: dict[str, SimController] = {}
        accept = _Accept(self)
        directory = FixedDirectory(self.directory(names))
        for name, process in processes.items():
            self.controllers[name] = SimController(
                process,
                self.agreed,
                self.rules,
                parts,
                trust_domain=self.trust_domain(process.site),
                moves=plan.remote,
                directory=MovingDirectory(directory.current) if plan.remote else directory,
                accept=accept,
                missed=self._missed if name.endswith("-1") else None,
                checker=self.outside.checker if name.endswith("-1") else None,
                rng=self._rng(name),
                drift=plan.drift,
            )
        self.agreed.controllers = list(self.controllers.values())
        self.agents = {
            f"{cluster}-a{number}": SimAgent(
                self.net.add(f"{cluster}-a{number}", cluster),
                cluster,
                self.trust_domain(cluster),
                directory,
                accept,
            )
            for cluster in CLUSTERS
            for number in range(AGENTS)
        }
        self.rules.agents = self.agents
        for agent in self.agents.values():
            agent.failing = partial(self._fail, agent.cluster)
        self.followers = {
            f"{cluster}-dns": SimFollower(
                self.net.add(f"{cluster}-dns", cluster),
                cluster,
                self.trust_domain(cluster),
                directory=MovingDirectory(directory.current),
                accept=accept,
                rules=self.rules,
                parts=parts,
                rng=self._rng(f"{cluster}-dns"),
            )
            for cluster in CLUSTERS
        }
        self.nemesis = Nemesis(self, self._rng("nemesis"))
        self.operators = Operators(self, self._rng("operators"))
        self.moves = Moves(self, self._rng("moves"))
        self._placement = Placement(self)
        self._ticks = 0
        self._tasks: asyncio.TaskGroup
        self._ending = False
        self._lifecycle_look_s = 0.0

    def run(self) -> Outcome:
        """Run everything and return what came of it."""
        violation: ViolationError | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._main())
        except* ViolationError as group:
            violation = first_violation(group)
        return Outcome(
            seed=self.seed,
            plan=self.plan,
            violation=self.rules.violation or violation,
            faults=sorted([*self.nemesis.log, *self.operators.log, *self.outside.log, *self.moves.log]),
            entries=len(self.agreed.entries),
            revision=self.rules.truth.revision,
            checked=self.rules.checked,
            dead=self.rules.dead,
            unhealthy=self.rules.unhealthy,
            moved=self.rules.moves.moved,
            returned=self.rules.moves.returned,
            seconds=self.loop.now_s,
            trace=f"{len(self.agreed.entries)}/{self.rules.checked}/{self.loop.now_s:.6f}",
        )

    async def _main(self) -> None:
        crashed: list[BaseException] = []
        self.loop.set_exception_handler(
            lambda _loop, context: crashed.append(
                context.get("exception") or RuntimeError(context["message"])
            )
        )
        self._crashed = crashed
        self._found()
        async with asyncio.TaskGroup() as self._tasks:
            for name in self.controllers:
                self.start_controller(name, len(self.agreed.entries))
            for name in self.followers:
                self.start_follower(name, None)
            for number, name in enumerate(self.agents):
                self.start_agent(name, [number % 4, (number + 1) % 4], 0.0)
            ticker = self._tasks.create_task(self._tick())
            await self._pass(3.0)
            await self._chaos()
            await self._converge()
            self._ending = True
            ticker.cancel()
            for process in self.net.processes.values():
                if process.alive:
                    process.kill()

    async def _chaos(self) -> None:
        self.agreed.loss = self.plan.loss
        rng = self._rng("chaos")
        end_s = self.loop.now_s + self.plan.chaos_s
        operators = self._tasks.create_task(self.operators.run(), name="operators")
        outside = self._tasks.create_task(self.outside.run(), name="outside")
        moves = self._tasks.create_task(self.moves.run(), name="moves")
        while self.loop.now_s < end_s:
            self.nemesis.strike()
            await self._pass(rng.expovariate(1 / self.plan.calm_s))
        operators.cancel()
        outside.cancel()
        self.outside.end()
        moves.cancel()
        self.agreed.loss = 0.0
        self.wall_jump_s.clear()
        self.net.heal()

    async def _converge(self) -> None:
        await self._pass(10.0)  # Whoever was to come back is back.
        self.net.heal()
        end_s = self.loop.now_s + CONVERGED_WITHIN_S
        while difference := self._difference():
            if self.loop.now_s > end_s:
                raise self.rules.fail(CONVERGED, difference)
            await self._pass(MOMENT_S)
        end_s = self.loop.now_s + PLACED_WITHIN_S
        while (wrong := self._placement.wrong()) != NOTHING:
            if self.loop.now_s > end_s:
                raise self.rules.fail(*wrong)
            await self._pass(MOMENT_S)
        self.rules.checked += self._placement.checked

    async def _pass(self, seconds: float) -> None:
        """Let time pass, and look at what must be held meanwhile."""
        end_s = self.loop.now_s + seconds
        while True:
            await asyncio.sleep(max(0.0, min(MOMENT_S, end_s - self.loop.now_s)))
            if self._crashed:
                raise self._crashed[0]
            self._look()
            if self.rules.violation is not None:
                raise self.rules.violation
            if self.loop.now_s >= end_s:
                return

    def _fail(self, cluster: str) -> bool:
        return self.loop.now_s < self.failing_until_s.get(cluster, 0.0)

    def _missed(self, observer: Process, subject: str) -> ObservationSpec:
        """What `observer` misses of a cluster now; an agent stands for its gateway."""
        controllers = [one.process for one in self.controllers.values() if one.cluster == subject]
        gateway = self.agents[f"{subject}-a0"].process

        def answers(process: Process) -> bool:
            return process.alive and self.net.both_ways(observer, process)

        control = any(map(answers, controllers)) if controllers else answers(gateway)
        return ObservationSpec(control_lost=not control, data_lost=not answers(gateway))

    # -- looking -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """What was acknowledged as global is; what a controller holds, it has, and its own view shows it."""
        if self.loop.now_s >= self._lifecycle_look_s:
            self._lifecycle_look_s = self.loop.now_s + LIFECYCLE_LOOK_S
            self.rules.lifecycle.look()
        self.rules.moves.look(self.agents)
        for agent in self.agents.values():
            declared = agent.declared
            if declared is None:
                continue
            assert agent.registrar is not None
            for row in declared.rows.values():
                if agent.registrar.level(row.key) == "global":
                    self.rules.acknowledged(row)
            for name in agent.settled_at():
                controller = self.controllers[name]
                copy = controller.copies.get(agent.cluster)
                registry = controller.registries.get(agent.cluster)
                if registry is None or copy is None or registry.agents().get(agent.name) != "live":
                    continue  # It started again, and the agent is about to notice.
                rows = registry._table.endpoints()
                for row in declared.rows.values():
                    self.rules.checked += 1
                    if rows.get(row.key.encode()) is None:
                        self.rules.fail(
                            HELD, f"{name} acknowledged {row.key} of {agent.name}, and has it not"
                        )
                    elif copy.state.complete and not copy.holds(row):
                        self.rules.fail(
                            HELD, f"{name} acknowledged {row.key}, and {agent.cluster} sees it not"
                        )

    def _difference(self) -> str:
        """Return what still differs from what everybody should have, "" when nothing does."""
        truth = self.rules.truth
        wanted = {
            row.key.encode(): row.version
            for agent in self.agents.values()
            if (declared := agent.declared) is not None
            for row in declared.rows.values()
        }
        there = {
            key: truth.tables.endpoint(row.key).version  # type: ignore[union-attr]
            for agent in self.agents.values()
            if (declared := agent.declared) is not None
            for row in declared.rows.values()
            if truth.tables.endpoints.get(key := row.key.encode()) is not None
        }
        if there != wanted:
            return f"of {len(wanted)} declared endpoints the log has {len(there)}, or older ones"
        if extra := [key for key in truth.tables.endpoints if key not in wanted]:
            return f"the log still has {extra[0]!r}, which nobody declares"
        if moving := self.rules.moves.difference(self.agents):
            return moving
        if left := unswept(truth.tables):
            return f"{left[0]} was removed, and its rows are not swept"
        if going := [name for name, drain in drains(truth.tables).items() if is_under_way(drain)]:
            return f"the drain of {going[0]} is under way still"
        for name, controller in self.present(self.controllers):
            if controller.catalog.tables != truth.tables:
                return f"{name} is at revision {controller.catalog.revision} of {truth.revision}"
        for row in truth.tables.list_resources("", "Verdict"):
            if msgspec.json.decode(row.spec, type=VerdictSpec).state != "ok":
                return f"the verdict on {row.key.name} is {row.spec.decode()}"
        if wrong := self.outside.difference(truth.tables):
            return wrong
        views: dict[str, set[tuple[int, int]]] = {}
        for cluster, copy in self._copies():
            views.setdefault(cluster, set()).add(copy.digest)
            if copy.state.revision != truth.revision and copy.digest[0] != self.rules.sums[truth.revision]:
                return f"{copy.name} is at revision {copy.state.revision} of {truth.revision}"
        for cluster, digests in views.items():
            if len(digests) > 1:
                return f"{len(digests)} views of {cluster}"
        return ""

    def present(self, parts: Mapping[str, T]) -> Iterator[tuple[str, T]]:
        """All but those of clusters that were removed for good."""
        return ((name, one) for name, one in parts.items() if one.cluster not in self.operators.gone)

    def _copies(self) -> Iterator[tuple[str, "object"]]:
        for _, controller in self.present(self.controllers):
            yield from controller.copies.items()
        for _, follower in self.present(self.followers):
            if follower.copy is not None:
                yield follower.cluster, follower.copy

    # -- what the nemesis does ---------------------------------------------------------------------

    def later(self, seconds: float, what: Callable[..., None], *arguments: object) -> None:
        """Do something later, unless the run has ended by then."""
        self.loop.call_later(seconds, lambda: None if self._ending else what(*arguments))

    def start_controller(self, name: str, known_index: int) -> None:
        """Start a controller whose disk holds the log up to an index."""
        one = self.controllers[name]
        if not one.process.alive and one.cluster not in self.operators.absent:
            self.started_s[name] = self.loop.now_s
            one.start(self._tasks, known_index=known_index)

    def start_follower(self, name: str, image: Image | None) -> None:
        """Start a follower from an image."""
        one = self.followers[name]
        if one.process.alive or one.cluster in self.operators.absent:
            return
        one.start(self._tasks, image)
        assert one.copy is not None
        one.copy.excused = lambda: (
            one.source in self.controllers and self.controllers[one.source].restarted(one.cluster)
        )

    def start_agent(self, name: str, numbers: list[int], probed_s: float) -> None:
        """Start an agent whose endpoints are probed a while later."""
        agent = self.agents[name]
        if agent.process.alive or agent.cluster in self.operators.absent:
            return
        agent.start(self._tasks, numbers, probed=probed_s == 0)
        registrar = agent.registrar
        if probed_s:
            self.later(
                probed_s,
                lambda: agent.probe() if agent.process.alive and agent.registrar is registrar else None,
            )

    def leave(self, name: str, numbers: list[int], back_s: float) -> None:
        """Have an agent withdraw what it has and end; later it comes back with other endpoints."""
        agent = self.agents[name]
        agent.process.tasks.create_task(self._leave(agent, numbers, back_s), name="leave")

    async def _leave(self, agent: SimAgent, numbers: list[int], back_s: float) -> None:
        assert agent.registrar is not None
        await agent.registrar.declare_unready(timeout_s=1.0)
        await agent.registrar.remove_all(timeout_s=2.0)
        self.later(back_s, self.start_agent, agent.name, numbers, 0.0)
        self.loop.call_soon(agent.process.kill)

    def speaker(self, cluster: str) -> str:
        """Return the cluster whose controllers write for `cluster`."""
        if cluster in self.primaries:
            return cluster
        spec = self.rules.truth.tables.cluster(cluster)
        return HOME if spec is None else spec.home

    # -- the federation ----------------------------------------------------------------------------

    def trust_domain(self, cluster: str) -> str:
        """A remote cluster uses its home's."""
        return trust_domain(cluster, self.primaries)

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{self.seed}/{what}")

    def directory(self, names: list[str]) -> Directory:
        """Return what every process knows of the controllers from the beginning."""
        return Directory(
            revision=1,
            federation="f1",
            controllers=tuple(
                NamedController(
                    name=name, spec=controller_spec(name, self.trust_domain(name.partition("-")[0]))
                )
                for name in names
            ),
            bundles={},
            homes={"epsilon": "alpha"} if self.plan.remote else {},
        )

    def _found(self) -> None:
        """Write what a federation has before anything goes wrong."""
        for cluster in CLUSTERS:
            first = [*(founding() if cluster == HOME else []), *joining(cluster, self.primaries)]
            self._write(HOME, f"join-{cluster}", first)
            own = belongings(
                cluster,
                self.trust_domain(cluster),
                controllers=[name for name, one in self.controllers.items() if one.cluster == cluster],
                agents=[name for name, one in self.agents.items() if one.cluster == cluster],
                exports_all=self.plan.exports_all,
            )
            self._write(self.speaker(cluster), f"enroll-{cluster}", own)

    def _write(self, proposer: str, request_id: str, operations: list[Operation]) -> None:
        command = encode_command(
            Command(request_id=request_id, proposer=proposer, body=Write(operations=tuple(operations)))
        )
        self.agreed.entries.append(command)
        self.rules.committed(len(self.agreed.entries), command)
        again = decode_outcome(self.rules.truth.apply(len(self.agreed.entries) + 1, command))
        assert again.code == 0, again.message

    async def _tick(self) -> None:
        """What the leader does for everybody; and its heartbeats."""
        while True:
            leader = self.agreed.leader()
            if leader is not None:
                self._ticks += 1
                wall_s = WALL_S + self.loop.now_s + self.wall_jump_s.get(leader.name, 0.0)
                body = Tick(now_ms=int(wall_s * 1000))
                self.agreed.append(
                    encode_command(Command(request_id=f"tick-{self._ticks}", proposer=leader.site, body=body))
                )
                for cluster in unswept(self.rules.truth.tables):
                    sweep = SweepRemoved(cluster=cluster, rows_max=SWEEP_ROWS)
                    self.agreed.append(
                        encode_command(
                            Command(request_id=f"sweep-{self._ticks}", proposer=leader.site, body=sweep)
                        )
                    )
                for controller in self.controllers.values():
                    controller.catch_up(len(self.agreed.entries))
            await asyncio.sleep(TICK_S)


class _Accept(Accept):
    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, to: str, kind: str, stream: Stream, peer: object) -> None:
        self._world.controllers[to].answer(kind, stream, peer)  # type: ignore[arg-type]

"""The faults: links, processes, disks, clocks, agents that change their minds, and clusters that lie."""

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from discovery.core.commands import (
    Body,
    Command,
    Delete,
    Operation,
    PublishEndpoints,
    Put,
    Write,
    decode_command,
    encode_command,
)
from discovery.core.model import ResourceKey, unpack_endpoint
from discovery.core.specs import (
    AnySpec,
    ClusterSpec,
    ExportPolicySpec,
    GrantSource,
    GrantSpec,
    ObservationSpec,
)
from tests.simulation.federation.agents import NAMESPACE, SERVICES
from tests.simulation.federation.plan import CLUSTERS

if TYPE_CHECKING:
    from tests.simulation.federation.agents import SimAgent
    from tests.simulation.federation.world import World

ENDPOINTS_OF_AGENT_MAX = 4
Pair = tuple[str, str]


class Nemesis:
    """Draws one fault after the other; `log` says which, and when."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.log: list[str] = []
        self._world = world
        self._rng = rng
        self._count = 0
        self._faults: dict[Callable[[], str], int] = {
            self.partition: 4,
            self.one_way: 3,
            self.ring: 2,
            self.inner_cut: 4,
            self.kill_controller: 4,
            self.kill_cluster: 2,
            self.die_publishing: 3,
            self.restart_follower: 4,
            self.flap: 8,
            self.restart_agent: 5,
            self.leave: 2,
            self.clock: 2,
            self.policy: 4,
            self.foreign_rows: 3,
            self.foreign_resource: 3,
            self.repeat_entry: 4,
            self.false_witness: 2,
        }

    def strike(self) -> None:
        """Do one fault."""
        fault = self._rng.choices(list(self._faults), weights=list(self._faults.values()))[0]
        if what := fault():
            self.log.append(f"{self._world.loop.now_s:7.3f} {fault.__name__} {what}")

    # -- links -------------------------------------------------------------------------------------

    def partition(self) -> str:
        """Two groups of clusters, neither of which hears the other."""
        side = set(self._rng.sample(CLUSTERS, self._rng.randint(1, 2)))
        return self._cut([(a, b) for a, b in _pairs() if (a in side) != (b in side)])

    def one_way(self) -> str:
        """One cluster is heard and hears nobody, or the reverse."""
        victim = self._rng.choice(CLUSTERS)
        end = self._rng.randint(0, 1)
        return self._cut([pair for pair in _pairs() if pair[end] == victim])

    def ring(self) -> str:
        """Each cluster reaches its two neighbours only."""
        order = self._rng.sample(CLUSTERS, len(CLUSTERS))
        place = {name: at for at, name in enumerate(order)}
        return self._cut(
            [(a, b) for a, b in _pairs() if (place[a] - place[b]) % len(order) not in (1, len(order) - 1)]
        )

    def inner_cut(self) -> str:
        """An agent or the follower loses a controller, or two controllers of a cluster each other."""
        names = sorted(self._world.net.processes)
        one, other = self._rng.choice(names), self._rng.choice(sorted(self._world.controllers))
        pairs = [(one, other), (other, one)]
        return self._cut(self._rng.choice([pairs, pairs[:1], pairs[1:]])) if one != other else ""

    def _cut(self, pairs: list[Pair]) -> str:
        net = self._world.net
        net.begin_cut(pairs)
        lasts_s = self._rng.choice([0.5, 2.0, 5.0, 9.0]) * self._rng.uniform(0.5, 1.0)
        net.loop.call_later(lasts_s, net.heal, pairs)
        return f"{' '.join('>'.join(pair) for pair in pairs)} for {lasts_s:.1f} s"

    # -- processes ---------------------------------------------------------------------------------

    def kill_controller(self) -> str:
        """One controller dies and comes back with its disk, an older copy of it, or none."""
        name = self._rng.choice(sorted(self._world.controllers))
        return self._kill_controllers([name])

    def kill_cluster(self) -> str:
        """A whole cluster dies, and comes back as it was, old, or empty."""
        cluster = self._rng.choice(CLUSTERS)
        names = [name for name, one in self._world.controllers.items() if one.cluster == cluster]
        what = self._kill_controllers(names)
        for name, agent in self._world.agents.items():
            if agent.cluster == cluster:
                what += f" {self._restart_agent(name)}"
        return what

    def die_publishing(self) -> str:
        """A cluster's agents have much to say, and its controllers die before all of it is global."""
        cluster = self._rng.choice(CLUSTERS)
        for agent in self._world.agents.values():
            if agent.cluster == cluster:
                for number in range(3):
                    self._world.later(0.02 * number, self._flap, agent, number % 2 == 0)
        names = [name for name, one in self._world.controllers.items() if one.cluster == cluster]
        self._world.later(self._rng.uniform(0.01, 0.1), self._kill_controllers, names)
        return cluster

    def _kill_controllers(self, names: list[str]) -> str:
        back_s = self._rng.choice([0.3, 2.0, 6.0]) * self._rng.uniform(0.5, 1.0)
        state = self._rng.choice(["same", "same", "old", "wiped"])
        for name in names:
            controller = self._world.controllers[name]
            if not controller.process.alive:
                continue
            known = controller.applied_index
            controller.process.kill()
            if state == "old":
                known = self._rng.randint(known // 2, known)
            elif state == "wiped":
                known = 0
            self._world.later(back_s, self._world.start_controller, name, known)
        return f"{' '.join(names)} back {state} after {back_s:.1f} s"

    def restart_follower(self) -> str:
        """A follower dies and comes back with its copy, an older one, or none."""
        name = self._rng.choice(sorted(self._world.followers))
        follower = self._world.followers[name]
        if not follower.process.alive:
            return ""
        follower.save()
        follower.process.kill()
        image = self._rng.choice([None, *follower.images, *follower.images[-1:] * 3])
        self._world.later(self._rng.uniform(0.1, 2.0), self._world.start_follower, name, image)
        return f"{name} back at {'nothing' if image is None else image.tables.revision}"

    def clock(self) -> str:
        """A controller's clock jumps; the leader's ticks say something else than before."""
        name = self._rng.choice(sorted(self._world.controllers))
        jump_s = self._rng.choice([-30.0, -0.5, 0.5, 30.0])
        self._world.wall_jump_s[name] = jump_s
        return f"{name} by {jump_s} s"

    # -- agents ------------------------------------------------------------------------------------

    def flap(self) -> str:
        """An endpoint becomes ready or unready."""
        name = self._rng.choice(sorted(self._world.agents))
        agent = self._world.agents[name]
        self._flap(agent, self._rng.random() < 0.5)
        return name

    def _flap(self, agent: "SimAgent", ready: bool) -> None:
        if agent.declared is not None:
            agent.probe(ready, only=self._rng.randrange(ENDPOINTS_OF_AGENT_MAX))

    def restart_agent(self) -> str:
        """An agent dies and comes back with the same endpoints, others, or none that it knows of yet."""
        return self._restart_agent(self._rng.choice(sorted(self._world.agents)))

    def _restart_agent(self, name: str) -> str:
        agent = self._world.agents[name]
        if not agent.process.alive:
            return ""
        agent.process.kill()
        numbers = self._some_endpoints()
        probed_s = self._rng.choice([0.0, 0.0, 1.0, 4.0])
        back_s = self._rng.choice([0.1, 1.0, 7.0]) * self._rng.uniform(0.5, 1.0)
        self._world.later(back_s, self._world.start_agent, name, numbers, probed_s)
        return f"{name} back with {numbers} after {back_s:.1f} s, probed after {probed_s} s"

    def leave(self) -> str:
        """An agent withdraws all that it has."""
        name = self._rng.choice(sorted(self._world.agents))
        agent = self._world.agents[name]
        if not agent.process.alive or agent.registrar is None or agent.registrar.leaving:
            return ""
        numbers = self._some_endpoints()
        self._world.leave(name, numbers, self._rng.uniform(0.5, 6.0))
        return f"{name} back with {numbers}"

    def _some_endpoints(self) -> list[int]:
        return sorted(self._rng.sample(range(ENDPOINTS_OF_AGENT_MAX), self._rng.randint(0, 4)))

    # -- the catalog -------------------------------------------------------------------------------

    def policy(self) -> str:
        """An operator exports or grants something, or no longer."""
        owner = self._rng.choice(CLUSTERS)
        kind = self._rng.choice(["ExportPolicy", "Grant"])
        key = ResourceKey(owner, kind, NAMESPACE, f"extra-{self._rng.randrange(2)}")
        spec: AnySpec = ExportPolicySpec(
            services=(self._rng.choice(SERVICES),), consumers=(self._rng.choice(CLUSTERS),)
        )
        if kind == "Grant":
            domain = f"{self._rng.choice(CLUSTERS)}.test"
            spec = GrantSpec(services=("*",), sources=(GrantSource(trust_domains=(domain,)),))
        gone = self._rng.random() < 0.3
        operation: Operation = Delete(key=key) if gone else Put(key=key, spec=msgspec.json.encode(spec))
        return self._say(self._world.speaker(owner), Write(operations=(operation,)))

    def foreign_rows(self) -> str:
        """A cluster publishes endpoints of another one, under its own name or the other's."""
        rows = list(self._world.rules.truth.tables.endpoints.items())
        if not rows:
            return ""
        row = unpack_endpoint(self._rng.choice(rows)[1])
        victim = row.key.cluster
        liar = self._rng.choice([name for name in CLUSTERS if name != victim])
        lease = self._world.rules.truth.lease(f"publish/{self._rng.choice([victim, liar])}")
        better = msgspec.structs.replace(row, sequence=row.sequence + 1, address="10.9.9.9")
        remove = ((row.key, row.incarnation, row.sequence),) if self._rng.random() < 0.5 else ()
        body = PublishEndpoints(
            cluster=self._rng.choice([victim, liar]),
            fence=0 if lease is None else lease.fence,
            put=() if remove else (better,),
            remove=remove,
        )
        if self._world.moves.may_speak(self._world.speaker(liar), victim):
            return ""  # Its home speaks for it.
        return self._say(self._world.speaker(liar), body)

    def foreign_resource(self) -> str:
        """A cluster writes another one's policy, or claims its name."""
        victim, liar = self._rng.sample(CLUSTERS, 2)
        speaker = self._world.speaker(liar)
        if self._world.moves.may_speak(speaker, victim):
            return ""
        export = ResourceKey(victim, "ExportPolicy", NAMESPACE, "base")
        stolen = ClusterSpec(role="primary", trust_domain=f"{liar}-2.test")
        operation = self._rng.choice(
            [
                Put(key=export, spec=msgspec.json.encode(ExportPolicySpec(services=("stock",)))),
                Delete(key=export),
                Put(key=ResourceKey("", "Cluster", "", victim), spec=msgspec.json.encode(stolen)),
            ]
        )
        return self._say(speaker, Write(operations=(operation,)))

    def false_witness(self) -> str:
        """A cluster says that it misses another one, or all others."""
        liar = self._rng.choice(self._world.primaries)
        subjects = [name for name in CLUSTERS if name != liar]
        if self._rng.random() < 0.5:
            subjects = [self._rng.choice(subjects)]
        spec = msgspec.json.encode(ObservationSpec(control_lost=True, data_lost=True))
        keys = [ResourceKey(liar, "Observation", "", subject) for subject in subjects]
        return self._say(liar, Write(operations=tuple(Put(key=key, spec=spec) for key in keys)))

    def repeat_entry(self) -> str:
        """What was committed once comes again: as the same request, or as a new one of an earlier holder."""
        lately = [decode_command(entry) for entry in self._world.agreed.entries[-60:]]
        published = [command for command in lately if isinstance(command.body, PublishEndpoints)]
        if not published:
            return ""
        command = self._rng.choice(published)
        fresh = self._rng.random() < 0.7
        return self._say(command.proposer, command.body, "" if fresh else command.request_id)

    def _say(self, proposer: str, body: Body, request_id: str = "") -> str:
        if self._world.agreed.leader() is None:
            return ""
        self._count += 1
        self._world.agreed.append(
            encode_command(
                Command(request_id=request_id or f"nemesis-{self._count}", proposer=proposer, body=body)
            )
        )
        return f"{proposer} {str(body)[:120]}"


def _pairs() -> Iterator[Pair]:
    return ((a, b) for a in CLUSTERS for b in CLUSTERS if a != b)

"""Agents, two controllers of their cluster and the catalog, each hearing of the others late.

Whatever was lost on the way, or with a controller's memory: once everybody is heard again, all hold what the agents say. Before that no
row disappears that its agent still has, unless the agent was given up (F2, F4).
"""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from discovery.core.declarations import Declaration, Withdrawn
from discovery.core.local import LocalTable, Phase
from discovery.core.model import Change, Endpoint, EndpointKey, pack, unpack_endpoint
from discovery.core.specs import ClusterSpec
from tests.unit.discovery.builders import endpoint, founded

SPEC = ClusterSpec(role="primary", trust_domain="alpha.test")
AGENTS = ("agent-1", "agent-2")
NAMES = ("e1", "e2", "e3")


class Agent:
    """What one agent has: its own truth."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.incarnation = 1
        self.sequence = 0
        self.rows: dict[EndpointKey, Endpoint] = {}
        self.withdrawn: dict[EndpointKey, tuple[int, int]] = {}  # When a row was last taken back.
        self.given_up = False

    def set(self, name: str, *, ready: bool) -> Endpoint:
        self.sequence += 1
        row = endpoint(
            "alpha",
            f"{self.name}-{name}",
            agent=self.name,
            version=(self.incarnation, self.sequence),
            ready=ready,
        )
        self.rows[row.key] = row
        return row

    def drop(self, key: EndpointKey) -> None:
        self.sequence += 1
        del self.rows[key]
        self.withdrawn[key] = (self.incarnation, self.sequence)

    def says(
        self, *rows: Endpoint, remove: tuple[EndpointKey, ...] = (), complete: bool = False
    ) -> Declaration:
        return Declaration(
            agent=self.name,
            incarnation=self.incarnation,
            sequence=self.sequence,
            put=rows,
            remove=remove,
            complete=complete,
        )


class Controller:
    """One local table, what the catalog has still to tell it, and who is connected."""

    def __init__(self) -> None:
        self.table = LocalTable("alpha")
        self.inbox: deque[tuple[Change, ...]] = deque()
        self.streams: set[str] = set()
        self.journal: list[bytes | Withdrawn] = []


class LocalFirst(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log = founded()
        self.agents = {name: Agent(name) for name in AGENTS}
        self.controllers = [Controller(), Controller()]
        self.held: list[dict[bytes, bytes]] = [{}, {}]
        for controller in self.controllers:
            self.log.catalog.on_change(lambda _, changes, to=controller: to.inbox.append(changes))

    agents_ = st.sampled_from(AGENTS)
    either = st.sampled_from((0, 1))

    @rule(name=agents_, row=st.sampled_from(NAMES), ready=st.booleans())
    def agent_sets_a_row(self, name, row, ready):
        agent = self.agents[name]
        self.tell(agent, agent.says(agent.set(row, ready=ready)))

    @rule(name=agents_, row=st.sampled_from(NAMES))
    def agent_drops_a_row(self, name, row):
        agent = self.agents[name]
        key = endpoint("alpha", f"{name}-{row}").key
        if key in agent.rows:
            agent.drop(key)
            self.tell(agent, agent.says(remove=(key,)))

    @rule(name=agents_, keep=st.sets(st.sampled_from(NAMES)))
    def agent_starts_again(self, name, keep):
        agent = self.agents[name]
        for controller in self.controllers:
            self.disconnect(name, controller)
        agent.incarnation += 1
        agent.sequence = 0
        agent.withdrawn |= dict.fromkeys(agent.rows, (agent.incarnation, 0))
        agent.rows = {}
        for row in sorted(keep):
            agent.set(row, ready=True)

    @rule(name=agents_, number=either)
    def agent_connects(self, name, number):
        agent, controller = self.agents[name], self.controllers[number]
        controller.table.hello(name, agent.incarnation)
        rows = tuple(agent.rows.values())
        controller.table.declare(agent.says(*rows[:1]), SPEC)
        controller.table.declare(agent.says(*rows[1:], complete=True), SPEC)
        controller.streams.add(name)
        agent.given_up = False

    @rule(name=agents_, number=either)
    def stream_breaks(self, name, number):
        self.disconnect(name, self.controllers[number])

    @rule(name=agents_, number=either)
    def lease_ends(self, name, number):
        # The runtime gives nobody up whom another controller of the cluster hears.
        if not any(name in controller.streams for controller in self.controllers):
            self.agents[name].given_up = True
            self.controllers[number].table.expire(name)

    @rule(number=either)
    def catalog_tells(self, number):
        inbox = self.controllers[number].inbox
        if inbox:
            self.controllers[number].table.absorb(inbox.popleft())

    @rule(number=either)
    def other_controller_tells(self, number):
        self.hear(self.controllers[number], self.controllers[1 - number])

    @rule(number=either)
    def other_controller_is_not_heard(self, number):
        self.controllers[number].table.forget("other")

    @rule(name=agents_, number=either)
    def lease_ends_where_nobody_else_is_heard(self, name, number):
        controller = self.controllers[number]
        controller.table.forget("other")
        if name not in controller.streams:
            self.agents[name].given_up = True
            controller.table.expire(name)

    @rule(number=either)
    def controller_publishes(self, number):
        self.publish(self.controllers[number])

    @rule(number=either)
    def journal_is_written(self, number):
        controller, theirs = self.controllers[number], self.log.catalog.tables.endpoints
        keys = {**dict(controller.table.endpoints().items()), **dict(theirs.items())}
        entries = (controller.table.unsettled(key, theirs.get(key)) for key in keys)
        controller.journal = [entry for entry in entries if entry is not None]

    @precondition(lambda self: self.log.index > 8)
    @rule(number=either, kept=st.sampled_from(("nothing", "an old journal", "its journal")))
    def controller_starts_again(self, number, kept):
        if kept == "its journal":
            self.journal_is_written(number)
        self.held[number] = {}
        controller = self.controllers[number]
        controller.table = LocalTable("alpha")
        controller.streams.clear()
        controller.inbox.clear()
        there = [unpack_endpoint(value) for _, value in self.log.catalog.tables.endpoints.items()]
        controller.table.seed(there)
        if kept != "nothing":
            rows = [unpack_endpoint(entry) for entry in controller.journal if isinstance(entry, bytes)]
            withdrawn = [entry for entry in controller.journal if isinstance(entry, Withdrawn)]
            controller.table.recall(rows, withdrawn, SPEC)
        controller.journal = []
        for row in there:
            taken_back = row.version < self.agents[row.agent].withdrawn.get(row.key, (-1, -1))
            assert taken_back or row.key.encode() in dict(controller.table.endpoints().items())
        told = controller.table.difference(self.log.catalog.tables)
        assert not {row.key for row in told.put} - {row.key for row in there}, "nobody says that these exist"

    @invariant()
    def rows_go_only_for_a_reason(self):
        for number, controller in enumerate(self.controllers):
            now = dict(controller.table.endpoints().items())
            for key in self.held[number].keys() - now.keys():
                row = unpack_endpoint(self.held[number][key])
                agent = self.agents[row.agent]
                taken_back = row.version < agent.withdrawn.get(row.key, (-1, -1))
                assert agent.given_up or taken_back, f"{row} went for no reason"
            self.held[number] = now

    def teardown(self) -> None:
        for name in AGENTS:
            for number in (0, 1):
                self.agent_connects(name, number)
        for _ in range(4):
            for controller in self.controllers:
                self.publish(controller)
                for other in self.controllers:
                    while other.inbox:
                        other.table.absorb(other.inbox.popleft())
        truth = {key.encode(): pack(row) for agent in self.agents.values() for key, row in agent.rows.items()}
        for controller in self.controllers:
            assert dict(controller.table.endpoints().items()) == truth
            assert all(phase is Phase.LIVE for phase in controller.table.agents().values())
        assert dict(self.log.catalog.tables.endpoints.items()) == truth

    def hear(self, controller: Controller, other: Controller) -> None:
        for name in AGENTS:
            told = other.table.heard_here(name)
            if told is None:
                controller.table.unhear("other", name)
            else:
                controller.table.hear("other", name, told, SPEC)

    def tell(self, agent: Agent, said: Declaration) -> None:
        for controller in self.controllers:
            if agent.name in controller.streams:
                assert controller.table.declare(said, SPEC).refused == ()

    def disconnect(self, name: str, controller: Controller) -> None:
        controller.streams.discard(name)
        controller.table.agent_lost(name)

    def publish(self, controller: Controller) -> None:
        found = controller.table.difference(self.log.catalog.tables)
        assert found.refused == ()
        if found.put or found.remove:
            outcome = self.log.publish("alpha", *found.put, remove=found.remove)
            assert outcome.code == 0, outcome.message


LocalFirst.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestLocalFirst = LocalFirst.TestCase

"""Two controllers of a cluster, now and then behind the log: what an agent has is never removed from the catalog (F2)."""

import random

import msgspec
import pytest

from discovery.core.declarations import Declaration, Word
from discovery.core.local import LocalTable
from discovery.core.model import Change, Endpoint, pack, unpack_endpoint
from discovery.core.specs import ClusterSpec, Rehoming
from discovery.core.tables import EMPTY_TABLES, Tables
from tests.unit.discovery.builders import endpoint, put_cluster, resource
from tests.unit.discovery.test_local_table import SPEC

AGENT = "agent-1"
# What a controller behind the log does not know yet: that identities of beta.test are the cluster's, too.
MOVING = msgspec.structs.replace(
    SPEC,
    rehoming=Rehoming(
        state="moving", home="beta", trust_domain="beta.test", started_by="", changed_ms=0, within_ms=1_000
    ),
)
STEPS = ("put", "deliver", "hear", "publish", "absorb", "learn", "connect", "leave")
RUNS, STEPS_MAX = 400, 120


class Controller:
    """One of the two: its table, what it knows, and what is on its way to it."""

    def __init__(self, table: LocalTable) -> None:
        self.table = table
        self.spec: ClusterSpec = MOVING
        self.connected = False
        self.said: list[Declaration] = []
        self.log: list[tuple[Change, ...]] = []


class World:
    """An agent, its two controllers, and the catalog to which either publishes."""

    def __init__(self, seed: int, table: type[LocalTable]) -> None:
        self.random = random.Random(seed)
        self.controllers = [Controller(table("alpha")) for _ in range(2)]
        self.rows: dict[str, Endpoint] = {}
        self.sequence = 0
        self.catalog: Tables = EMPTY_TABLES

    def removes_what_the_agent_has(self) -> bool:
        """Run; True when a row was removed of which the agent had said nothing since."""
        return any(self.step(self.random.choice(STEPS)) for _ in range(STEPS_MAX))

    def step(self, what: str) -> bool:
        one, other = self.random.sample(self.controllers, 2)
        match what:
            case "put":
                self.put()
            case "deliver" if one.connected and one.said:
                one.table.declare(one.said.pop(0), one.spec)
            case "connect":
                one.connected, one.said = True, []
                one.table.hello(AGENT, 1)
                one.table.declare(self.message(put=tuple(self.rows.values()), complete=True), one.spec)
            case "leave" if one.connected:
                one.connected, one.said = False, []
                one.table.agent_lost(AGENT)
            case "hear":
                word = other.table.heard_here(AGENT)
                if word is None:
                    one.table.unhear("other", AGENT)
                else:
                    one.table.hear("other", AGENT, word, one.spec)
            case "learn":
                one.spec = MOVING if one.spec is SPEC else SPEC
            case "absorb" if one.log:
                one.table.absorb(one.log.pop(0))
            case "publish":
                return self.publish(one)
        return False

    def put(self) -> None:
        name, domain = self.random.choice("abc"), self.random.choice(("alpha", "beta"))
        identity = f"spiffe://{domain}.test/ns/shop/sa/orders"
        row = endpoint("alpha", name, version=(1, self.sequence + 1), agent=AGENT, identity=identity)
        self.rows[name] = row
        self.sequence += 1
        for controller in self.controllers:
            controller.said.append(self.message(put=(row,)))

    def message(self, **what: object) -> Declaration:
        return Declaration(agent=AGENT, incarnation=1, sequence=self.sequence, **what)  # type: ignore[arg-type]

    def publish(self, one: Controller) -> bool:
        cluster = resource(put_cluster("alpha"))
        row = msgspec.structs.replace(cluster, spec=msgspec.json.encode(one.spec))
        known = self.catalog.with_changes((Change("resources", row.key.encode(), pack(row)),), 1)
        news = one.table.difference(known)
        put = {row.key.encode(): row for row in news.put}
        changes: list[Change] = []
        for key, *version in news.remove:
            there = self.there(key.encode())
            if there is None or there.version > tuple(version) or key.encode() in put:
                continue
            if there == self.rows.get(key.name):
                return True
            changes.append(Change("endpoints", key.encode(), None))
        changes += [
            Change("endpoints", key, pack(row))
            for key, row in put.items()
            if (there := self.there(key)) is None or there.version < row.version
        ]
        self.catalog = self.catalog.with_changes(tuple(changes), 1)
        for controller in self.controllers if changes else ():
            controller.log.append(tuple(changes))
        return False

    def there(self, key: bytes) -> Endpoint | None:
        value = self.catalog.endpoints.get(key)
        return None if value is None else unpack_endpoint(value)


def test_what_an_agent_has_is_never_removed_from_the_catalog_whoever_refuses_it() -> None:
    assert [seed for seed in range(RUNS) if World(seed, LocalTable).removes_what_the_agent_has()] == []


class TellsWhatItTook(LocalTable):
    """Its word to other controllers leaves out what it refused."""

    def heard_here(self, agent: str) -> Word | None:
        word = super().heard_here(agent)
        return None if word is None else Word(word.position, word.rows)


class ForgetsRefusals(LocalTable):
    """What it refused is what the agent has not."""

    def declare(self, declaration, spec):  # type: ignore[no-untyped-def]
        done = super().declare(declaration, spec)
        self._agents[declaration.agent].refused = set()
        return done


@pytest.mark.parametrize("planted", [TellsWhatItTook, ForgetsRefusals])
def test_the_worlds_that_are_drawn_find_a_table_that_withdraws_what_was_refused(
    planted: type[LocalTable],
) -> None:
    assert any(World(seed, planted).removes_what_the_agent_has() for seed in range(RUNS))

"""Leases of agents on a clock of the test's own: silence removes nothing before its time."""

import pytest

from discovery.core.declarations import Declaration
from discovery.core.local import ENDPOINTS_PER_AGENT_MAX
from discovery.core.model import Change, Endpoint
from federation.api.heard import HEARD_ROWS_MAX, AgentHeard, Beat, decode_heard, encode_heard
from federation.api.registry import ClusterRegistry
from federation.kernel.errors import StaleRevisionError
from tests.unit.discovery.builders import Log, endpoint, founded

LEASE_MS = 10_000


class World:
    """A registry of alpha, its clock, and what it told."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or founded()
        self.now_s = 0.0
        self.told: list[Change] = []
        self.registry = ClusterRegistry(
            "alpha",
            catalog=self.log.catalog,
            lease_ms=LEASE_MS,
            clock=lambda: self.now_s,
            changed=lambda _cluster, changes: self.told.extend(changes),
        )

    def connect(
        self, *rows: Endpoint, agent: str = "agent-1", incarnation: int = 1, sequence: int = 1
    ) -> object:
        session = object()
        self.registry.open(agent, incarnation, session)
        self.say(session, *rows, agent=agent, incarnation=incarnation, sequence=sequence)
        return session

    def say(
        self,
        session: object,
        *rows: Endpoint,
        agent: str = "agent-1",
        incarnation: int = 1,
        sequence: int = 1,
    ):  # type: ignore[no-untyped-def]
        said = Declaration(agent=agent, incarnation=incarnation, sequence=sequence, put=rows, complete=True)
        return self.registry.declare(said, session)

    def names(self) -> set[str]:
        return {key.decode().rpartition("\0")[2] for key, _ in self.registry.rows()}

    def after(self, seconds: float, *, heard: str = "") -> None:
        """Let time pass, in which an agent speaks as often as one does: three times in a lease."""
        ends_s = self.now_s + seconds
        while heard and self.now_s + LEASE_MS / 3_000 < ends_s:
            self.now_s += LEASE_MS / 3_000
            self.registry.heard(heard)
            self.registry.sweep()
        self.now_s = ends_s
        self.registry.sweep()


ROW = endpoint(name="one")


def test_a_lost_agents_rows_stay_until_its_lease_ends() -> None:
    world = World()
    session = world.connect(ROW)
    world.after(100)  # Its stream lives: whoever reads it notices silence.
    world.registry.heard("agent-1")
    world.registry.close("agent-1", session)
    world.after(9.999)
    assert world.names() == {"one"}
    world.after(0.001)
    assert world.names() == set()
    assert world.told[-1].value is None
    assert world.registry.agents() == {"agent-1": "ended"}


def test_coming_back_in_time_renews_the_lease() -> None:
    world = World()
    world.registry.close("agent-1", world.connect(ROW))
    world.after(9)
    session = world.connect(ROW)
    world.after(9)
    world.registry.close("agent-1", session)
    world.after(0.5)
    assert world.names() == {"one"}


def test_a_restarted_agents_rows_stay_until_its_list_is_complete() -> None:
    world = World()
    world.registry.close("agent-1", world.connect(ROW, endpoint(name="two")))
    session = object()
    world.registry.open("agent-1", 2, session)
    assert world.names() == {"one", "two"}
    world.say(session, endpoint(name="two", version=(2, 1)), incarnation=2)
    assert world.names() == {"two"}


def test_a_stream_that_was_replaced_changes_nothing_any_more() -> None:
    world = World()
    old = world.connect(ROW)
    new = world.connect(ROW, incarnation=2)
    version = world.registry.version
    assert world.say(old, endpoint(name="late")).changes == ()
    assert world.registry.version == version
    world.registry.close("agent-1", old)  # Its end is not the agent's.
    world.after(100)
    assert world.registry.agents() == {"agent-1": "live"}
    world.registry.close("agent-1", new)
    assert world.registry.agents() == {"agent-1": "lost"}


def test_an_earlier_start_of_an_agent_is_not_let_in_again() -> None:
    world = World()
    world.connect(ROW, incarnation=5)
    with pytest.raises(StaleRevisionError, match="incarnation 4 is older than 5"):
        world.registry.open("agent-1", 4, object())


def test_what_the_catalog_holds_at_the_start_has_one_lease_to_come_back() -> None:
    log = founded()
    assert log.publish("alpha", ROW, endpoint(name="two", agent="agent-2")).code == 0
    world = World(log)
    assert world.names() == {"one", "two"}
    assert set(world.registry.agents().values()) == {"unheard"}
    world.after(5)
    assert world.names() == {"one", "two"}
    world.connect(ROW)  # The first one back: the lease of the others begins with the last common silence.
    world.after(9.999, heard="agent-1")
    assert world.names() == {"one", "two"}
    world.after(0.001)
    assert world.names() == {"one"}


def test_when_all_agents_fall_silent_at_once_nothing_is_withdrawn() -> None:
    world = World()
    one = world.connect(ROW)
    two = world.connect(endpoint(name="two", agent="agent-2"), agent="agent-2")

    world.registry.close("agent-1", one)
    world.registry.close("agent-2", two)
    world.after(1_000)

    assert world.names() == {"one", "two"}


def test_silence_that_is_noticed_later_for_one_agent_than_for_another_is_a_common_one_too() -> None:
    world = World()
    one = world.connect(ROW)
    world.after(LEASE_MS / 3_000)
    two = world.connect(endpoint(name="two", agent="agent-2"), agent="agent-2")

    # The link breaks: each stream ends when its reader has heard nothing for a lease.
    world.after(LEASE_MS * 2 / 3_000)
    world.registry.close("agent-1", one)
    world.after(1)
    assert world.registry.agents() == {"agent-1": "lost", "agent-2": "live"}
    world.after(LEASE_MS / 3_000)
    world.registry.close("agent-2", two)
    world.after(1_000)

    assert world.names() == {"one", "two"}


def test_after_a_common_silence_each_agent_has_a_whole_lease_to_return() -> None:
    world = World()
    one = world.connect(ROW)
    two = world.connect(endpoint(name="two", agent="agent-2"), agent="agent-2")
    world.registry.close("agent-1", one)
    world.registry.close("agent-2", two)
    world.after(1_000)

    world.connect(ROW, incarnation=1)
    world.after(LEASE_MS / 1000 - 1, heard="agent-1")
    assert world.names() == {"one", "two"}

    world.after(2, heard="agent-1")
    assert world.names() == {"one"}


def test_rows_of_other_clusters_are_not_taken_at_the_start() -> None:
    log = founded()
    assert log.publish("beta", endpoint("beta")).code == 0
    assert World(log).names() == set()


def test_rows_that_return_from_another_controller_get_a_whole_new_lease() -> None:
    world = World()
    world.registry.close("agent-1", world.connect(ROW))
    world.after(10)
    assert world.names() == set()
    world.now_s += 1_000
    later = endpoint(name="one", version=(9, 1))
    assert world.log.publish("alpha", later).code == 0
    world.registry.absorb(tuple(world.log.catalog.history(0)[-1][1]))
    assert world.names() == {"one"}
    world.after(0)
    world.after(9.999)
    assert world.names() == {"one"}
    world.after(0.001)
    assert world.names() == set()


def test_bad_rows_are_refused_one_by_one_and_every_declaration_counts_as_a_version() -> None:
    world = World()
    session = world.connect(ROW)
    version = world.registry.version
    declared = world.say(session, ROW, endpoint(name="bad", address="nowhere"))
    assert [key.name for key, _ in declared.refused] == ["bad"]
    assert world.names() == {"one"}
    assert world.registry.version == version + 1
    assert world.registry.dirty.is_set()


async def test_whoever_waits_for_a_version_hears_the_revision_that_holds_it() -> None:
    world = World()
    world.registry.published(3, 17)
    assert await world.registry.wait_published(3, "agent-1") == 17
    world.registry.published(2, 16)  # Late news change nothing.
    assert await world.registry.wait_published(2, "agent-1") == 17


class Listing:
    """A session that was asked for its list, how often."""

    def __init__(self) -> None:
        self.asked = 0

    def list_again(self) -> None:
        self.asked += 1


def many(count: int, **fields: object) -> list[Endpoint]:
    return [endpoint(name=f"e{number}", **fields) for number in range(count)]  # type: ignore[arg-type]


def test_an_agent_whose_list_is_doubted_is_asked_once_more_after_a_lease_and_then_believed() -> None:
    world = World()
    world.connect(*many(20))
    session = Listing()
    world.registry.open("agent-1", 2, session)
    world.say(session, incarnation=2)  # type: ignore[arg-type]
    assert (len(world.names()), world.registry.withheld()) == (20, {"agent-1": 20})
    world.after(1)
    world.after(LEASE_MS / 1000 - 0.001, heard="agent-1")
    assert session.asked == 0
    world.after(0.001)
    world.after(100, heard="agent-1")
    assert (session.asked, len(world.names())) == (1, 20)
    world.registry.open("agent-1", 2, session)
    world.say(session, incarnation=2, sequence=2)
    assert (world.names(), world.registry.withheld()) == (set(), {})


def test_an_operators_word_ends_the_doubt() -> None:
    world = World()
    world.connect(*many(20))
    session = object()
    world.registry.open("agent-1", 2, session)
    world.say(session, incarnation=2)
    version = world.registry.version
    assert world.registry.confirm("agent-1") == 20
    assert world.names() == set()
    assert world.registry.version == version + 1
    assert [change.value for change in world.told[-20:]] == [None] * 20


def test_leases_that_would_take_most_of_a_cluster_within_one_lease_are_extended_once() -> None:
    world = World()
    sessions = {
        f"agent-{number}": world.connect(
            *(endpoint(name=f"e{number}-{row}", agent=f"agent-{number}") for row in range(5)),
            agent=f"agent-{number}",
        )
        for number in range(5)
    }
    for agent in ("agent-1", "agent-2", "agent-3", "agent-4"):
        world.registry.close(agent, sessions[agent])
    world.after(LEASE_MS / 1000, heard="agent-0")
    assert len(world.names()) == 25
    world.after(LEASE_MS / 1000 - 0.001, heard="agent-0")
    assert len(world.names()) == 25
    world.connect(*(endpoint(name=f"e1-{row}", agent="agent-1") for row in range(5)), agent="agent-1")
    world.after(1, heard="agent-0")
    assert {name[:2] for name in world.names()} == {"e0", "e1"}  # One came back in time.


def test_leases_that_take_less_than_half_of_a_cluster_end_in_time() -> None:
    world = World()
    world.connect(*many(30))
    other = world.connect(
        *(endpoint(name=f"o{number}", agent="agent-2") for number in range(12)), agent="agent-2"
    )
    world.registry.close("agent-2", other)
    world.after(LEASE_MS / 1000, heard="agent-1")
    assert len(world.names()) == 30


def heard(*rows: Endpoint, agent: str = "agent-1", sequence: int = 1) -> AgentHeard:
    return AgentHeard(agent=agent, live=True, incarnation=1, sequence=sequence, rows=rows)


def test_an_agent_that_another_controller_hears_is_not_given_up() -> None:
    world = World()
    two = endpoint(name="two", agent="agent-2")
    world.registry.close("agent-1", world.connect(ROW))
    world.connect(two, agent="agent-2")
    world.registry.hear("alpha-m1", heard(ROW))
    world.after(100, heard="agent-2")
    assert world.names() == {"one", "two"}

    world.registry.hear("alpha-m1", AgentHeard(agent="agent-1"))
    world.after(LEASE_MS / 1000 - 0.1, heard="agent-2")
    assert world.names() == {"one", "two"}
    world.after(4, heard="agent-2")
    assert world.names() == {"two"}


def test_when_the_other_controller_is_lost_its_agents_have_one_lease() -> None:
    world = World()
    world.connect(endpoint(name="two", agent="agent-2"), agent="agent-2")
    world.registry.hear("alpha-m1", heard(ROW))
    world.after(100, heard="agent-2")
    world.registry.forget("alpha-m1")
    world.after(LEASE_MS / 1000 - 0.1, heard="agent-2")
    assert world.names() == {"one", "two"}
    world.after(4, heard="agent-2")
    assert world.names() == {"two"}


def test_one_agent_alone_is_not_given_up_by_a_controller_that_hears_no_other_one_either() -> None:
    world = World()
    world.registry.fellows.known = frozenset({"alpha-m1"})
    world.registry.close("agent-1", world.connect(ROW))
    world.after(1_000)
    assert world.names() == {"one"}

    world.registry.fellows.heard("alpha-m1")
    world.after(0)
    world.after(LEASE_MS / 1000)
    assert world.names() == set()


def test_a_row_that_comes_back_by_the_catalog_is_not_given_up_again_while_its_hearer_is_missing() -> None:
    world = World()
    world.connect(endpoint(name="two", agent="agent-2"), agent="agent-2")
    world.registry.fellows.known = frozenset({"alpha-m1"})
    world.registry.close("agent-1", world.connect(ROW))
    world.after(2 * LEASE_MS / 1000, heard="agent-2")
    assert world.names() == {"two"}
    assert world.log.publish("alpha", ROW).code == 0
    world.registry.absorb((Change("endpoints", ROW.key.encode(), None),))

    world.registry.absorb(tuple(world.log.catalog.history(0)[-1][1]))
    world.after(100, heard="agent-2")
    assert world.names() == {"one", "two"}

    world.registry.fellows.heard("alpha-m1")  # It is here again, and says nothing of agent-1.
    world.after(2 * LEASE_MS / 1000, heard="agent-2")
    assert world.names() == {"two"}


async def test_other_controllers_are_told_the_newest_of_each_agent_that_is_live_here() -> None:
    world = World()
    session = world.connect(ROW)
    answers = world.registry.heard_here.subscribe()
    assert await anext(answers) == heard(ROW)
    assert await anext(answers) == Beat()

    later = endpoint(name="one", version=(1, 3), ready=False)
    world.say(session, later, sequence=2)
    world.say(session, later, sequence=3)
    world.registry.hear("alpha-m1", heard(endpoint(name="two", agent="agent-2"), agent="agent-2"))
    assert await anext(answers) == heard(later, sequence=3)
    assert await anext(answers) == Beat()

    world.registry.close("agent-1", session)
    assert await anext(answers) == AgentHeard(agent="agent-1")
    await answers.aclose()


async def test_other_controllers_are_told_what_was_refused_here_and_leave_it() -> None:
    world, other = World(), World()
    other.connect(ROW, endpoint(name="two"))
    world.connect(endpoint(name="one", address="127.0.0.1"), endpoint(name="two"), sequence=2)
    answers = world.registry.heard_here.subscribe()
    told = decode_heard(encode_heard(await anext(answers)))
    assert isinstance(told, AgentHeard)
    other.registry.hear("alpha-m1", told)
    assert other.names() == {"one", "two"}
    await answers.aclose()


def test_an_agent_that_told_another_controller_too_much_is_heard_and_keeps_nobody_else_from_being_heard() -> (
    None
):
    world = World()
    here = ENDPOINTS_PER_AGENT_MAX - HEARD_ROWS_MAX + 1
    session = world.connect(*(endpoint(name=f"here-{number}") for number in range(here)))
    world.connect(endpoint(name="other", agent="agent-2"), agent="agent-2")
    told = [endpoint(name=f"there-{number}", version=(1, 2)) for number in range(HEARD_ROWS_MAX)]
    world.registry.hear("alpha-m1", heard(*told, sequence=2))
    assert len(world.names()) == here + 1
    world.registry.close("agent-1", session)
    world.after(100, heard="agent-2")
    assert len(world.names()) == here + 1  # It lives, by the other controller's word.
    world.registry.hear("alpha-m1", AgentHeard(agent="agent-1"))
    world.after(100, heard="agent-2")
    assert world.names() == {"other"}


class Guest:
    """A session of a proven identity."""

    def __init__(self, trust_domain: str) -> None:
        self.trust_domain = trust_domain
        self.dismissed = 0

    def dismiss(self) -> None:
        self.dismissed += 1


def test_a_cluster_that_is_served_no_longer_sends_its_agents_away() -> None:
    world = World()
    changed, late = Guest("beta.test"), Guest("alpha.test")
    world.registry.open("agent-1", 1, changed)
    world.registry.open("agent-2", 1, late)
    assert world.registry.connected_otherwise("beta.test") == ["agent-2"]
    world.registry.retire()
    assert world.registry.retired
    assert (changed.dismissed, late.dismissed) == (1, 1)


def test_who_is_told_again_is_told_in_the_same_order_in_every_process() -> None:
    told: list[str] = []

    class Session:
        def __init__(self, agent: str) -> None:
            self._agent = agent

        def acknowledge_again(self) -> None:
            told.append(self._agent)

    world = World()
    names = [f"a{number:02}" for number in range(20)]
    for name in names:
        session = Session(name)
        world.registry.open(name, 1, session)
        row = endpoint(name=name, agent=name)
        said = Declaration(agent=name, incarnation=1, sequence=1, put=(row,), complete=True)
        assert world.registry.declare(said, session).refused == ()
    refused = [(endpoint(name=name).key, "no") for name in names]
    world.registry.published(1, 7, refused)
    assert told == names

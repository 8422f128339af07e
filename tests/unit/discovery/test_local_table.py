"""What agents declare is believed as a whole and removed only for a reason (F2); newest wins."""

import pytest

from discovery.core.declarations import Declaration, Declared, Difference
from discovery.core.local import PUBLISH_ROWS_MAX, LocalTable, Phase
from discovery.core.model import Change, Endpoint, pack, unpack_endpoint
from discovery.core.specs import ClusterSpec
from discovery.core.tables import EMPTY_TABLES, Tables
from federation.kernel.errors import LimitExceededError, PreconditionError, StaleRevisionError
from federation.kernel.limits import COMMAND_BYTES_MAX
from tests.unit.discovery.builders import endpoint, founded, put_cluster

SPEC = ClusterSpec(role="primary", trust_domain="alpha.test")


def row(
    name: str = "e1", version: tuple[int, int] = (1, 1), agent: str = "agent-1", **rest: object
) -> Endpoint:
    return endpoint("alpha", name, version=version, agent=agent, **rest)


def declare(
    table: LocalTable, *rows: Endpoint, agent: str = "agent-1", at: tuple[int, int] = (1, 9), **rest: object
) -> Declared:
    said = Declaration(agent=agent, incarnation=at[0], sequence=at[1], put=rows, **rest)  # type: ignore[arg-type]
    return table.declare(said, SPEC)


def listed(
    table: LocalTable, *rows: Endpoint, agent: str = "agent-1", at: tuple[int, int] = (1, 9)
) -> Declared:
    table.hello(agent, at[0])
    return declare(table, *rows, agent=agent, at=at, complete=True)


def with_list(*rows: Endpoint, **rest: object) -> LocalTable:
    table = LocalTable("alpha")
    listed(table, *rows, **rest)  # type: ignore[arg-type]
    return table


def names(table: LocalTable) -> list[str]:
    return [unpack_endpoint(value).key.name for _, value in table.endpoints().items()]


def in_catalog(*rows: Endpoint) -> tuple[Change, ...]:
    return tuple(Change("endpoints", r.key.encode(), pack(r)) for r in rows)


def gone(*rows: Endpoint) -> tuple[Change, ...]:
    return tuple(Change("endpoints", r.key.encode(), None) for r in rows)


def test_a_list_counts_as_a_whole_when_it_is_complete():
    table = LocalTable("alpha")
    table.hello("agent-1", 1)
    assert declare(table, row("a")).changes == ()
    assert names(table) == []
    done = declare(table, row("b"), complete=True)
    assert [unpack_endpoint(change.value or b"").key.name for change in done.changes] == ["a", "b"]
    assert names(table) == ["a", "b"]
    assert declare(table, row("c")).changes == in_catalog(row("c"))


def test_an_agent_that_starts_again_keeps_its_rows_until_its_new_list_is_complete():
    table = with_list(row("a"), row("b"))
    table.agent_lost("agent-1")
    table.hello("agent-1", 2)
    declare(table, row("b", (2, 1), ready=False), at=(2, 1))
    assert names(table) == ["a", "b"]
    assert all(unpack_endpoint(value).ready for _, value in table.endpoints().items())
    declare(table, at=(2, 1), complete=True)
    assert names(table) == ["b"]


def test_a_list_that_was_not_completed_is_forgotten():
    table = with_list(row("a"))
    table.hello("agent-1", 2)
    declare(table, row("b", (2, 1)), at=(2, 1))
    table.agent_lost("agent-1")
    assert names(table) == ["a"]
    with pytest.raises(PreconditionError, match="agent agent-1 declares endpoints before it said hello"):
        declare(table, at=(2, 1), complete=True)
    listed(table, row("c", (2, 1)), at=(2, 2))
    assert names(table) == ["c"]


def test_a_complete_empty_list_is_a_withdrawal():
    table = with_list(row("a"))
    assert listed(table, at=(2, 0)).changes == gone(row("a"))


def test_what_silence_ended_and_its_agent_has_no_more_does_not_come_back_as_an_echo():
    table = with_list(row("a"))
    table.absorb(in_catalog(row("a")))
    table.agent_lost("agent-1")
    table.expire("agent-1")
    table.absorb(gone(row("a")))
    listed(table, row("b", version=(2, 1)), at=(2, 1))
    assert table.absorb(in_catalog(row("a"))) == ()  # An old batch, which its sender repeats.
    assert names(table) == ["b"]
    tables = founded().catalog.tables.with_changes(in_catalog(row("a")), 9)
    assert table.difference(tables).remove == ((row("a").key, 1, 1),)


def test_silence_removes_nothing_until_the_lease_has_ended():
    table = with_list(row("a"))
    table.agent_lost("agent-1")
    assert (names(table), table.agents()) == (["a"], {"agent-1": Phase.LOST})
    assert table.expire("agent-1") == gone(row("a"))
    assert (names(table), table.agents()) == ([], {"agent-1": Phase.ENDED})
    assert table.expire("agent-1") == ()


def test_a_live_agent_does_not_expire():
    table = with_list(row("a"))
    assert table.expire("agent-1") == ()
    assert table.expire("never-heard-of") == ()
    assert names(table) == ["a"]


def test_an_expired_agent_returns_with_the_same_rows():
    table = with_list(row("a"))
    table.agent_lost("agent-1")
    table.expire("agent-1")
    assert listed(table, row("a")).changes == in_catalog(row("a"))


@pytest.mark.parametrize(
    ("version", "taken"),
    [((1, 6), True), ((1, 5), False), ((1, 4), False)],
)
def test_the_newest_version_of_a_row_wins(version, taken):
    table = with_list(row("a", (1, 5)))
    declare(table, row("a", version, ready=False))
    (value,) = (unpack_endpoint(value) for _, value in table.endpoints().items())
    assert value.ready != taken


def test_a_row_is_withdrawn_by_its_agent():
    table = with_list(row("a"), row("b"))
    done = declare(table, at=(1, 10), remove=(row("a").key,))
    assert done.changes == gone(row("a"))
    assert declare(table, at=(1, 11), remove=(row("a").key,)).changes == ()


def test_withdrawing_within_a_list_takes_the_row_out_of_it():
    table = LocalTable("alpha")
    table.hello("agent-1", 1)
    declare(table, row("a"), row("b"))
    declare(table, remove=(row("a").key,), complete=True)
    assert names(table) == ["b"]


def test_an_earlier_start_of_an_agent_is_not_heard():
    table = with_list(row("a", (5, 1)), at=(5, 1))
    for call in (lambda: table.hello("agent-1", 4), lambda: declare(table, at=(4, 9))):
        with pytest.raises(
            StaleRevisionError, match="agent agent-1 has started again: incarnation 4 is older than 5"
        ):
            call()
    table.hello("agent-1", 5)


def test_rows_that_came_another_way_tell_of_a_later_start_too():
    table = LocalTable("alpha")
    table.seed([row("a", (5, 1))])
    with pytest.raises(StaleRevisionError):
        table.hello("agent-1", 4)


def test_a_row_of_another_live_agent_is_refused_and_the_others_count():
    table = with_list(row("a"))
    done = listed(table, row("a", (7, 1), "agent-2"), row("b", (7, 1), "agent-2"), agent="agent-2", at=(7, 1))
    assert done.refused == ((row("a").key, "endpoint a belongs to agent agent-1, which is live"),)
    assert names(table) == ["a", "b"]
    later = declare(table, row("a", (7, 2), "agent-2"), agent="agent-2", at=(7, 2))
    assert later.changes == ()
    assert len(later.refused) == 1


def test_a_row_that_another_agent_took_while_a_list_was_incomplete_is_refused_at_its_end():
    table = LocalTable("alpha")
    table.hello("agent-1", 1)
    declare(table, row("a"))
    listed(table, row("a", (2, 1), "agent-2"), agent="agent-2", at=(2, 1))
    done = declare(table, complete=True)
    assert done.changes == ()
    assert len(done.refused) == 1


def test_a_row_of_a_silent_agent_may_be_taken_over_whatever_its_version():
    table = with_list(row("a", (9, 9)), at=(9, 9))
    table.agent_lost("agent-1")
    done = listed(table, row("a", (2, 1), "agent-2"), agent="agent-2", at=(2, 1))
    assert done.changes == in_catalog(row("a", (2, 1), "agent-2"))
    assert table.expire("agent-1") == ()
    assert names(table) == ["a"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(row("x", address="127.0.0.1"), "belongs to no network of a cluster", id="address"),
        pytest.param(endpoint("beta", "x"), "cluster is 'beta', expected 'alpha'", id="another-cluster"),
        pytest.param(
            row("x", agent="agent-2"),
            "is of agent 'agent-2' at (1, 1), expected 'agent-1'",
            id="another-agent",
        ),
        pytest.param(row("x", (2, 0)), "is of agent 'agent-1' at (2, 0)", id="another-incarnation"),
        pytest.param(
            row("x", (1, 10)), "at (1, 10), expected 'agent-1' at most at (1, 9)", id="from-the-future"
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_reason_and_the_others_count(bad, reason):
    table = LocalTable("alpha")
    done = listed(table, bad, row("good"))
    ((key, said),) = done.refused
    assert key == bad.key
    assert reason in said
    assert names(table) == ["good"]


def test_lists_are_bounded(monkeypatch):
    monkeypatch.setattr("discovery.core.local.ENDPOINTS_PER_AGENT_MAX", 2)
    monkeypatch.setattr("discovery.core.local.ENDPOINTS_PER_CLUSTER_MAX", 3)
    table = with_list(row("a"), row("b"))
    with pytest.raises(LimitExceededError, match="3 endpoints of one agent, at most 2 are allowed"):
        declare(table, row("c"))
    table.hello("agent-2", 1)
    with pytest.raises(LimitExceededError, match="cluster alpha: 4 endpoints, at most 3 are allowed"):
        declare(table, row("c", agent="agent-2"), row("d", agent="agent-2"), agent="agent-2")
    assert names(table) == ["a", "b"]


def test_the_number_of_agents_is_bounded_and_those_without_rows_make_room(monkeypatch):
    monkeypatch.setattr("discovery.core.local.AGENTS_MAX", 2)
    table = with_list(row("a"))
    table.hello("agent-2", 1)
    with pytest.raises(LimitExceededError, match="cluster alpha has 2 agents, no more are allowed"):
        table.hello("agent-3", 1)
    table.agent_lost("agent-2")
    table.hello("agent-3", 1)
    assert set(table.agents()) == {"agent-1", "agent-3"}


# With the catalog.


def test_a_controller_that_starts_begins_from_the_catalogs_rows_of_its_cluster():
    table = LocalTable("alpha")
    assert table.seed([row("a"), endpoint("beta", "x")]) == in_catalog(row("a"))
    assert table.agents() == {"agent-1": Phase.UNHEARD}
    assert table.expire("agent-1") == gone(row("a"))


def test_an_unheard_agents_list_replaces_what_the_catalog_had_of_it():
    table = LocalTable("alpha")
    table.seed([row("a"), row("b"), row("c", agent="agent-2")])
    done = listed(table, row("b", (2, 1)), at=(2, 1))
    assert set(done.changes) == {*gone(row("a")), *in_catalog(row("b", (2, 1)))}
    assert names(table) == ["b", "c"]


def test_a_list_does_not_remove_rows_newer_than_itself():
    table = LocalTable("alpha")
    table.seed([row("newer", (3, 5)), row("older", (3, 3))])
    listed(table, at=(3, 4))
    assert names(table) == ["newer"]


def test_newer_rows_of_the_catalog_are_taken_and_older_ones_are_not():
    table = with_list(row("a", (1, 5)))
    assert table.absorb(in_catalog(row("a", (1, 4), ready=False))) == ()
    newer = in_catalog(row("a", (1, 10), ready=False))
    assert table.absorb(newer) == newer
    assert table.absorb(in_catalog(endpoint("beta", "x"))) == ()


def test_a_row_that_the_catalog_lost_stays_while_its_agent_is_live_and_goes_when_it_is_not():
    table = with_list(row("a"))
    assert table.absorb(in_catalog(row("a"))) == ()
    assert table.difference(joined_tables(row("a"))) == Difference()
    assert table.absorb(gone(row("a"))) == ()
    assert [r.key.name for r in table.difference(joined_tables()).put] == ["a"]
    table.absorb(in_catalog(row("a")))
    table.agent_lost("agent-1")
    assert table.absorb(gone(row("a"))) == gone(row("a"))


def test_the_end_of_an_older_row_is_not_the_end_of_a_newer_one():
    table = with_list(row("a", (1, 1)), at=(1, 1))
    table.absorb(in_catalog(row("a", (1, 1))))
    declare(table, at=(1, 2), remove=(row("a").key,))
    declare(table, row("a", (1, 3)), at=(1, 3))
    table.agent_lost("agent-1")
    assert table.absorb(gone(row("a"))) == ()
    assert table.difference(joined_tables()).put == (row("a", (1, 3)),)


def test_an_echo_of_a_withdrawn_row_is_not_taken_but_removed():
    table = with_list(row("a"))
    declare(table, at=(1, 10), remove=(row("a").key,))
    assert table.absorb(in_catalog(row("a"))) == ()
    assert table.difference(joined_tables(row("a"))).remove == ((row("a").key, 1, 1),)


def test_what_a_controller_began_with_leaves_the_catalog_when_its_lease_has_ended():
    table = LocalTable("alpha")
    table.seed([row("a")])
    table.expire("agent-1")
    assert table.absorb(in_catalog(row("a"))) == ()
    assert table.difference(joined_tables(row("a"))).remove == ((row("a").key, 1, 1),)


def test_an_echo_of_an_expired_agents_row_is_not_taken_but_a_newer_one_is():
    table = with_list(row("a"), at=(1, 1))
    table.agent_lost("agent-1")
    table.expire("agent-1")
    assert table.absorb(in_catalog(row("a"))) == ()
    newer = in_catalog(row("a", (2, 1)))
    assert table.absorb(newer) == newer
    assert table.agents() == {"agent-1": Phase.UNHEARD}


def test_a_difference_is_nothing_once_the_catalog_has_it():
    table = with_list(row("a"), row("b"))
    first = table.difference(joined_tables())
    assert [r.key.name for r in first.put] == ["a", "b"]
    assert table.difference(joined_tables()) == first
    tables = joined_tables(row("a"), row("b"))
    table.absorb(in_catalog(row("a"), row("b")))
    assert table.difference(tables) == Difference()
    assert not table._unpublished


def test_before_its_cluster_has_joined_nothing_is_published():
    found = with_list(row("a")).difference(EMPTY_TABLES)
    assert found == Difference(refused=((row("a").key, "cluster alpha has not joined"),))


def test_a_difference_leaves_alone_what_it_has_not_absorbed_yet():
    table = with_list(row("a", (1, 5)))
    found = table.difference(joined_tables(row("a", (1, 12)), row("b", (3, 1), "agent-9")))
    assert found == Difference()


def joined_tables(*rows: Endpoint) -> Tables:
    return founded().catalog.tables.with_changes(in_catalog(*rows), 9)


def test_a_row_that_another_agent_took_elsewhere_is_not_removed_with_ours():
    table = with_list(row("a"))
    declare(table, at=(1, 10), remove=(row("a").key,))
    theirs = row("a", (3, 1), "agent-9")
    assert table.difference(joined_tables(theirs)) == Difference()
    assert table.absorb(in_catalog(theirs)) == in_catalog(theirs)


def test_a_row_taken_over_from_a_newer_incarnation_is_removed_and_set_in_one_batch():
    old, new = row("a", (9, 9)), row("a", (2, 1), "agent-2")
    table = LocalTable("alpha")
    table.seed([old])
    listed(table, new, agent="agent-2", at=(2, 1))
    found = table.difference(joined_tables(old))
    assert (found.put, found.remove) == ((new,), ((old.key, 9, 9),))


def test_batches_are_bounded_and_reach_the_end():
    rows = [
        row(f"e-{number:04}", labels=tuple((f"l{n}", "x" * 50) for n in range(4))) for number in range(700)
    ]
    table = with_list(*rows)
    log = founded()
    log.catalog.on_change(lambda _, changes: table.absorb(changes))
    batches = 0
    while (found := table.difference(log.catalog.tables)).put:
        assert len(found.put) <= PUBLISH_ROWS_MAX
        assert log.publish("alpha", *found.put, remove=found.remove).code == 0
        assert len(log.entries[-1][1]) <= COMMAND_BYTES_MAX
        batches += 1
    assert dict(log.catalog.tables.endpoints.items()) == dict(table.endpoints().items())
    assert batches >= 3


def test_rows_that_the_catalog_would_refuse_do_not_hold_up_the_others():
    log = founded()
    table = with_list(row("a"), row("b", address="192.0.2.1"))
    log.accept("alpha", put_cluster("alpha", ranges=["10.0.0.0/8"]))
    found = table.difference(log.catalog.tables)
    assert [r.key.name for r in found.put] == ["a"]
    assert [(key.name, reason.rpartition(": ")[2]) for key, reason in found.refused] == [
        ("b", "address 192.0.2.1 is outside the cluster's ranges 10.0.0.0/8")
    ]

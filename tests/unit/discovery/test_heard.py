"""What another controller of the cluster heard counts as if it had been said here; the newest list wins."""

import pytest

from discovery.core.declarations import Word
from discovery.core.local import LocalTable, Phase
from discovery.core.model import Change, Endpoint
from tests.unit.discovery.builders import founded
from tests.unit.discovery.test_local_table import SPEC, in_catalog, listed, names, row, with_list

OTHER = "alpha-m1"


def hear(
    table: LocalTable, *rows: Endpoint, agent: str = "agent-1", at: tuple[int, int] = (1, 9)
) -> tuple[Change, ...]:
    return table.hear(OTHER, agent, Word(at, rows), SPEC)


def test_an_agent_that_only_another_controller_hears_has_its_rows_here() -> None:
    table = LocalTable("alpha")
    assert len(hear(table, row("a"), row("b"))) == 2
    assert names(table) == ["a", "b"]
    assert table.is_heard("agent-1")
    assert table.heard_here("agent-1") is None  # Told to nobody else: it was not heard here.
    assert table.expire("agent-1") == ()


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param((1, 10), ["b"], id="a later position of the same start"),
        pytest.param((2, 0), ["b"], id="a later start"),
        pytest.param((1, 9), ["a", "b"], id="the same position takes nothing away"),
        pytest.param((1, 8), ["a"], id="an earlier position changes nothing"),
        pytest.param((0, 99), ["a"], id="an earlier start changes nothing"),
    ],
)
def test_the_newest_list_of_an_agent_wins(at: tuple[int, int], expected: list[str]) -> None:
    table = with_list(row("a"), at=(1, 9))
    hear(table, row("b", version=(at[0], 0)), at=at)
    assert names(table) == expected


def test_silence_at_the_other_controller_begins_the_lease_here() -> None:
    table = LocalTable("alpha")
    hear(table, row("a"))
    table.unhear(OTHER, "agent-1")
    assert names(table) == ["a"]
    assert [change.value for change in table.expire("agent-1")] == [None]


def test_what_the_other_controller_heard_is_unknown_once_it_is_not_heard_itself() -> None:
    table = with_list(row("a"))
    table.agent_lost("agent-1")
    hear(table, row("a"))
    assert table.expire("agent-1") == ()
    table.forget(OTHER)
    assert len(table.expire("agent-1")) == 1


def test_rows_that_the_cluster_may_not_have_and_rows_of_other_live_agents_are_left_out() -> None:
    table = with_list(row("taken", agent="agent-2"), agent="agent-2")
    hear(
        table,
        row("good"),
        row("bad", address="nowhere"),
        row("taken"),
        row("forged", agent="agent-3"),
        row("future", version=(1, 10)),
    )
    assert names(table) == ["good", "taken"]


def test_a_row_that_silence_ended_here_is_believed_again_when_another_controller_publishes_it() -> None:
    log = founded()
    table = with_list(row("a"))
    assert log.publish("alpha", row("a")).code == 0
    table.absorb(in_catalog(row("a")))
    table.agent_lost("agent-1")
    table.expire("agent-1")
    gone = table.difference(log.catalog.tables)
    assert len(gone.remove) == 1
    # An echo of before the removal is none.
    table.absorb(in_catalog(row("a")))
    assert names(table) == []
    assert log.publish("alpha", remove=gone.remove).code == 0
    table.absorb((Change("endpoints", row("a").key.encode(), None),))

    assert log.publish("alpha", row("a")).code == 0
    table.absorb(in_catalog(row("a")))

    assert names(table) == ["a"]
    assert table.agents() == {"agent-1": Phase.UNHEARD}
    assert table.difference(log.catalog.tables).remove == ()


def test_a_removal_that_another_controller_published_is_followed_and_its_end_too() -> None:
    table = with_list(row("a"))
    table.absorb(in_catalog(row("a")))
    table.agent_lost("agent-1")
    table.absorb((Change("endpoints", row("a").key.encode(), None),))
    assert names(table) == []
    table.absorb(in_catalog(row("a")))
    assert names(table) == ["a"]


def test_what_an_agent_withdrew_is_not_believed_again() -> None:
    table = with_list(row("a"))
    table.absorb(in_catalog(row("a")))
    listed(table, at=(1, 10))
    table.absorb(in_catalog(row("a")))
    assert names(table) == []


def test_an_agent_that_has_spoken_since_is_believed_more_than_what_silence_left_open() -> None:
    table = with_list(row("a"), row("b"))
    table.absorb(in_catalog(row("a"), row("b")))
    table.agent_lost("agent-1")
    table.expire("agent-1")
    table.absorb(tuple(Change("endpoints", row(name).key.encode(), None) for name in "ab"))
    listed(table, row("b"), at=(1, 10))  # It is back, and has withdrawn one of them.

    table.absorb(in_catalog(row("a")))
    table.agent_lost("agent-1")
    table.absorb(in_catalog(row("a")))

    assert names(table) == ["b"]
    tables = founded().catalog.tables
    late = tables.with_changes(in_catalog(row("a")), tables.revision + 1)
    assert [key.name for key, *_ in table.difference(late).remove] == ["a"]

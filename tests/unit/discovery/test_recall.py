"""What a journal held beyond the catalog is believed after a start until its agent speaks or its lease ends (F2)."""

import pytest

from discovery.core.declarations import Withdrawn
from discovery.core.local import LocalTable, Phase
from discovery.core.model import Endpoint, pack, unpack_endpoint
from discovery.core.tables import Tables
from tests.unit.discovery.builders import founded
from tests.unit.discovery.test_local_table import SPEC, gone, in_catalog, listed, names, row, with_list


def catalog(*rows: Endpoint) -> Tables:
    log = founded()
    if rows:
        assert log.publish("alpha", *rows).code == 0
    return log.catalog.tables


def journal_of(table: LocalTable, tables: Tables) -> list[bytes | Withdrawn]:
    """What is to be held of a table whose controller ends now."""
    keys = {**dict(table.endpoints().items()), **dict(tables.endpoints.items())}
    entries = (table.unsettled(key, tables.endpoints.get(key)) for key in keys)
    return [entry for entry in entries if entry is not None]


def started(
    tables: Tables, *, rows: tuple[Endpoint, ...] = (), withdrawn: tuple[Withdrawn, ...] = ()
) -> LocalTable:
    """A table that begins with a catalog and a journal."""
    table = LocalTable("alpha")
    table.seed(unpack_endpoint(value) for _, value in tables.endpoints.items())
    table.recall(rows, withdrawn, SPEC)
    return table


def over(one: Endpoint, until: tuple[int, int] = (1, 9)) -> Withdrawn:
    return Withdrawn(key=one.key, agent=one.agent, until=until)


def test_only_what_the_catalog_does_not_say_is_held():
    table = with_list(row("same"), row("new"), row("changed", version=(1, 2)))
    tables = catalog(row("same"), row("changed"), row("left"))
    expected = [pack(row("new")), pack(row("changed", version=(1, 2))), over(row("left"))]
    table.absorb(in_catalog(row("left")))
    assert sorted(journal_of(table, tables), key=repr) == sorted(expected, key=repr)


def test_what_silence_ended_is_not_held():
    table = with_list(row("a"))
    table.agent_lost("agent-1")
    table.expire("agent-1")
    assert journal_of(table, catalog(row("a"))) == []


def test_what_was_recalled_is_served_and_published_once_its_agent_is_heard():
    table = started(catalog(), rows=(row("a"),))
    assert names(table) == ["a"]
    assert table.agents() == {"agent-1": Phase.UNHEARD}
    assert table.difference(catalog()).put == ()
    listed(table, row("a"))
    assert table.difference(catalog()).put == (row("a"),)


def test_what_was_recalled_goes_with_the_lease_of_its_agent():
    table = started(catalog(), rows=(row("a"),))
    assert [change.value for change in table.expire("agent-1")] == [None]
    assert journal_of(table, catalog()) == []


def test_what_was_recalled_goes_with_its_agents_list():
    table = started(catalog(), rows=(row("a"), row("b")))
    listed(table, row("b", version=(2, 1)), at=(2, 1))
    assert names(table) == ["b"]


def test_a_change_of_what_the_catalog_has_is_published_at_once():
    newer = row("a", version=(1, 2), ready=False)
    table = started(catalog(row("a")), rows=(newer,))
    assert table.difference(catalog(row("a"))).put == (newer,)


@pytest.mark.parametrize(
    ("version", "there"),
    [
        pytest.param((1, 9), [], id="what the agent took back"),
        pytest.param((1, 10), ["a"], id="what it said again"),
        pytest.param((2, 0), ["a"], id="what a later start of it said"),
    ],
)
def test_a_withdrawal_holds_for_what_came_before_it(version, there):
    theirs = catalog(row("a", version=version))
    table = started(theirs, withdrawn=(over(row("a")),))
    assert names(table) == there
    assert bool(table.difference(theirs).remove) is not bool(there)
    table.absorb(in_catalog(row("a", version=version)))  # It comes again with a new list.
    assert names(table) == there


def test_a_withdrawal_that_came_before_the_catalogs_row_did_is_not_forgotten():
    table = started(catalog(), withdrawn=(over(row("a")),))
    table.absorb(in_catalog(row("a")))  # The log was still being replayed.
    assert names(table) == []
    assert journal_of(table, catalog(row("a"))) == [over(row("a"))]


def test_what_was_recalled_is_held_again_until_it_is_settled():
    tables = catalog(row("left"))
    table = started(tables, rows=(row("new"),), withdrawn=(over(row("left")),))
    assert sorted(journal_of(table, tables), key=repr) == sorted(
        [pack(row("new")), over(row("left"))], key=repr
    )
    table.absorb((*in_catalog(row("new")), *gone(row("left"))))
    assert journal_of(table, catalog(row("new"))) == []


def test_rows_that_the_cluster_may_have_no_longer_are_not_recalled():
    table = started(catalog(), rows=(row("bad", address="nowhere"), row("good")))
    assert names(table) == ["good"]

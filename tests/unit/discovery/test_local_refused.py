"""What a controller refuses of an agent's rows it does not withdraw: another controller may know the rules better (F2)."""

import pytest

from discovery.core.declarations import Word
from discovery.core.local import ENDPOINTS_PER_AGENT_MAX, LocalTable
from discovery.core.model import Change, Endpoint, EndpointKey, pack, unpack_endpoint
from discovery.core.quotas import Quota
from discovery.core.specs import QuotaSpec
from discovery.core.tables import EMPTY_TABLES
from federation.kernel.errors import LimitExceededError
from tests.unit.discovery.builders import put_cluster, resource
from tests.unit.discovery.test_local_table import (
    SPEC,
    declare,
    gone,
    in_catalog,
    listed,
    row,
    with_list,
)

# Of a trust domain that this controller, behind the log, does not know as its cluster's yet.
NEW = "spiffe://beta.test/ns/shop/sa/orders"

JOINED = resource(put_cluster("alpha"))
CLUSTER = (Change("resources", JOINED.key.encode(), pack(JOINED)),)


def moved(name: str = "a", version: tuple[int, int] = (1, 2)) -> Endpoint:
    return row(name, version, identity=NEW)


def versions(table: LocalTable) -> dict[str, tuple[int, int]]:
    return {
        one.key.name: one.version
        for one in (unpack_endpoint(value) for _, value in table.endpoints().items())
    }


@pytest.mark.parametrize("by_its_stream", [False, True])
def test_an_earlier_row_stays_when_its_new_one_is_refused(by_its_stream: bool) -> None:
    table = LocalTable("alpha")
    table.seed([row("a"), row("b")])
    if by_its_stream:
        table.hello("agent-1", 1)
        done = declare(table, row("b"), refused=(moved().key,), complete=True)
    else:
        done = listed(table, moved(), row("b"))
        assert [key.name for key, _ in done.refused] == ["a"]
    assert done.changes == ()
    assert versions(table) == {"a": (1, 1), "b": (1, 1)}
    assert listed(table, row("b")).changes == gone(row("a"))  # It is not in the list any more.


def test_a_list_in_parts_remembers_what_was_refused_of_its_first_part() -> None:
    table = LocalTable("alpha")
    table.seed([row("a"), row("b")])
    table.hello("agent-1", 1)
    declare(table, moved())
    assert declare(table, row("b"), complete=True).changes == ()
    assert versions(table) == {"a": (1, 1), "b": (1, 1)}


@pytest.mark.parametrize("in_a_list", [True, False])
def test_what_is_refused_here_and_published_by_another_controller_is_taken_and_stays(in_a_list: bool) -> None:
    table = LocalTable("alpha")
    listed(table, *(() if not in_a_list else (moved(),)))
    if not in_a_list:
        assert declare(table, moved()).refused
    theirs = EMPTY_TABLES.with_changes((*in_catalog(moved()), *CLUSTER), 1)
    table.absorb(in_catalog(moved()))
    assert versions(table) == {"a": (1, 2)}
    assert table.difference(theirs).remove == ()
    assert table.unsettled(moved().key.encode(), theirs.endpoints.get(moved().key.encode())) is None
    listed(table, at=(1, 10))
    assert [key.name for key, _, _ in table.difference(theirs).remove] == ["a"]


def test_what_another_controller_hears_and_this_one_would_refuse_stays() -> None:
    table = LocalTable("alpha")
    table.seed([row("a"), row("b")])
    assert table.hear("alpha-2", "agent-1", Word((1, 9), (moved(), row("b"))), SPEC) == ()
    table.absorb(in_catalog(moved()))
    assert versions(table) == {"a": (1, 2), "b": (1, 1)}
    assert table.hear("alpha-2", "agent-1", Word((1, 10), (row("b"),)), SPEC) == gone(row("a"))


def test_an_agent_that_is_given_up_leaves_nothing_behind() -> None:
    table = LocalTable("alpha")
    table.seed([row("a")])
    listed(table, moved())
    table.agent_lost("agent-1")
    assert table.expire("agent-1") == gone(row("a"))
    assert versions(table) == {}


def test_what_one_controller_refuses_another_does_not_withdraw_by_its_word() -> None:
    behind, table = LocalTable("alpha"), LocalTable("alpha")
    table.seed([moved()])
    listed(behind, moved(), row("b"), at=(1, 10))
    heard = behind.heard_here("agent-1")
    assert heard is not None
    table.hear("alpha-2", "agent-1", heard, SPEC)
    assert versions(table) == {"a": (1, 2), "b": (1, 1)}


def test_the_same_word_heard_of_another_controller_does_not_undo_what_was_refused_here() -> None:
    table = LocalTable("alpha")
    listed(table, moved(), row("b"))
    table.hear("alpha-2", "agent-1", Word((1, 9), (row("b"),)), SPEC)
    table.absorb(in_catalog(moved()))
    assert versions(table) == {"a": (1, 2), "b": (1, 1)}


def test_a_row_without_room_is_not_withdrawn_from_a_catalog_that_has_it() -> None:
    table = LocalTable("alpha")
    table.quota = Quota(source="Quota/alpha", spec=QuotaSpec(endpoints=1))
    assert [key.name for key, _ in listed(table, row("a"), row("b")).refused] == ["b"]
    assert [key.name for key, _ in declare(table, row("c")).refused] == ["c"]
    theirs = EMPTY_TABLES.with_changes((*in_catalog(row("a"), row("b"), row("c")), *CLUSTER), 1)
    table.absorb(in_catalog(row("b"), row("c")))
    assert table.difference(theirs).remove == ()


@pytest.mark.parametrize("in_a_list", [True, False])
def test_refused_rows_are_remembered_up_to_a_bound(in_a_list: bool) -> None:
    table = LocalTable("alpha")
    listed(table, row("a"))
    if in_a_list:
        table.hello("agent-1", 1)
    most = ENDPOINTS_PER_AGENT_MAX - 1
    keys = tuple(row(f"r{number}").key for number in range(most + 1))
    declare(table, refused=keys[:most])
    with pytest.raises(LimitExceededError):
        declare(table, row("b"), refused=keys[most:])
    assert versions(table) == {"a": (1, 1)}


def test_a_name_that_no_row_can_have_is_not_remembered() -> None:
    table = with_list(row("a"))
    keys = [
        EndpointKey("shop", "orders", "alpha", f"No such {n}") for n in range(ENDPOINTS_PER_AGENT_MAX + 1)
    ]
    for part in (keys[:1], keys[1:]):
        declare(table, refused=tuple(part))
    assert versions(table) == {"a": (1, 1)}

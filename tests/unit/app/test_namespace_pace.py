"""How many changes of a namespace go with each batch."""

from discovery.core.declarations import Difference
from discovery.core.quotas import Quota
from discovery.core.room import Room
from discovery.core.specs import NamespaceQuota, QuotaSpec
from discovery.core.usage import Usage
from federation.app.namespace_pace import NamespacePace, Turn
from tests.unit.discovery.builders import endpoint

SLOW = QuotaSpec(namespaces={"shop": NamespaceQuota(changes_per_second=2, changes_burst=3)})


def went(turn: Turn, namespace: str, count: int) -> list[bool]:
    rows = [endpoint(name=f"e{number}", namespace=namespace) for number in range(count)]
    return [turn.takes(row.key.encode(), b"ours", None) for row in rows]


def batch(namespace: str, count: int) -> Difference:
    return Difference(put=tuple(endpoint(name=f"e{number}", namespace=namespace) for number in range(count)))


def test_a_namespace_has_its_burst_and_then_its_rate():
    pace = NamespacePace()
    turn = pace.begin(SLOW, None, 0.0)
    assert went(turn, "shop", 5) == [True, True, True, False, False]
    assert turn.held
    pace.took(batch("shop", 3), SLOW, 0.0)
    turn = pace.begin(SLOW, None, 0.25)
    assert (went(turn, "shop", 1), turn.wait_s) == ([False], 0.25)
    turn = pace.begin(SLOW, None, 1.0)
    assert went(turn, "shop", 3) == [True, True, False]


def test_the_others_go_as_they_come():
    pace = NamespacePace()
    pace.took(batch("shop", 3), SLOW, 0.0)
    turn = pace.begin(SLOW, None, 0.0)
    assert went(turn, "bank", 9) == [True] * 9
    assert not turn.held


def test_what_is_as_fast_as_the_cluster_is_no_limit():
    pace, spec = NamespacePace(), QuotaSpec(namespace=NamespaceQuota())
    pace.took(batch("shop", 500), spec, 0.0)
    turn = pace.begin(spec, None, 0.0)
    assert went(turn, "shop", 500) == [True] * 500


def test_a_rate_of_each_namespace_counts_for_each_apart():
    pace, spec = NamespacePace(), QuotaSpec(namespace=NamespaceQuota(changes_per_second=1, changes_burst=1))
    turn = pace.begin(spec, None, 0.0)
    assert (went(turn, "shop", 2), went(turn, "bank", 2)) == ([True, False], [True, False])


def test_a_limit_that_is_taken_away_holds_nobody_any_longer():
    pace = NamespacePace()
    pace.took(batch("shop", 3), SLOW, 0.0)
    assert went(pace.begin(QuotaSpec(), None, 0.0), "shop", 5) == [True] * 5


def test_how_long_to_wait_is_that_of_who_was_held_and_of_nobody_else():
    pace, limits = NamespacePace(), NamespaceQuota(changes_per_second=2, changes_burst=3)
    spec = QuotaSpec(namespace=limits)
    pace.took(batch("shop", 3), spec, 0.0)
    pace.took(batch("bank", 1), spec, 0.0)
    turn = pace.begin(spec, None, 0.0)
    assert (went(turn, "shop", 1), turn.wait_s) == ([False], 0.5)


def test_what_there_is_no_room_for_costs_a_namespace_nothing():
    room = Room(Quota(source="Quota/alpha", spec=QuotaSpec(endpoints=0)), Usage())
    room.begin()
    turn = NamespacePace().begin(SLOW, room, 0.0)
    assert went(turn, "shop", 5) == [False] * 5
    assert not turn.held

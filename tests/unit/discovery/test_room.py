"""What goes to the catalog while a limit stands against the whole: as much as fits, and never what would be refused."""

import pytest

from discovery.core.model import Endpoint, pack
from discovery.core.quotas import BYTES_SLACK, Quota
from discovery.core.room import Room, usage_of_other
from discovery.core.specs import NamespaceQuota, QuotaSpec
from discovery.core.tables import Table
from discovery.core.usage import Usage
from tests.unit.discovery.builders import endpoint


def table(*rows: Endpoint) -> Table:
    return Table().set((row.key.encode(), pack(row)) for row in rows)


def used(rows: Table) -> Usage:
    usage = Usage()
    for key, value in rows.items():
        usage.note("endpoints", key, 1, len(key) + len(value))
    return usage


def room(spec: QuotaSpec, *there: Endpoint) -> Room:
    return Room(Quota(source="q", spec=spec), used(table(*there)))


def is_new(place: Room, row: Endpoint) -> bool:
    return place.takes(row.key.encode(), pack(row), None)


def rows(count: int, **fields: object) -> list[Endpoint]:
    return [endpoint(name=f"e{number}", **fields) for number in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "takes"),
    [
        pytest.param(QuotaSpec(endpoints=3), [True, True, False, False], id="the-cluster"),
        pytest.param(QuotaSpec(namespace=NamespaceQuota(endpoints=2)), [True, False, False, True], id="each-namespace"),
        pytest.param(QuotaSpec(namespaces={"bank": NamespaceQuota(services=0)}), [True, True, True, False], id="services-of-one"),
        pytest.param(QuotaSpec(bytes=1), [False] * 4, id="bytes"),
        pytest.param(QuotaSpec(services=0), [True, True, True, False], id="more-of-a-service-that-is-there-is-no-growth"),
    ],
)  # fmt: skip
def test_new_rows_go_as_far_as_there_is_room_and_those_of_another_place_after_them(
    spec: QuotaSpec, takes: list[bool]
) -> None:
    place = room(spec, endpoint(name="there"))
    new = [*rows(3), endpoint(name="b", namespace="bank", service="vault")]
    assert [is_new(place, row) for row in new] == takes
    place.begin()
    assert [is_new(place, row) for row in new] == takes  # A batch that was lost is tried again.


def test_a_batch_grows_by_no_more_than_the_catalog_lets_pass_unjudged_and_then_another_goes_on() -> None:
    before = rows(100)
    after = rows(100, version=(1, 2), labels=(("team", "x" * 60),))
    place = room(QuotaSpec(bytes=0), *before)
    batches = []
    while any(after):
        place.begin()
        went = [
            old is not None and new is not None and place.takes(new.key.encode(), pack(new), pack(old))
            for old, new in zip(before, after, strict=True)
        ]
        grown = sum(
            len(pack(new)) - len(pack(old)) for old, new, ok in zip(before, after, went, strict=True) if ok
        )  # type: ignore[arg-type]  # those that went
        assert 0 < grown <= BYTES_SLACK
        batches.append(sum(went))
        after = [None if ok else new for new, ok in zip(after, went, strict=True)]  # type: ignore[misc]  # gone
    assert sum(batches) == 100
    assert len(batches) > 1


def test_what_is_new_and_what_grows_go_apart_and_removals_always() -> None:
    old, new = rows(1)[0], endpoint(name="new")
    longer = endpoint(name="e0", version=(1, 2), labels=(("a", "b"),))
    place = room(QuotaSpec(), old)
    assert is_new(place, new)
    assert not place.takes(old.key.encode(), pack(longer), pack(old))
    assert place.takes(old.key.encode(), None, pack(old))
    place.begin()
    assert place.takes(old.key.encode(), pack(longer), pack(old))
    assert not is_new(place, new)


def test_a_room_that_was_closed_takes_nothing_new() -> None:
    place = room(QuotaSpec())
    place.open = False
    assert not is_new(place, endpoint())


def test_usage_is_told_from_that_of_another_table_by_what_differs() -> None:
    theirs = table(*rows(5), endpoint(name="x", namespace="bank"))
    ours = table(*rows(3), endpoint(name="e3", labels=(("a", "b"),)), endpoint(name="y", service="s"))
    differing = {key for key, _ in (*ours.items(), *theirs.items())}
    found = usage_of_other(used(ours), ours, theirs, differing)
    for told, counted in (
        (found.counts, used(theirs).counts),
        (found.of_service, used(theirs).of_service),
    ):
        assert {place: count for place, count in told.items() if count} == counted

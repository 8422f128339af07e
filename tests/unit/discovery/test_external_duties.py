"""What a cluster checks, and what it may say of what it sees."""

import pytest

from discovery.core.external_duties import ADDRESSES_CHECKED_MAX, Tally, duties, wanted_missed
from discovery.core.model import ResourceKey
from discovery.core.opinion import Opinion
from tests.unit.discovery.builders import (
    Log,
    key,
    put_export,
    put_external,
    put_grant,
    put_import,
)
from tests.unit.discovery.test_verdicts import three

HEARD, LOST, UNKNOWN = Opinion(sight="heard"), Opinion(sight="lost"), Opinion()


def checked(log: Log, cluster: str) -> set[str]:
    found, _ = duties(log.catalog.tables, cluster)
    return {f"{one.scope}/{one.name}" for one in found}


def test_a_cluster_checks_its_own_services_and_those_of_its_remotes_unless_others_are_named():
    log = three()
    log.accept("alpha", put_external("alpha"), put_external("delta"))
    log.accept("beta", put_external("beta"), put_external("beta", "shop", "carts", checkedFrom=["gamma"]))
    assert checked(log, "alpha") == {"alpha/orders", "delta/orders"}
    assert checked(log, "beta") == {"beta/orders"}
    assert checked(log, "delta") == set()


def test_another_clusters_services_are_checked_only_where_they_are_seen():
    log = three()
    log.accept("beta", put_external("beta", checkedFrom=["alpha", "beta"]))
    assert checked(log, "alpha") == set()
    log.accept("beta", put_export("beta", "shop", "*"))
    assert checked(log, "alpha") == set()
    log.accept("beta", put_grant("beta", "shop", "*"))
    assert checked(log, "alpha") == {"beta/orders"}
    log.accept("alpha", put_import("alpha", action="Refuse", clusters=["beta"]))
    assert checked(log, "alpha") == set()
    assert checked(log, "beta") == {"beta/orders"}


def test_so_many_addresses_are_checked_the_own_ones_first():
    log, per_service = three(), 64
    names = [f"s{number}" for number in range(ADDRESSES_CHECKED_MAX // per_service + 1)]
    addresses = [f"203.0.113.{number}" for number in range(per_service)]
    log.accept("delta", put_external("delta", "shop", "later", *addresses))
    for name in names:
        log.accept("alpha", put_external("alpha", "shop", name, *addresses))
    found, left_out = duties(log.catalog.tables, "alpha")
    assert sum(len(spec.addresses) for spec in found.values()) <= ADDRESSES_CHECKED_MAX
    assert left_out == 2
    assert {one.scope for one in found} == {"alpha"}


@pytest.mark.parametrize(
    ("sights", "said", "is_held", "expected"),
    [
        ({"a": HEARD}, (), False, ()),
        ({"a": LOST, "b": HEARD}, (), False, ("a",)),
        ({"b": LOST, "a": LOST}, (), False, ("a", "b")),
        ({"a": UNKNOWN, "b": UNKNOWN}, ("a",), False, ("a",)),  # By an earlier start.
        ({"a": HEARD}, ("a",), False, ()),
        ({"a": LOST, "b": LOST}, ("a",), True, ("a",)),  # No loss is added,
        ({"a": HEARD, "b": LOST}, ("a",), True, ()),  # and what is back is taken back.
        ({}, ("a",), False, ()),  # Nobody wants to know any more.
    ],
)
def test_what_is_said_follows_what_is_seen(sights, said, is_held, expected):
    assert wanted_missed(sights, said, is_held=is_held) == expected


@pytest.mark.parametrize(
    ("others", "is_held"),
    [
        ([], False),  # All of one service may die at once.
        ([LOST], False),
        ([LOST, LOST], True),
        ([LOST, LOST, HEARD, HEARD], False),
        ([LOST, LOST, LOST, HEARD, HEARD], True),
        ([LOST, LOST, UNKNOWN, UNKNOWN, UNKNOWN], True),  # Of what is known.
    ],
)
def test_who_misses_most_of_all_other_services_is_believed_nothing_new(others, is_held):
    one, other = (key("ExternalService", name, scope="alpha", namespace="shop") for name in ("one", "two"))
    minds: dict[ResourceKey, dict[str, Opinion]] = {one: {"a": LOST, "b": LOST, "c": LOST}}
    if others:
        minds[other] = {str(number): opinion for number, opinion in enumerate(others)}
    assert Tally(minds).is_held(one) == is_held

"""Whatever checkers say in whatever order: one of them removes nothing, and copies of the log agree."""

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.external import observation_key
from discovery.core.model import ResourceKey
from tests.unit.discovery.builders import Log
from tests.unit.discovery.test_external import ONE, SERVICE, TWO, miss, put_external, see, states
from tests.unit.discovery.test_verdicts import three

CHECKERS = ("alpha", "beta", "gamma")
MISSED = st.sets(st.sampled_from([ONE, TWO]))
MINDS = st.tuples(st.sampled_from(CHECKERS), MISSED, st.sampled_from([0, 500, 5_000]))
NAMED = st.lists(st.sampled_from(CHECKERS), unique=True)


def step(log: Log, checker: str, missed: set[str], wait_ms: int) -> None:
    """One change of mind, and time after it; what is refused changes nothing."""
    log.write(checker, miss(checker, *missed) if missed else see(checker))
    log.wait(wait_ms)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CHECKERS), NAMED, st.lists(MINDS, max_size=25))
def test_no_sequence_of_observations_by_one_checker_removes_an_address(checker, named, minds):
    log = three()
    log.accept("beta", put_external(checkedFrom=named))
    for _, missed, wait_ms in minds:
        step(log, checker, missed, wait_ms)
        assert "unhealthy" not in states(log).values()


@settings(max_examples=60, deadline=None)
@given(NAMED, st.lists(MINDS, max_size=30))
def test_an_address_that_nobody_misses_is_well_and_a_copy_from_a_snapshot_agrees(named, minds):
    log, half = three(), len(minds) // 2
    log.accept("beta", put_external(checkedFrom=named))
    for mind in minds[:half]:
        step(log, *mind)
    copy = Log(index=log.index)
    copy.catalog.restore(log.catalog.snapshot())
    before = len(log.entries)
    for mind in minds[half:]:
        step(log, *mind)
    for checker in CHECKERS:
        if is_said(log, observation_key(checker, SERVICE)):
            log.accept(checker, see(checker))
    assert set(states(log).values()) == {"ok"}
    for index, entry in log.entries[before:]:
        copy.catalog.apply(index, entry)
    assert copy.catalog.digest() == log.catalog.digest()


def is_said(log: Log, row: ResourceKey) -> bool:
    return log.catalog.tables.resource(row) is not None

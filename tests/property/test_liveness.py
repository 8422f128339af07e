"""Whatever is observed in whatever order: one observer kills nobody, verdicts lift, damping bounds their number."""

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.commands import Delete
from discovery.core.model import FEDERATION_SCOPE
from tests.unit.discovery.builders import Log, key
from tests.unit.discovery.test_verdicts import DAMPING_WINDOW_MS, observe, state, status, three

CLUSTERS = ("alpha", "beta", "gamma", "delta")
OBSERVERS = CLUSTERS[:3]
LOST = st.sampled_from(
    [{"controlLost": True}, {"dataLost": True}, {"controlLost": True, "dataLost": True}, {}]
)


def step(log: Log, observer: str, subject: str, lost: dict[str, bool], wait_ms: int) -> None:
    """One change of mind, and time after it."""
    if lost:
        log.write(observer, observe(observer, subject, **lost))
    else:
        log.write(observer, Delete(key=key("Observation", subject, scope=observer)))
    log.wait(wait_ms)


def states(log: Log) -> dict[str, str]:
    return {name: state(log, name) for name in CLUSTERS}


MINDS = st.tuples(
    st.sampled_from(OBSERVERS), st.sampled_from(CLUSTERS), LOST, st.sampled_from([0, 500, 5_000])
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OBSERVERS), st.lists(MINDS, max_size=30))
def test_no_sequence_of_observations_by_one_observer_kills(observer, minds):
    log = three()
    for _, subject, lost, wait_ms in minds:
        step(log, observer, subject, lost, wait_ms)
        assert "dead" not in states(log).values()


@settings(max_examples=60, deadline=None)
@given(st.lists(MINDS, max_size=40))
def test_when_nobody_misses_anybody_all_are_well_and_whatever_was_before_is_forgiven(minds):
    log = three()
    for mind in minds:
        step(log, *mind)
    for observer in OBSERVERS:
        for subject in CLUSTERS:
            step(log, observer, subject, {}, 0)
    assert set(states(log).values()) == {"ok"}
    assert not list(log.catalog.tables.list_resources(FEDERATION_SCOPE, "Observation"))


@settings(max_examples=60, deadline=None)
@given(st.lists(MINDS, max_size=40))
def test_a_replica_that_starts_from_a_snapshot_in_between_ends_the_same(minds):
    log, half = three(), len(minds) // 2
    for mind in minds[:half]:
        step(log, *mind)
    copy = Log(index=log.index)
    copy.catalog.restore(log.catalog.snapshot())
    before = len(log.entries)
    for mind in minds[half:]:
        step(log, *mind)
    for index, entry in log.entries[before:]:
        copy.catalog.apply(index, entry)
    assert copy.catalog.digest() == log.catalog.digest()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0, 1_000, 10_000, 60_000]), min_size=30, max_size=60))
def test_however_a_cluster_flaps_it_is_found_dead_only_a_few_times_in_a_window(waits):
    """Holds of 10, 20, 40, 80, 160 and 300 s after the first death: the seventh comes after the window."""
    log = three()
    deaths: list[int] = []
    time_ms = 0
    for wait_ms in waits:
        for lost in ({"controlLost": True, "dataLost": True}, {}):
            for observer in ("alpha", "gamma"):
                before = state(log)
                step(log, observer, "beta", lost, 0)
                if before != "dead" and state(log) == "dead":
                    deaths.append(time_ms)
            before = state(log)
            log.wait(wait_ms)
            if before != "dead" and state(log) == "dead":
                deaths.append(time_ms + wait_ms)
            time_ms += wait_ms
    for death in deaths:
        assert sum(death <= other < death + DAMPING_WINDOW_MS for other in deaths) <= 7
    assert len(deaths) == 0 or status(log).deaths_lease_ms

"""What is remembered of the way of a write: each stage is timed from where it began, and nothing piles up."""

from collections.abc import Callable

import pytest

from discovery.core.model import Change
from federation.app import traces
from federation.app.traces import Acknowledged, Held, Tracer
from federation.replication.messages import Delta, Heartbeat, LocalRows
from tests.unit.replication.catalog import cluster, endpoint, gone


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracer(clock: Clock) -> Tracer:
    return Tracer(clock=clock, unix_ms=lambda: int(clock.now_s * 1000))


def count(tracer: Tracer, of_cluster: str, stage: str) -> float:
    """How many durations of a stage were counted."""
    return sum(
        sample.value
        for metric in tracer.metrics()
        for sample in metric.samples
        if sample.name.endswith("_count") and sample.labels == {"cluster": of_cluster, "stage": stage}
    )


def commit(tracer: Tracer, revision: int, *changes: Change) -> Callable[[], traces.Passage]:
    tracer.committed(revision, changes)

    def passage() -> traces.Passage:
        found = tracer.passage(Delta(revision=revision, changes=changes))
        assert found is not None
        return found

    return passage


def test_a_write_is_timed_from_its_commit_to_the_last_proxy(tracer: Tracer, clock: Clock) -> None:
    passage = commit(tracer, 7, endpoint("orders-b1", owner="beta"))()
    clock.now_s += 0.010
    passage.sent("alpha")
    passage.sent("alpha")
    passage.compiled("alpha")
    clock.now_s += 0.005
    passage.answered("alpha")
    waiting = tracer.trace(7)
    assert waiting is not None
    assert waiting.proxies == (
        Acknowledged(cluster="alpha", compiled_ms=10.0, acknowledged=1, waiting=1, last_ms=15.0),
    )
    assert count(tracer, "alpha", "acknowledged") == 0, "one has not answered yet"
    clock.now_s += 0.005
    passage.answered("alpha")
    ended = tracer.trace(7)
    assert ended is not None
    assert ended.proxies[0].last_ms == 20.0
    assert (count(tracer, "alpha", "compiled"), count(tracer, "alpha", "acknowledged")) == (1, 1)


def test_a_proxy_that_leaves_is_not_waited_for(tracer: Tracer) -> None:
    passage = commit(tracer, 7, endpoint("orders-b1", owner="beta"))()
    passage.sent("alpha")
    passage.compiled("alpha")
    passage.gone("alpha")
    trace = tracer.trace(7)
    assert trace is not None
    assert trace.proxies == (Acknowledged(cluster="alpha", compiled_ms=0.0, gone=1),)
    assert count(tracer, "alpha", "acknowledged") == 1


def test_what_an_agent_declared_is_linked_to_its_commit(tracer: Tracer, clock: Clock) -> None:
    row = endpoint("web-1")
    tracer.declared([row])
    local = tracer.passage(LocalRows(changes=(row,)))
    assert local is not None
    local.sent("alpha")
    local.compiled("alpha")
    clock.now_s += 0.002
    local.answered("alpha")
    clock.now_s += 0.018
    tracer.committed(9, (row,))
    trace = tracer.trace(9)
    assert trace is not None
    assert (trace.declared_ms_before, trace.local[0].last_ms) == (20.0, 2.0)
    assert (count(tracer, "alpha", "local"), count(tracer, "alpha", "committed")) == (1, 1)
    tracer.committed(10, (row,))
    again = tracer.trace(10)
    assert again is not None
    assert again.declared_ms_before is None, "a declaration is of one commit"


def test_a_follower_holds_all_that_it_passed_since_its_last_word(tracer: Tracer, clock: Clock) -> None:
    for revision in (3, 4):
        commit(tracer, revision, cluster(f"c{revision}"))
    tracer.holds("beta", "dns.d1", 4)  # What it came with took no time that says anything.
    for revision in (5, 6, 7):
        commit(tracer, revision, cluster(f"c{revision}"))
    clock.now_s += 0.030
    tracer.holds("beta", "dns.d1", 6)
    held = {revision: trace.held for revision in range(3, 8) if (trace := tracer.trace(revision))}
    mark = (Held(cluster="beta", name="dns.d1", after_ms=30.0),)
    assert held == {3: (), 4: (), 5: mark, 6: mark, 7: ()}
    tracer.left("beta", "dns.d1")
    tracer.holds("beta", "dns.d1", 7)
    assert count(tracer, "beta", "held") == 2, "it came back, perhaps from far behind"


def test_a_follower_that_goes_back_and_forth_is_counted_once(tracer: Tracer) -> None:
    commit(tracer, 5, cluster("c5"))
    for _ in range(3):
        for revision in (4, 5, 4, 5):
            tracer.holds("beta", "dns.d1", revision)
        tracer.left("beta", "dns.d1")
    trace = tracer.trace(5)
    assert trace is not None
    assert [one.name for one in trace.held] == ["dns.d1"]
    assert count(tracer, "beta", "held") == 1


def test_of_many_followers_some_are_named_and_all_are_counted(tracer: Tracer) -> None:
    commit(tracer, 5, cluster("c5"))
    for number in range(traces.HELD_NAMED_MAX + 3):
        tracer.holds("beta", f"dns.d{number}", 4)
        tracer.holds("beta", f"dns.d{number}", 5)
    trace = tracer.trace(5)
    assert trace is not None
    assert (len(trace.held), trace.held_more) == (traces.HELD_NAMED_MAX, 3)
    assert count(tracer, "beta", "held") == traces.HELD_NAMED_MAX + 3


def test_who_says_that_it_follows_without_end_of_names_costs_a_bounded_number(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "SUBSCRIBERS_MAX", 2)
    commit(tracer, 5, cluster("c5"))
    for revision in (4, 5):
        for number in range(3):
            tracer.holds("beta", f"dns.d{number}", revision)
    assert count(tracer, "beta", "held") == 2


def test_the_newest_writes_and_declarations_are_remembered(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "TRACES_MAX", 3)
    monkeypatch.setattr(traces, "DECLARED_MAX", 2)
    rows = [endpoint(f"web-{number}") for number in range(4)]
    for row in rows:
        tracer.declared([row])
    for revision, row in enumerate(rows, start=1):
        tracer.committed(revision, (row,))
    known = [tracer.trace(revision) for revision in range(1, 6)]
    assert [trace is not None for trace in known] == [False, True, True, True, False]
    assert [trace.declared_ms_before is not None for trace in known if trace] == [False, True, True]


def test_a_trace_names_some_rows_and_counts_all(tracer: Tracer) -> None:
    rows = tuple(endpoint(f"orders-{number}", owner="beta") for number in range(traces.NAMES_MAX + 5))
    tracer.committed(2, (gone(endpoint("orders-0")), *rows))
    trace = tracer.trace(2)
    assert trace is not None
    assert trace.rows == traces.NAMES_MAX + 6
    assert len(trace.changed) == traces.NAMES_MAX
    assert trace.changed[0].endswith("/orders-0 removed")


def test_an_answer_that_changes_nothing_belongs_to_no_write(tracer: Tracer) -> None:
    assert tracer.passage(Heartbeat(revision=1, unix_ms=0)) is None
    assert tracer.passage(LocalRows(changes=(), complete=True)) is None
    assert tracer.passage(Delta(revision=99, changes=())) is None

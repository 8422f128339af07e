"""What a report says comes from the request log and the times of what was done, by these rules."""

import msgspec
import pytest

from chaos.load.records import (
    Event,
    Kind,
    Record,
    RequestLine,
    Retries,
    gaps_ms,
    outlasted_ms,
    quantile,
    shift_ms,
    summarize,
)


def line(
    due_s: float,
    *,
    status: int = 200,
    took_ms: float = 10,
    pair: str = "beta/orders",
    by: str = "",
    kind: Kind = "single",
) -> RequestLine:
    caller, _, service = pair.partition("/")
    return RequestLine(
        number=0,
        kind=kind,
        caller=caller,
        service=service,
        due_s=due_s,
        sent_late_ms=0,
        took_ms=took_ms,
        status=status,
        instance=by,
    )


@pytest.mark.parametrize(
    ("lines", "gaps"),
    [
        pytest.param([], {}, id="nothing-sent"),
        pytest.param([line(1)], {"beta/orders": 0.0}, id="one-success-has-no-neighbour"),
        pytest.param([line(1), line(1.5), line(1.75)], {"beta/orders": 500.0}, id="longest-of-two"),
        pytest.param(
            [line(1), line(2, status=0), line(3, status=503), line(4)],
            {"beta/orders": 3000.0},
            id="failures-fill-no-gap",
        ),
        pytest.param(
            [line(1), line(1.5, took_ms=510)], {"beta/orders": 1000.0}, id="counted-between-answers"
        ),
        pytest.param(
            [line(4), line(1), line(2)], {"beta/orders": 2000.0}, id="order-of-the-log-does-not-matter"
        ),
        pytest.param(
            [line(1), line(1.5, pair="beta/pay"), line(2), line(2.75, pair="beta/pay")],
            {"beta/orders": 1000.0, "beta/pay": 1250.0},
            id="pairs-do-not-help-each-other",
        ),
    ],
)
def test_a_gap_is_the_longest_time_between_two_successes_of_one_pair(
    lines: list[RequestLine], gaps: dict[str, float]
) -> None:
    assert gaps_ms(lines) == gaps


@pytest.mark.parametrize(
    ("lines", "expected_ms"),
    [
        pytest.param([], 0.0, id="nothing-sent"),
        pytest.param(
            [line(9, by="a1"), line(10.1, by="b1", took_ms=50)], 150.0, id="first-answer-by-another"
        ),
        pytest.param([line(9, by="b1"), line(10.4, by="b1")], 0.0, id="not-affected"),
        pytest.param([line(9, by="a1")], 0.0, id="never-asked-again"),
        pytest.param(
            [line(9, by="a1"), line(10.1, by="a1"), line(10.5, by="b1", took_ms=0)],
            500.0,
            id="a-victims-last-words-do-not-count",
        ),
        pytest.param(
            [line(9, by="a1"), line(10.1, status=503, by="b1"), line(10.3, by="b1", took_ms=0)],
            300.0,
            id="a-failure-is-no-shift",
        ),
        pytest.param(
            [
                line(9, by="a1"),
                line(10.1, by="b1", took_ms=0),
                line(9, by="a1", pair="delta/pay"),
                line(10.7, by="b1", pair="delta/pay", took_ms=0),
            ],
            700.0,
            id="the-last-pair-decides",
        ),
        pytest.param(
            [line(8, by="a1"), line(9, by="b1"), line(10.6, by="b1")], 0.0, id="moved-before-the-fault"
        ),
        pytest.param(
            [line(9, by="b1"), line(9.99, by="a1", took_ms=500), line(10.6, by="b1")],
            0.0,
            id="answered-after-the-fault",
        ),
    ],
)
def test_the_shift_ends_when_the_last_affected_pair_is_answered_by_a_survivor(
    lines: list[RequestLine], expected_ms: float
) -> None:
    assert shift_ms(lines, 10.0, frozenset({"a1"})) == expected_ms


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([], 0.5, 0.0, id="empty"),
        pytest.param([7.0], 0.99, 7.0, id="one"),
        pytest.param([1.0, 2.0, 3.0, 4.0], 0.5, 2.0, id="median-of-four"),
        pytest.param([1.0, 2.0, 3.0], 0.5, 2.0, id="median-of-three"),
        pytest.param([float(n) for n in range(1, 101)], 0.99, 99.0, id="p99-of-100"),
        pytest.param([float(n) for n in range(1, 101)], 0.07, 7.0, id="no-rounding-error"),
        pytest.param([1.0, 2.0], 1.0, 2.0, id="maximum"),
        pytest.param([1.0, 2.0], 0.0, 1.0, id="minimum"),
    ],
)
def test_a_quantile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == expected


@pytest.mark.parametrize(
    ("lines", "events_s", "expected_ms"),
    [
        pytest.param([line(1), line(12)], [3, 10], 2000.0, id="after-the-last-event"),
        pytest.param([line(1), line(9)], [3, 10], -1000.0, id="ended-too-early"),
        pytest.param([line(1)], [], 0.0, id="no-event"),
        pytest.param([], [1], -1.0, id="no-load"),
        pytest.param(
            [line(1), line(9), line(12, pair="alpha/orders")], [3, 10], -1000.0, id="one-caller-ended"
        ),
        pytest.param([line(12, pair="alpha/orders")], [10], -1.0, id="one-caller-never-began"),
    ],
)
def test_a_load_has_to_outlast_the_last_event(
    lines: list[RequestLine], events_s: list[float], expected_ms: float
) -> None:
    callers = {"beta", *(one.caller for one in lines)}
    assert outlasted_ms(lines, [Event(at_s=at_s, text="x") for at_s in events_s], callers) == expected_ms


RECORD = Record(
    name="one",
    planned={"beta": 5, "delta": 1},
    retries=(
        Retries(proxy="beta/beta-1", before=10, after=12),
        Retries(proxy="delta/delta-1", before=0, after=5),
    ),
    fault_s=10.0,
    victims=("a1",),
    services=("orders",),
    restarted_s=11.0,
    recovered_s=11.25,
    events=(Event(at_s=11.25, text="back"),),
)
LINES = [
    line(9, by="a1"),
    line(9, by="a1", pair="beta/pay"),
    line(10.1, by="b1", took_ms=0),
    line(11.5, status=0, by=""),
    line(12.0, by="a1", took_ms=30),
    line(11.75, by="c1", took_ms=70, kind="chain", pair="delta/chain"),
]


def test_a_summary_counts_every_line_and_shifts_only_the_services_that_died() -> None:
    result = summarize(RECORD, LINES)

    assert (result.planned, result.requests, result.failed, result.retried) == (6, 6, 1, 7)
    assert (result.shift_ms, result.recovered_ms, result.outlasted_ms) == (100.0, 250.0, 500.0)
    assert (result.longest_gap_ms, result.p50_ms, result.max_ms) == (1930.0, 10.0, 30.0)
    assert (result.chain_requests, result.chain_failed, result.chain_p99_ms) == (1, 0, 70.0)


def test_a_chain_has_a_gap_of_its_own_and_no_part_in_the_longest() -> None:
    late = line(20, pair="delta/chain", kind="chain")

    result = summarize(RECORD, [*LINES, late])

    assert result.gaps["delta/chain"] == 8190.0
    assert result.longest_gap_ms == 1930.0


@pytest.mark.parametrize(
    ("planned", "last_event_s", "valid"),
    [
        pytest.param({"beta": 5, "delta": 1}, 11.0, True, id="all-sent"),
        pytest.param({"beta": 6, "delta": 1}, 11.0, False, id="five-of-six-sent-by-one-caller"),
        pytest.param({"beta": 5, "delta": 1}, 11.8, False, id="an-event-without-load-of-one-caller"),
    ],
)
def test_a_run_that_missed_its_rate_or_an_event_is_invalid(
    planned: dict[str, int], last_event_s: float, valid: bool
) -> None:
    events = (Event(at_s=last_event_s, text="x"),)
    record = msgspec.structs.replace(RECORD, planned=planned, events=events)

    assert summarize(record, LINES).valid is valid

"""Figures come out of measurements by these rules."""

import pytest

from bench.records import of_rounds, of_samples, quantile, window
from chaos.load.records import RequestLine

FAULT_S = 100.0


def sample(after_ms: float, *, took_ms: float = 5, status: int = 200, attempts: int = 1) -> RequestLine:
    """A request that was due so long after the fault."""
    return RequestLine(
        number=0,
        kind="single",
        caller="delta",
        service="orders",
        due_s=FAULT_S + after_ms / 1000,
        sent_late_ms=0,
        took_ms=took_ms,
        status=status,
        attempts=attempts,
    )


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([7.25], 0.99, 7.25, id="one"),
        pytest.param([4, 1, 3, 2], 0.5, 2, id="median-of-four-in-any-order"),
        pytest.param([1, 2, 3], 0.5, 2, id="median-of-three"),
        pytest.param(range(1, 201), 0.99, 198, id="p99-of-200"),
        pytest.param(range(1, 101), 0.07, 7, id="no-rounding-error"),
        pytest.param([1, 2], 1.0, 2, id="maximum"),
        pytest.param([1, 2], 0.0, 1, id="minimum"),
    ],
)
def test_a_quantile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == expected


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_rounds_give_their_median_and_range() -> None:
    figure = of_rounds("start", [3.0, 1.0, 2.0], "s")

    assert (figure.value, figure.low, figure.high, figure.rounds) == (2.0, 1.0, 3.0, 3)
    assert (figure.spread, figure.ratio, figure.ratio_to) == ("min-max", None, None)


def test_a_ratio_is_the_median_of_the_ratios_by_round() -> None:
    # The last round was slow for both: the ratio of the medians would be 2, that of the last round 1.5.
    figure = of_rounds("ours", [2.0, 4.0, 30.0], "us", beside=[1.0, 1.0, 20.0], ratio_to="theirs")

    assert (figure.ratio, figure.ratio_to) == (2.0, "theirs")


def test_rounds_that_do_not_pair_up_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="zip"):
        of_rounds("ours", [1.0, 2.0], "us", beside=[1.0], ratio_to="theirs")


def test_single_measurements_give_p50_and_p99_with_their_spreads() -> None:
    middle, tail = of_samples("change", [float(number) for number in range(1, 201)], "ms")

    assert (middle.name, middle.value, middle.low, middle.high) == ("change p50", 100.0, 20.0, 180.0)
    assert (tail.name, tail.value, tail.low, tail.high) == ("change p99", 198.0, 1.0, 200.0)
    assert (middle.spread, tail.spread) == ("p10-p90", "min-max")
    assert (middle.rounds, tail.rounds) == (200, 200)


@pytest.mark.parametrize(
    ("samples", "disturbed_ms", "retried_ms"),
    [
        pytest.param([], 0, 0, id="no-request"),
        pytest.param([sample(10), sample(500)], 0, 0, id="nothing-noticed"),
        pytest.param([sample(10, attempts=2), sample(500)], 15, 15, id="retried"),
        pytest.param([sample(300, took_ms=100)], 0, 0, id="just-not-slow"),
        pytest.param([sample(300, took_ms=101)], 401, 0, id="slow"),
        pytest.param([sample(300, status=503, attempts=0)], 305, 0, id="failed"),
        pytest.param(
            [sample(100, attempts=3), sample(700, status=0, took_ms=2000)], 2700, 105, id="last-of-each"
        ),
        pytest.param([sample(700, attempts=2), sample(10, attempts=2)], 705, 705, id="order-does-not-matter"),
        pytest.param([sample(-50, took_ms=120, attempts=2)], 70, 70, id="under-way-at-the-fault"),
        pytest.param([sample(-500, took_ms=20, attempts=2)], 0, 0, id="over-before-the-fault"),
        pytest.param([sample(1000, attempts=2)], 0, 0, id="due-after-the-window"),
        pytest.param([sample(999, attempts=2)], 1004, 1004, id="due-at-its-end"),
    ],
)
def test_a_fault_disturbs_until_the_end_of_the_last_request_that_noticed_it(
    samples: list[RequestLine], disturbed_ms: float, retried_ms: float
) -> None:
    found = window(samples, FAULT_S, FAULT_S + 1.0)

    assert found.disturbed_ms == pytest.approx(disturbed_ms)
    assert found.retried_ms == pytest.approx(retried_ms)


def test_a_window_counts_requests_failures_and_retries() -> None:
    samples = [sample(0), sample(10, attempts=2), sample(20, status=503), sample(30, attempts=4, took_ms=250)]

    found = window(samples, FAULT_S, FAULT_S + 1.0)

    assert (found.requests, found.failed, found.retried, found.worst_ms) == (4, 1, 2, 250)

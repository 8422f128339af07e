"""The hysteresis of probes, as a table, and what the configuration may ask for."""

import functools

import pytest

from federation.agent.config import ProbeSection, WorkloadSection
from federation.agent.probe import ProbeState, Thresholds, probe_target, step
from federation.kernel.errors import InvalidInputError

THRESHOLDS = Thresholds(failures=2, successes=3)


def verdict(results: str) -> bool | None:
    """Feed results, + for healthy and - for failed, and return the verdict."""
    state = functools.reduce(lambda state, one: step(state, one == "+", THRESHOLDS), results, ProbeState())
    return state.ready


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        pytest.param("", None, id="nothing-known-before-the-first"),
        pytest.param("+", True, id="first-success-decides"),
        pytest.param("-", False, id="first-failure-decides"),
        pytest.param("+-", True, id="one-failure-is-forgiven"),
        pytest.param("+--", False, id="two-in-a-row-are-not"),
        pytest.param("+-+-+-", True, id="a-success-between-forgives-again"),
        pytest.param("-++", False, id="two-successes-are-too-few"),
        pytest.param("-+++", True, id="three-in-a-row-bring-it-back"),
        pytest.param("-++-+++", True, id="counting-begins-again-after-a-failure"),
        pytest.param("-++-++", False, id="and-does-not-remember-the-earlier-ones"),
    ],
)
def test_a_verdict_turns_only_after_enough_contradictions_in_a_row(
    results: str, expected: bool | None
) -> None:
    assert verdict(results) is expected


def test_the_probe_comes_from_the_workload() -> None:
    workload = WorkloadSection(
        service="orders",
        port=80,
        app="127.0.0.1:9000",
        probe=ProbeSection(kind="http", path="/up", timeout="500ms"),
    )
    target = probe_target(workload)
    assert (target.url, target.timeout_ms, target.interval_ms) == ("http://127.0.0.1:9000/up", 500, 1000)


def test_a_probe_path_begins_with_a_slash() -> None:
    workload = WorkloadSection(service="orders", port=80, app="127.0.0.1:9000", probe=ProbeSection(path="up"))
    with pytest.raises(InvalidInputError, match=r"workload\.probe\.path: 'up'"):
        probe_target(workload)

"""One observer's mind: hysteresis, patience with itself, and silence when it misses nearly everybody."""

import pytest

from discovery.core.opinion import (
    FAILURES_MIN,
    FAILURES_PER_LOSS,
    LATE_MS,
    LOSS_WINDOW_MS,
    LOSSES_COUNTED_MAX,
    STRAIN_MAX,
    Mind,
    Opinion,
    Sight,
    data_opinion,
    strained,
    suspended_planes,
    wanted_observation,
)
from discovery.core.specs import ObservationSpec

HEARD = Opinion(sight="heard")
LOST = Opinion(sight="lost")


def told(opinion: Opinion, results: str, *, now_ms: int = 0, strain: int = 0) -> Opinion:
    """The opinion after probes: "+" was answered, "-" was not."""
    for result in results:
        opinion = opinion.after(result == "+", now_ms=now_ms, strain=strain)
    return opinion


@pytest.mark.parametrize(
    ("results", "sight"),
    [
        ("", "unknown"),
        ("+", "heard"),
        ("--", "unknown"),
        ("---", "lost"),
        ("+--", "heard"),
        ("+---", "lost"),
        ("+--+--", "heard"),
        ("+---+", "lost"),
        ("+---++", "heard"),
        ("+---+-+", "lost"),
    ],
)
def test_an_opinion_turns_after_several_results_in_a_row(results, sight):
    assert told(Opinion(), results).sight == sight


def test_a_process_that_is_late_needs_more_failures():
    assert told(HEARD, "-" * (FAILURES_MIN + STRAIN_MAX - 1), strain=STRAIN_MAX).sight == "heard"
    assert told(HEARD, "-" * (FAILURES_MIN + STRAIN_MAX), strain=STRAIN_MAX).sight == "lost"


def test_strain_grows_with_each_late_round_and_goes_with_each_punctual_one():
    strain = 0
    for _ in range(2 * STRAIN_MAX):
        strain = strained(strain, LATE_MS + 1)
    assert strain == STRAIN_MAX
    assert strained(strain, LATE_MS) == STRAIN_MAX - 1
    assert strained(0, 0) == 0


def test_each_recent_loss_asks_for_more_failures_up_to_a_bound():
    opinion = HEARD
    for loss in range(2 * LOSSES_COUNTED_MAX):
        needed = FAILURES_MIN + FAILURES_PER_LOSS * min(loss, LOSSES_COUNTED_MAX)
        assert told(opinion, "-" * (needed - 1)).sight == "heard"
        opinion = told(told(opinion, "-" * needed), "++")
        assert opinion.sight == "heard"
    assert told(opinion, "-" * FAILURES_MIN, now_ms=LOSS_WINDOW_MS).sight == "lost"


def minds(control: str, data: str) -> dict[str, Mind]:
    """One cluster for each letter: h heard, l lost, u unknown, n nothing to be seen."""
    names: dict[str, Sight] = {"h": "heard", "l": "lost", "u": "unknown", "n": "nothing"}
    return {
        str(number): Mind(control=Opinion(sight=names[one]), data=Opinion(sight=names[other]))
        for number, (one, other) in enumerate(zip(control, data, strict=True))
    }


@pytest.mark.parametrize(
    ("control", "data", "suspended"),
    [
        ("", "", (False, False)),
        ("lh", "lh", (False, False)),
        ("ll", "lh", (True, False)),
        ("lhh", "llh", (False, True)),
        ("lhhh", "llun", (False, True)),
        ("l", "l", (False, False)),
    ],
)
def test_who_misses_nearly_all_that_it_can_see_is_suspended_in_that_plane(control, data, suspended):
    assert suspended_planes(minds(control, data)) == suspended


@pytest.mark.parametrize(
    ("mind", "said", "suspended", "expected"),
    [
        pytest.param(Mind(control=HEARD, data=HEARD), None, False, None, id="all-is-well"),
        pytest.param(Mind(control=LOST, data=LOST), None, False, (True, True), id="both-lost"),
        pytest.param(Mind(control=HEARD, data=LOST), (True, True), False, (False, True), id="one-returned"),
        pytest.param(Mind(control=HEARD, data=HEARD), (True, True), False, None, id="both-returned"),
        pytest.param(Mind(), (True, False), False, (True, False), id="unknown-stays-as-it-was-said"),
        pytest.param(Mind(), None, False, None, id="unknown-is-no-complaint"),
        pytest.param(Mind(control=LOST, data=Opinion(sight="nothing")), (True, True), False, (True, False), id="what-is-not-there-is-not-missed"),
        pytest.param(Mind(control=LOST, data=LOST), None, True, None, id="suspended-adds-nothing"),
        pytest.param(Mind(control=LOST, data=LOST), (True, False), True, (True, False), id="suspended-keeps-what-was-said"),
        pytest.param(Mind(control=HEARD, data=LOST), (True, True), True, (False, True), id="suspended-takes-back"),
    ],
)  # fmt: skip
def test_a_row_says_what_is_missed_and_nothing_else(mind, said, suspended, expected):
    row = None if said is None else ObservationSpec(control_lost=said[0], data_lost=said[1])
    wanted = None if expected is None else ObservationSpec(control_lost=expected[0], data_lost=expected[1])
    assert wanted_observation(mind, row, (suspended, suspended)) == wanted


@pytest.mark.parametrize(
    ("own", "told", "expected"),
    [
        ("heard", (), "heard"),
        ("lost", (), "lost"),
        ("unknown", (), "unknown"),
        ("heard", (False,), "lost"),
        ("lost", (True,), "heard"),
        ("lost", (False, True), "heard"),  # There is a way.
        ("heard", (False, False), "lost"),
        ("unknown", (True,), "heard"),
        ("nothing", (True, False), "nothing"),  # It has no gateways any more.
    ],
)
def test_of_a_data_path_the_own_gateways_are_believed_and_without_them_the_controller(own, told, expected):
    assert data_opinion(Opinion(sight=own), told).sight == expected

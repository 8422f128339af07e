"""How `isthmus cluster` shows what is held of a cluster."""

from typing import Any

import pytest

from federation.api.liveness import ALWAYS_WELL
from federation.cli.liveness_output import observers, print_history, since, state_of

DEAD: dict[str, Any] = {
    "state": "dead",
    "stateSinceMs": 1_700_000_000_000,
    "controlLostBy": ["alpha", "gamma"],
    "dataLostBy": ["alpha"],
    "held": False,
    "history": [
        {"state": "data-degraded", "atMs": 1_699_999_999_000, "dataLostBy": ["alpha"]},
        {
            "state": "dead",
            "atMs": 1_700_000_000_000,
            "controlLostBy": ["alpha", "gamma"],
            "dataLostBy": ["alpha"],
        },
    ],
}


def test_a_dead_cluster_is_shown_with_time_and_observers(capsys: pytest.CaptureFixture[str]) -> None:
    assert state_of(DEAD) == "dead"
    assert since(DEAD) == "2023-11-14 22:13:20Z"
    assert observers(DEAD) == "controllers by alpha, gamma; gateways by alpha"
    print_history(DEAD)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["dead", "data-degraded"]


def test_one_that_was_always_well_has_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert (state_of(ALWAYS_WELL), since(ALWAYS_WELL), observers(ALWAYS_WELL)) == ("ok", "-", "-")
    print_history(ALWAYS_WELL)
    assert capsys.readouterr().out == ""


def test_a_verdict_that_damping_holds_back_is_told_apart() -> None:
    assert state_of({**DEAD, "state": "data-degraded", "held": True}) == "data-degraded, held"

"""What `isthmus cluster rehome` and `isthmus cluster status` say of a move, and what they do not ask a controller for."""

from typing import Any

import pytest
from click.testing import CliRunner

from federation.cli.rehome_command import home_of, progress, rehome
from federation.kernel.errors import InvalidInputError


def answer(state: str, **more: Any) -> dict[str, Any]:
    return {
        "home": "alpha",
        "otherHome": "beta",
        "trustDomain": "alpha.test",
        "state": state,
        "endpoints": 3,
        "changed": 1,
        "late": [],
        "agents": [],
        "reason": "",
        **more,
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (answer("announced"), "moves from alpha to beta: callers learn of it"),
        (answer("moving"), "moves from alpha to beta: 1 of 3 endpoints show the new identity"),
        (
            answer("moving", late=["shop/orders/o1"], agents=["a2"]),
            "moves from alpha to beta: 1 of 3 endpoints show the new identity, waiting for shop/orders/o1, agent a2",
        ),
        (
            answer("returning", reason="admin asked for it"),
            "returns to alpha: 1 of 3 endpoints show the old identity again (admin asked for it)",
        ),
        (answer("done"), "at home in alpha, trust domain alpha.test"),
        (answer(""), "at home in alpha, trust domain alpha.test"),
    ],
)
def test_a_move_is_told_in_words(found: dict[str, Any], said: str) -> None:
    assert progress(found) == said


@pytest.mark.parametrize(
    ("rehoming", "said"),
    [
        (None, "alpha"),
        ({"state": "announced", "home": "beta"}, "alpha (moves to beta)"),
        ({"state": "moving", "home": "beta"}, "alpha (moves to beta)"),
        ({"state": "returning", "home": "beta"}, "alpha (returns from beta)"),
    ],
)
def test_a_cluster_is_listed_with_the_home_that_it_moves_to(
    rehoming: dict[str, str] | None, said: str
) -> None:
    assert home_of({"home": "alpha", "rehoming": rehoming}) == said
    assert home_of({"home": "alpha"}) == "alpha"  # By a controller of an older build.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--abort", "--to", "beta"), "--abort: takes neither --to nor --dry-run"),
        (("--abort", "--dry-run"), "--abort: takes neither --to nor --dry-run"),
        ((), "--to is missing"),
    ],
)
def test_what_makes_no_sense_is_said_before_a_controller_is_asked(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.cli.rehome_command.Session", lambda _directory: None)
    outcome = CliRunner().invoke(rehome, ["delta", *arguments])
    assert isinstance(outcome.exception, InvalidInputError)
    assert message in outcome.exception.message

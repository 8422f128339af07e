"""What `isthmus cluster rehome` and `isthmus cluster status` say of a move, and what they do not ask a controller for."""

from typing import Any

import pytest
from click.testing import CliRunner

from federation.api.cluster_requests import RehomeRequest
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
            answer("moving", reason="alpha is missed"),
            "moves from alpha to beta: 1 of 3 endpoints show the new identity (alpha is missed)",
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


class Controller:
    """A controller that is asked about a move, and remembers what it was sent."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found
        self.sent: list[Any] = []

    def get(self, _path: str) -> dict[str, Any]:
        return self._found

    def send(self, _method: str, _path: str, body: Any) -> dict[str, Any]:
        self.sent.append(body)
        return {**self._found, "cluster": "delta", "state": "moving"}


@pytest.mark.parametrize(
    ("found", "needs_token"),
    [
        (answer("returning"), False),
        (answer("returning", otherHome="gamma"), True),
        (answer("done"), True),
        (answer(""), True),
    ],
)
def test_a_move_goes_on_from_its_return_by_the_leave_that_it_had(
    found: dict[str, Any], needs_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller(found)
    monkeypatch.setattr("federation.cli.rehome_command.Session", lambda _directory: controller)
    outcome = CliRunner().invoke(rehome, ["delta", "--to", "beta", "--force", "--yes", "--no-wait"])
    if needs_token:
        assert isinstance(outcome.exception, InvalidInputError)
        assert "--token or --token-file is missing" in outcome.exception.message
        assert not controller.sent
    else:
        assert "moves from alpha to beta" in outcome.output
        assert controller.sent == [RehomeRequest(to="beta", within_ms=600_000, force=True)]


class Interrupted(Controller):
    """Ctrl-C comes as soon as it is asked how far the move is."""

    def get(self, _path: str) -> dict[str, Any]:
        if self.sent:
            raise KeyboardInterrupt
        return super().get(_path)

    def send(self, method: str, path: str, body: Any) -> dict[str, Any]:
        state = "returning" if path.endswith("/abort") else "moving"
        return {**super().send(method, path, body), "state": state, "withinMs": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "beta", "--yes"), "the move goes on: isthmus cluster rehome delta --abort takes it back"),
        (("--abort",), "the return goes on: isthmus cluster status delta says how far it is"),
    ],
)
def test_ctrl_c_ends_the_watching_and_says_what_goes_on(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Interrupted(answer("returning"))
    monkeypatch.setattr("federation.cli.rehome_command.Session", lambda _directory: controller)
    outcome = CliRunner().invoke(rehome, ["delta", *arguments])
    assert said in outcome.output.splitlines()

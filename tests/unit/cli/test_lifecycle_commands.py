"""How long `isthmus cluster drain` watches: to the last step and through its time, or until the drain is given up."""

from typing import Any

import pytest

from federation.cli import lifecycle_commands
from federation.cli.lifecycle_commands import _watch, print_drain
from federation.cli.main import main
from federation.kernel.errors import IsthmusError, NotFoundError, PreconditionError, UnavailableError


def drain(
    share_percent: int, state: str = "draining", reason: str = "", *, left_ms: int = 0, began: int = 7
) -> dict[str, Any]:
    return {
        "cluster": "beta",
        "state": state,
        "sharePercent": share_percent,
        "everyMs": 0,
        "watchedLeftMs": left_ms,
        "startedUnixMs": began,
        "reason": reason,
    }


class Answers:
    """A session whose answers the test gives; the last one stays."""

    def __init__(self, *answers: dict[str, Any] | IsthmusError) -> None:
        self.left = list(answers)

    def get(self, _path: str) -> dict[str, Any]:
        answer = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if isinstance(answer, IsthmusError):
            raise answer
        return answer


WATCHED = drain(0, "drained", left_ms=59_001)
DONE, GIVEN_UP = drain(0, "drained"), drain(100, "rolled back", "why")


@pytest.mark.parametrize(
    ("first", "answers", "last"),
    [
        pytest.param(drain(100), [DONE], DONE, id="to-the-last-step"),
        pytest.param(drain(50), [UnavailableError("no leader"), DONE], DONE, id="whoever-does-not-answer-is-asked-again"),
        pytest.param(drain(50), [GIVEN_UP], GIVEN_UP, id="until-it-is-given-up"),
        pytest.param(drain(50), [WATCHED, GIVEN_UP], GIVEN_UP, id="errors-end-it-for-a-while-after-the-last-step"),
        pytest.param(drain(50), [WATCHED, DONE], DONE, id="and-no-longer"),
        pytest.param(WATCHED, [GIVEN_UP], GIVEN_UP, id="who-repeats-the-command-after-the-last-step-watches-too"),
        pytest.param(drain(50), [drain(100, "rolled back", "why", began=6), DONE], DONE, id="an-earlier-one-is-not-it"),
        pytest.param(DONE, [GIVEN_UP], DONE, id="what-was-drained-before-is-not-watched"),
    ],
)  # fmt: skip
def test_the_command_returns_when_it_is_known_what_came_of_the_drain(first, answers, last, capsys):
    session: Any = Answers(*answers)
    assert _watch(session, "path", first) == last
    assert f"beta: {last['sharePercent']}%" in capsys.readouterr().err


def test_a_drain_that_somebody_else_ends_is_told_as_what_it_is():
    session: Any = Answers(drain(50), NotFoundError("cluster beta is not drained"))
    with pytest.raises(PreconditionError, match="ended by somebody else"):
        _watch(session, "path", drain(100))


def test_a_drain_that_somebody_else_began_anew_is_not_taken_for_the_one_that_is_watched():
    session: Any = Answers(drain(100, began=8))
    with pytest.raises(PreconditionError, match="ended by somebody else, and another one began"):
        _watch(session, "path", drain(50))


def test_after_the_last_step_it_says_for_how_long_it_waits(capsys):
    session: Any = Answers(WATCHED, GIVEN_UP)
    _watch(session, "path", drain(50))
    assert "beta: 0% (drained), watched for errors for 60 s\n" in capsys.readouterr().err
    _watch(session, "path", DONE)
    assert "beta: 0% (drained)\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shown", "said"), [(None, ""), (DONE, ""), (GIVEN_UP, "its drain was rolled back: why\n")]
)
def test_a_status_says_why_a_drain_was_given_up(shown, said, capsys):
    print_drain(shown)
    assert capsys.readouterr().out == said


def test_ctrl_c_ends_the_watching_and_says_that_the_drain_goes_on(monkeypatch, capsys):
    class Interrupted(Answers):
        def __init__(self, _context_directory: str) -> None:
            super().__init__()

        def send(self, _method: str, _path: str, _value: object) -> dict[str, Any]:
            return drain(75)

        def get(self, _path: str) -> dict[str, Any]:
            raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle_commands, "Session", Interrupted)
    monkeypatch.setattr("sys.argv", ["isthmus", "cluster", "drain", "beta"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "beta: 75% (draining)",
        "the drain goes on: isthmus cluster undrain beta takes it back",
    ]

"""`isthmus chaos`: the scenarios that there are, and no other."""

import pytest

from chaos.run import list_scenarios
from federation.cli.main import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["isthmus", "chaos", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_every_scenario_is_listed_with_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "list") in (0, None)

    head, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["SCENARIO", "NEEDS", "WHAT", "HAPPENS"]
    assert [(row[0], row[1] == "root") for row in rows] == [
        (name, root) for name, root, _ in list_scenarios()
    ]


def test_a_scenario_that_there_is_not_is_answered_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "run", "comet") == 2

    message = capsys.readouterr().err
    assert "comet" in message
    assert all(name in message for name, _, _ in list_scenarios())

"""A seed that fails leaves what a person needs: the one command that runs it again, the faults, the history."""

import shlex
from pathlib import Path

import msgspec
import pytest

from tests.simulation import replay
from tests.simulation.planted import BUGS
from tests.simulation.report import explain
from tests.simulation.world import Outcome, run

BUG = BUGS["reads without barrier"]


@pytest.fixture(scope="module")
def failed() -> Outcome:
    for seed in range(BUG.seeds):
        outcome = run(BUG.plan, seed, parts=BUG.parts, world=BUG.world)
        if outcome.violation is not None:
            return outcome
    raise AssertionError(f"{BUG.seeds} seeds held")


def test_a_failing_seed_leaves_its_history_its_faults_and_the_command(
    failed: Outcome, tmp_path: Path
) -> None:
    told = explain(failed, tmp_path / "build")

    stem = tmp_path / "build" / f"{failed.name}-{failed.seed}"
    assert str(failed.violation) in told
    assert f"python -m tests.simulation.replay {failed.name} {failed.seed}\n" in told
    assert str(failed.violation) in stem.with_suffix(".txt").read_text()
    lines = stem.with_suffix(".jsonl").read_text().splitlines()
    assert len([msgspec.json.decode(line) for line in lines]) >= len(failed.history) > 0
    assert stem.with_suffix(".edn").stat().st_size > 0


def test_the_command_runs_the_same_seed_again(
    failed: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The planted bug apart: the engine as it is holds, by the same course each time."""
    (command,) = (line for line in explain(failed, tmp_path).splitlines() if "replay:" in line)
    monkeypatch.setattr("sys.argv", shlex.split(command.partition("-m ")[2]))
    said = []
    for _ in range(2):
        assert replay.main() == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].startswith(f"{failed.name} {failed.seed}: held")

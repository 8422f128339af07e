"""What a failing seed leaves for people: the command that replays it, the faults, the history."""

from pathlib import Path

from tests.simulation.history import write_edn, write_json_lines
from tests.simulation.world import Outcome


def replay_command(outcome: Outcome) -> str:
    """Return the one command that runs the same again."""
    return f".venv/bin/python -m tests.simulation.replay {outcome.name} {outcome.seed}"


def explain(outcome: Outcome, folder: Path) -> str:
    """Write the history beside the faults and return what to print."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{outcome.name}-{outcome.seed}"
    write_json_lines(stem.with_suffix(".jsonl"), outcome.history)
    write_edn(stem.with_suffix(".edn"), outcome.history)
    stem.with_suffix(".txt").write_text(
        "\n".join([str(outcome.violation), repr(outcome.plan), *outcome.faults, ""])
    )
    return (
        f"simulation {outcome.name} {outcome.seed}: {outcome.violation}\n"
        f"    replay:  {replay_command(outcome)}\n"
        f"    history: {stem}.jsonl, .edn; faults: {stem}.txt"
    )

"""The simulation notices bugs: each planted one turns a seed red, under a rule that names it."""

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.scripts import (
    AnswerToACopyLost,
    AnswerToAFormerProcess,
    FullWhileCutBack,
    KilledBeforeTheSync,
    LateAnswers,
    Script,
    SuccessorThatNobodyReaches,
    TwoCandidates,
)
from tests.simulation.world import run

SCRIPTS = [
    LateAnswers,
    KilledBeforeTheSync,
    TwoCandidates,
    AnswerToAFormerProcess,
    AnswerToACopyLost,
    FullWhileCutBack,
    SuccessorThatNobodyReaches,
]


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_noticed(name: str) -> None:
    bug = BUGS[name]
    for seed in range(bug.seeds):
        outcome = run(bug.plan, seed, parts=bug.parts, world=bug.world)
        if outcome.violation is not None:
            assert outcome.violation.rule in bug.rules, outcome.violation
            return
    pytest.fail(f"{bug.seeds} seeds of {bug.plan} held although the engine {name}")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_engine_holds_in_each_script(script: type[Script], seed: int) -> None:
    assert run("elections", seed, world=script).violation is None

"""The federation's simulation notices bugs: each planted one turns a seed red, under a rule that names it."""

import pytest

from tests.simulation.federation.planted import BUGS
from tests.simulation.federation.world import run


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_federation_bug_is_noticed(name: str) -> None:
    bug = BUGS[name]
    for seed in range(bug.first, bug.first + bug.seeds):
        outcome = run(seed, bug.parts)
        if outcome.violation is not None:
            assert outcome.violation.rule in bug.rules, outcome.violation
            return
    pytest.fail(f"{bug.seeds} seeds held although the federation {name}")

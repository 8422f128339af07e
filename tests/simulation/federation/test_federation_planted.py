"""The federation's simulation notices bugs: each planted one turns a seed red, under a rule that names it."""

from collections.abc import Iterator
from itertools import count, islice

import pytest

from tests.simulation.federation.plan import draw_plan
from tests.simulation.federation.planted import BUGS, Bug
from tests.simulation.federation.world import run


def seeds_of(bug: Bug) -> Iterator[int]:
    """The seeds within which a bug must show."""
    fitting = (seed for seed in count(bug.first) if bug.fits(draw_plan(seed)))
    return islice(fitting, bug.seeds)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_federation_bug_is_noticed(name: str) -> None:
    bug = BUGS[name]
    for seed in seeds_of(bug):
        outcome = run(seed, bug.parts)
        if outcome.violation is not None:
            assert outcome.violation.rule in bug.rules, outcome.violation
            return
    pytest.fail(f"{bug.seeds} seeds held although the federation {name}")

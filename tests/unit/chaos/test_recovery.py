"""Who leads is what a majority of the controllers that run say."""

import pytest

from chaos.lab.asking import ControllerFacts
from chaos.lab.recovery import leader_of

SILENT = ControllerFacts()


def naming(leader: str) -> ControllerFacts:
    return ControllerFacts(answers=True, ready=True, leader=leader)


@pytest.mark.parametrize(
    ("facts", "leader"),
    [
        pytest.param([], "", id="no-controller-runs"),
        pytest.param([SILENT, SILENT, SILENT], "", id="nobody-answers"),
        pytest.param([naming("alpha")] * 3, "alpha", id="all-agree"),
        pytest.param([naming("alpha"), naming("alpha"), SILENT], "alpha", id="two-of-three"),
        pytest.param([naming("alpha"), naming("beta"), naming("")], "", id="no-majority"),
        pytest.param([naming("alpha"), naming("beta")], "", id="half-is-no-majority"),
        pytest.param([naming("beta"), naming("beta")], "beta", id="both-survivors"),
    ],
)
def test_the_leader_is_named_by_a_majority_of_those_that_run(
    facts: list[ControllerFacts], leader: str
) -> None:
    assert leader_of({str(number): one for number, one in enumerate(facts)}) == leader

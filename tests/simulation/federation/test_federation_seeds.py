"""Seeds of the federation's simulation: five clusters under faults, checked after every event."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.simulation.federation.plan import draw_plan
from tests.simulation.federation.replay import explain
from tests.simulation.federation.world import Outcome, run

CORPUS = Path(__file__).with_name("corpus.txt")
SEEDS = 100  # `make sim` runs more.
BATCH = 10
MOVING_SEEDS = [seed for seed in range(30) if draw_plan(seed).remote]  # A remote cluster has a home.


@cache
def outcome_of(seed: int) -> Outcome:
    """Run a seed; that it is the same run each time is a test of its own."""
    return run(seed)


def remembered() -> list[int]:
    lines = CORPUS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_every_rule_holds_in_seeds_from(first: int) -> None:
    for seed in range(first, first + BATCH):
        outcome = outcome_of(seed)
        assert outcome.violation is None, explain(outcome)
        assert outcome.checked > 100


@pytest.mark.parametrize("seed", remembered())
def test_a_seed_that_once_failed_holds(seed: int) -> None:
    outcome = outcome_of(seed)
    assert outcome.violation is None, explain(outcome)


def test_the_seeds_meet_verdicts_faults_of_each_kind_and_enough_changes() -> None:
    outcomes = [outcome_of(seed) for seed in range(BATCH)]
    assert sum(outcome.dead for outcome in outcomes) > 0
    assert sum(outcome.unhealthy for outcome in outcomes) > 0
    met = {fault.split()[1] for outcome in outcomes for fault in outcome.faults}
    assert len(met) >= 12
    assert met >= {"drain", "undrain", "callers_fail", "removed", "joined", "old_self"}
    assert met >= {f"outside_{fault}" for fault in ("die", "lose_the_way", "lose_all_ways", "go_dark", "lie")}
    assert all(outcome.revision > 40 for outcome in outcomes)


def test_the_seeds_meet_moves_that_end_at_the_new_home_and_at_the_old_one() -> None:
    outcomes = [outcome_of(seed) for seed in MOVING_SEEDS]
    assert sum(outcome.moved for outcome in outcomes) > 0
    assert sum(outcome.returned for outcome in outcomes) > 0
    assert {fault.split()[1] for outcome in outcomes for fault in outcome.faults} >= {"move", "take_back"}


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """The order of a set of names differs with each process, that of tasks with their places in memory."""
    traces = set()
    for hash_seed in ("0", "5"):
        command = [sys.executable, "-m", "tests.simulation.federation.replay", "46", "49"]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        traces.add(done.stdout)
    assert len(traces) == 1

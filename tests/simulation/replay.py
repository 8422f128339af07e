"""Runs seeds of the simulation by hand.

python -m tests.simulation.replay PLAN SEED [LAST]     one seed, or all up to LAST, in this process
python -m tests.simulation.replay sweep SEEDS [FIRST]  so many, dealt to all plans, on every core
python -m tests.simulation.replay -v PLAN SEED         one seed with every frame and fault
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from consensus.core.messages import Message
from tests.simulation.checks import Checks
from tests.simulation.plan import PLANS
from tests.simulation.report import explain
from tests.simulation.world import Outcome, run

FAILURES = Path("build/simulation")
SHOWN_MAX = 5
TOLD_EVERY = 250
CHUNK = 10  # Seeds handed to a process at a time.


def main() -> int:
    """Run what the arguments say; 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.replay")
    parser.add_argument("plan", choices=[*PLANS, "sweep"])
    parser.add_argument("seed", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("-v", "--verbose", action="store_true")
    arguments = parser.parse_args()
    if arguments.plan == "sweep":
        return sweep(arguments.seed, first=arguments.last or 0)
    failed = 0
    for seed in range(arguments.seed, (arguments.last or arguments.seed) + 1):
        outcome = _told(arguments.plan, seed) if arguments.verbose else run(arguments.plan, seed)
        print(_line(outcome))
        if outcome.violation is not None:
            failed += 1
            print(explain(outcome, FAILURES))
    return 1 if failed else 0


def sweep(seeds: int, *, first: int) -> int:
    """Run `seeds` seeds, shared evenly among the plans from seed `first` on, on every core."""
    jobs = [(name, first + number // len(PLANS)) for number, name in _deal(seeds)]
    began_s = time.monotonic()
    done = failed = acknowledged = 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for commands, failure in pool.imap_unordered(_run, jobs, chunksize=CHUNK):
            done += 1
            acknowledged += commands
            if failure:
                failed += 1
                if failed <= SHOWN_MAX:
                    print(failure, flush=True)
            if done % TOLD_EVERY == 0:
                print(f"{done} of {len(jobs)} seeds, {failed} failed", flush=True)
    print(
        f"{done} seeds, {acknowledged} acknowledged commands, {failed} failed,"
        f" {time.monotonic() - began_s:.0f} s"
    )
    return 1 if failed else 0


def _deal(seeds: int) -> Iterator[tuple[int, str]]:
    names = list(PLANS)
    return ((number, names[number % len(names)]) for number in range(seeds))


def _run(job: tuple[str, int]) -> tuple[int, str]:
    """Return how many commands were acknowledged, and the explanation of a failure or nothing."""
    outcome = run(*job)
    return outcome.acknowledged, "" if outcome.violation is None else explain(outcome, FAILURES)


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.name} {outcome.seed}: {'FAILED' if outcome.violation else 'held'},"
        f" {outcome.plan.voters} members, {outcome.acknowledged} acknowledged, {outcome.leaders} leaders,"
        f" {outcome.frames} frames, {outcome.seconds:.1f} s of virtual time, trace {outcome.trace}"
    )


class _Telling(Checks):
    """Prints each frame as it leaves."""

    def sent(self, sender: str, to: str, message: Message) -> None:
        print(f"{sender:>8} -> {to:8} {str(message)[:160]}")
        super().sent(sender, to, message)


def _told(name: str, seed: int) -> Outcome:
    outcome = run(name, seed, checks=_Telling())
    print("\n".join(outcome.faults))
    return outcome


if __name__ == "__main__":
    sys.exit(main())

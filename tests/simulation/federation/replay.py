"""Runs seeds of the federation's simulation by hand.

python -m tests.simulation.federation.replay SEED [LAST]          one seed, or all up to LAST, in this process
python -m tests.simulation.federation.replay sweep SEEDS [FIRST]  so many, on every core
"""

import argparse
import multiprocessing
import os
import sys
import time

from tests.simulation.federation.world import Outcome, run

SHOWN_MAX = 5
CHUNK = 5  # Seeds handed to a process at a time.


def main() -> int:
    """Run what the arguments say; 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.federation.replay")
    parser.add_argument("seed", help="a seed, or sweep")
    parser.add_argument("number", type=int, nargs="?", help="the last seed; of a sweep how many")
    parser.add_argument("first", type=int, nargs="?", default=0, help="of a sweep its first seed")
    arguments = parser.parse_args()
    if arguments.seed == "sweep":
        return sweep(arguments.number or 100, first=arguments.first)
    failed = 0
    first = int(arguments.seed)
    for seed in range(first, (arguments.number or first) + 1):
        outcome = run(seed)
        print(line(outcome))
        if outcome.violation is not None:
            failed += 1
            print(explain(outcome))
    return 1 if failed else 0


def sweep(seeds: int, *, first: int) -> int:
    """Run `seeds` seeds from `first` on, on every core."""
    began_s = time.monotonic()
    failed = 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for failure in pool.imap_unordered(_run, range(first, first + seeds), chunksize=CHUNK):
            failed += bool(failure)
            if failure and failed <= SHOWN_MAX:
                print(failure, flush=True)
    print(f"{seeds} seeds of the federation, {failed} failed, {time.monotonic() - began_s:.0f} s")
    return 1 if failed else 0


def line(outcome: Outcome) -> str:
    """Return what a run came to."""
    return (
        f"{outcome.seed}: {'FAILED' if outcome.violation else 'held'}, {outcome.entries} entries,"
        f" {outcome.checked} checks, {len(outcome.faults)} faults, {outcome.seconds:.1f} s of virtual time,"
        f" trace {outcome.trace}"
    )


def explain(outcome: Outcome) -> str:
    """Return what a failing seed leaves for people, the command that runs it again first."""
    return "\n".join(
        [
            f"federation {outcome.seed}: {outcome.violation}",
            f"    replay: .venv/bin/python -m tests.simulation.federation.replay {outcome.seed}",
            f"    {outcome.plan}",
            *(f"    {fault}" for fault in outcome.faults),
        ]
    )


def _run(seed: int) -> str:
    outcome = run(seed)
    return "" if outcome.violation is None else explain(outcome)


if __name__ == "__main__":
    sys.exit(main())

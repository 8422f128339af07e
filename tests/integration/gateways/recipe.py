"""How the numbers of `gateways.core.clusters` were found: deaths under load, measured for variants of them.

    python -m tests.integration.gateways.recipe [--variant NAME ...] [--fault NAME ...] [--rounds N] [--busy N]

Prints a line of figures for each variant and fault: of each round the GETs that failed, the slowest one, and how
long after the fault the first one was answered from elsewhere, the last one was slow, retried or failed, and the
last one was retried; then how many were retried. `test_failover` drives the same rig with the numbers as they are.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gateways.core import clusters, routes
from tests.integration.gateways.rig import FAULTS, Load, Rig, Round, strike
from tests.support.loopback import claim_block

BUSY_S_MAX = 290

# What each variant changes of the two modules' numbers.
VARIANTS: dict[str, dict[str, Any]] = {
    "as-is": {},
    "former": {
        "KEEPALIVE_INTERVAL_MS": 1_000,
        "FAR_KEEPALIVE_INTERVAL_MS": 1_000,
        "FAR_CONNECT_TIMEOUT_MS": 500,
        "EJECTION_MS": 1_000,
        "EJECTION_MAX_MS": 3_000,
        "GATEWAY_EJECTION_MS": 1_000,
    },
    "400/400": {
        "KEEPALIVE_INTERVAL_MS": 400,
        "FAR_KEEPALIVE_INTERVAL_MS": 400,
        "KEEPALIVE_TIMEOUT_MS": 400,
    },
    "500/400": {
        "KEEPALIVE_INTERVAL_MS": 500,
        "FAR_KEEPALIVE_INTERVAL_MS": 500,
        "KEEPALIVE_TIMEOUT_MS": 400,
    },
    "250/600": {
        "KEEPALIVE_INTERVAL_MS": 250,
        "FAR_KEEPALIVE_INTERVAL_MS": 250,
        "KEEPALIVE_TIMEOUT_MS": 600,
    },
    "far-250/500": {"FAR_KEEPALIVE_INTERVAL_MS": 250},
    "one-failure": {"LOCAL_FAILURES_TO_EJECT": 1},
    "interval-250": {"OUTLIER_INTERVAL_MS": 250},
    "health-1s": {"HEALTH_INTERVAL_MS": 1_000},
    "connect-500": {"FAR_CONNECT_TIMEOUT_MS": 500},
}


def use(variant: Mapping[str, Any]) -> dict[str, Any]:
    """Set numbers of the two modules; return what they were."""
    former = {}
    for name, value in variant.items():
        module = clusters if hasattr(clusters, name) else routes
        former[name] = getattr(module, name)
        setattr(module, name, value)
    return former


@contextmanager
def outside_load(count: int) -> Iterator[None]:
    """So many processes beside us that do nothing but take the processor."""
    code = f"import time; end = time.monotonic() + {BUSY_S_MAX}\nwhile time.monotonic() < end: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


async def measure(variants: Iterable[str], faults: Iterable[str], rounds: int) -> None:
    """Print a line for each variant and fault."""
    with tempfile.TemporaryDirectory(prefix="recipe-") as folder, claim_block() as block:
        rig = Rig(Path(folder), block)
        async with (
            rig.running() as mesh,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            load = Load(rig.members["alpha/web"], session)
            for variant in variants:
                former = use(VARIANTS[variant])
                for fault in faults:
                    found = [await strike(rig, mesh, FAULTS[fault], load) for _ in range(rounds)]
                    print(line(variant, fault, found), flush=True)
                use(former)


def line(variant: str, fault: str, rounds: list[Round]) -> str:
    """The figures of one variant and fault, each round's side by side."""
    windows = [each.window for each in rounds]
    columns = {
        "failed": [each.failed for each in windows],
        "worst": [round(each.worst_ms) for each in windows],
        "moved": [round(each.moved_ms) for each in rounds],
        "disturbed": [round(each.disturbed_ms) for each in windows],
        "retried-until": [round(each.retried_ms) for each in windows],
        "retried": [each.retried for each in windows],
        "retries": [each.retries for each in rounds],
        "posts-failed": [each.posts_failed for each in rounds],
    }
    text = " ".join(f"{name}={'/'.join(map(str, values))}" for name, values in columns.items())
    errors = sorted({error for each in rounds for error in each.errors})[:4]
    return f"{variant:10} {fault:20} n={sum(each.requests for each in windows)} {text} {errors or ''}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=["as-is"])
    parser.add_argument("--fault", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0)
    found = parser.parse_args()
    with outside_load(found.busy):
        asyncio.run(measure(found.variant, found.fault, found.rounds))


if __name__ == "__main__":
    sys.exit(main())

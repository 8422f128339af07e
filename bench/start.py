"""How long a controller takes to start, by the size of its catalog."""

import asyncio
import sys
import time
from pathlib import Path

from msgspec.structs import replace

from bench.asking import readiness
from bench.catalogs import fill
from bench.machine import Memory, memory_of
from bench.memory import figures_of
from bench.records import Measured, of_rounds
from bench.session import Session
from chaos.lab.configs import controller_config
from chaos.lab.guardian import Guardian, environment_of
from chaos.lab.loopback import LoopbackBlock
from chaos.lab.processes import LabError, LabProcess
from chaos.lab.topology import ClusterPlan, demo_topology
from federation.app.config import ControllerConfig
from federation.app.founding import found
from federation.kernel.configfile import decode_config

TITLE = "Controller start"
ROUNDS = 5
SIZES = (10, 10_000)
TIMEOUT_S = 60.0
SETTLE_S = 1.0  # Between readiness and the look at its memory.
_POLL_S = 0.005
METHOD = f"""
A controller of a federation of one, whose log holds so many endpoints (ten for each service), published by the
commands that publishers use. From the start of the process `isthmus controller run` until `/readyz` answers 200: the
interpreter and its imports, keys, replay of the journal, and all ports open. Asked every {_POLL_S * 1000:g} ms. The
file cache is warm. Sizes take turns. Memory is read {SETTLE_S:g} s after readiness.
"""


def measure(session: Session) -> Measured:
    """Start each ROUNDS times."""
    directory = session.directory / "start"
    guardian = Guardian(directory)
    guardian.start()
    try:
        processes = {size: _prepare(session, directory / str(size), size) for size in SIZES}
        took: dict[int, list[float]] = {size: [] for size in SIZES}
        held: dict[int, list[Memory]] = {size: [] for size in SIZES}
        for number in range(ROUNDS):
            session.say(f"start: round {number + 1} of {ROUNDS}")
            for size, (process, host) in processes.items():
                took[size].append(_start(process, host) * 1000)
                time.sleep(SETTLE_S)
                if not process.running():
                    raise LabError(f"{process.name} ended after it was ready:\n{process.tail()}")
                held[size].append(memory_of(process.pid))
                process.kill()
    finally:
        guardian.close()
    small, large = SIZES
    first = of_rounds(f"start with {small:,} endpoints", took[small], "ms")
    second = of_rounds(
        f"start with {large:,} endpoints", took[large], "ms", beside=took[small], ratio_to=first.name
    )
    memories = [
        figure for size in SIZES for figure in figures_of(f"controller with {size:,} endpoints", held[size])
    ]
    return Measured(figures=(first, second, *memories))


def _prepare(session: Session, directory: Path, size: int) -> tuple[LabProcess, str]:
    """Found a federation with `size` endpoints; return its controller, which does not run yet, and its host."""
    session.say(f"start: founding a federation with {size:,} endpoints")
    block = session.claim_block()
    plan = _plan(block)
    directory.mkdir(parents=True)
    config_path = directory / "controller.toml"
    config_path.write_text(controller_config(plan, directory / "data"))
    config = decode_config(config_path.read_text(), ControllerConfig, path=str(config_path))
    asyncio.run(found(config, name="bench", root_export=None, export_passphrase=b""))
    asyncio.run(fill(config, size, address=block.host(200)))
    command = [sys.executable, "-m", "federation.cli.main", "controller", "run", "--config", str(config_path)]
    process = LabProcess(
        f"controller-{size}",
        command,
        directory / "controller.log",
        environment=environment_of(session.directory / "start"),
    )
    return process, plan.controller


def _plan(block: LoopbackBlock) -> ClusterPlan:
    return replace(demo_topology(block.prefix)[0], cidr=f"{block.prefix}.0/24")


def _start(process: LabProcess, host: str) -> float:
    """Start it and return the seconds until it is ready."""
    began_s = time.perf_counter()
    process.start()
    while not readiness(host).ready:
        if not process.running() or time.perf_counter() - began_s > TIMEOUT_S:
            raise LabError(f"{process.name} is not ready:\n{process.tail()}")
        time.sleep(_POLL_S)
    return time.perf_counter() - began_s

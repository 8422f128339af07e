"""A member in a process of its own, which writes without pause and notes what was acknowledged.

Arguments: directory of the cluster, id, all members as JSON, file for acknowledged commands. KILL_AT in the
environment names the file operation in front of which it kills itself.
"""

import asyncio
import itertools
import os
import resource
import sys
from pathlib import Path

import msgspec

from consensus.core.contract import MemberAddress
from consensus.core.timing import Timing
from consensus.runtime.disk import FILE_DISK
from consensus.runtime.embedded import EmbeddedEngine
from federation.kernel.errors import IsthmusError
from tests.integration.consensus.cluster import FEDERATION, Journalled
from tests.integration.consensus.disks import KillingDisk
from tests.integration.consensus.pki import FileSecurity

WRITERS = 8
SNAPSHOT_AFTER_BYTES = 60_000


async def write(engine: EmbeddedEngine, prefix: str, log: int) -> None:
    for number in itertools.count():
        command = f"{prefix}/{number}".encode()
        try:
            await engine.propose(command, timeout_ms=3_000)
        except IsthmusError:
            await asyncio.sleep(0.02)
        else:
            os.write(log, command + b"\n")


async def main(directory: Path, name: str, members: tuple[MemberAddress, ...], acknowledged: Path) -> None:
    me = next(member for member in members if member.id == name)
    engine = EmbeddedEngine(
        me,
        directory=directory / name,
        machine=Journalled(),
        bootstrap=members,
        security=FileSecurity(directory / "pki" / f"{name}.pem", directory / "pki" / "root.pem"),
        federation=FEDERATION,
        timing=Timing(round_trip_ms=1),
        snapshot_after_bytes=SNAPSHOT_AFTER_BYTES,
        disk=KillingDisk(point) if (point := os.environ.get("KILL_AT")) else FILE_DISK,
    )
    log = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        await engine.ready.wait()
        print("ready", flush=True)
        for writer in range(WRITERS):
            tasks.create_task(write(engine, f"{name}/{os.getpid()}/{writer}", log))


if __name__ == "__main__":
    if limit := os.environ.get("FILE_BYTES_MAX"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    asyncio.run(
        main(
            Path(sys.argv[1]),
            sys.argv[2],
            msgspec.json.decode(sys.argv[3], type=tuple[MemberAddress, ...]),
            Path(sys.argv[4]),
        )
    )

"""Members in processes of their own that are killed and frozen while they write; then: is everything there?

`python -m tests.integration.consensus.crash_loop --seconds 600 --seed 7` is the long version of what
`make test` does for some seconds: `make crash`.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from consensus.core.contract import MemberAddress
from tests.integration.consensus.cluster import fresh_addresses, running_cluster
from tests.integration.consensus.pki import TestCa
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually, eventually_async

FOUNDERS = ("alpha", "beta", "gamma")
MODULE = "tests.integration.consensus.member_process"
REPOSITORY = Path(__file__).parents[3]
# The state machine remembers all of them, and a snapshot waits until the log has grown by half of it: with more, the
# files of a snapshot would seldom be made, and so seldom be killed in.
COMMANDS_MAX = 20_000
FROZEN_S_MAX = 4.0  # Longer than a leader stays in office without answers.
# Every way in which the files of a snapshot and of a shortened journal come to be.
KILL_POINTS = (
    "create snapshot.new",
    "write snapshot.new",
    "sync snapshot.new",
    "rename snapshot.new",
    "renamed snapshot.new",
    "write journal.new",
    "sync journal.new",
    "rename journal.new",
    "renamed journal.new",
    "write journal",
    "sync journal",
)


class Members:
    """The founders' processes, and what they were told is done."""

    def __init__(self, directory: Path, processes: ProcessSet) -> None:
        self.directory = directory
        self.addresses = fresh_addresses(*FOUNDERS)
        self.ca = prepare(directory, self.addresses)
        self.running: dict[str, Process] = {}
        self._processes = processes
        self._starts = Counter[str]()

    def start(self, name: str, prefix: tuple[str, ...] = (), **env: str) -> Process:
        """Start a member; `prefix` is a command that runs it."""
        self._starts[name] += 1
        arguments = [
            self.directory,
            name,
            msgspec.json.encode(list(self.addresses.values())).decode(),
            self.directory / "acknowledged",
        ]
        process = self._processes.start(
            f"{name}-{self._starts[name]}",
            [*prefix, sys.executable, "-m", MODULE, *arguments],
            cwd=REPOSITORY,
            env=env,
        )
        self.running[name] = process
        return process

    def start_missing(self) -> None:
        """Start every founder that does not run."""
        for name in FOUNDERS:
            if name not in self.running or not self.running[name].running():
                self.start(name)

    def kill(self, *names: str) -> None:
        """Kill members as `kill -9` does."""
        for name in names:
            self.running[name].kill()

    def acknowledged(self) -> list[bytes]:
        """Return the commands whose proposers were told that they are done."""
        path = self.directory / "acknowledged"
        # The last line may be cut by a kill.
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def wait_for_writes(self, more: int) -> None:
        """Return when that many more commands are done; fails when a member ends by itself."""
        before = len(self.acknowledged())

        def enough() -> bool:
            for process in self.running.values():
                if process.exit_code() not in (None, -signal.SIGKILL):
                    process.check_running()
            return len(self.acknowledged()) >= before + more

        eventually(enough, timeout_s=120, message=lambda: f"writes go on\n{self.logs()}")

    def logs(self) -> str:
        """Return the ends of the newest logs."""
        return "\n".join(process.log()[-2_000:] for process in self.running.values())

    def end(self) -> None:
        """Kill everybody."""
        self.kill(*self.running)

    def check(self) -> int:
        """Start all in this process: nothing lost, nothing twice, all equal. Returns how much there is."""
        kept = asyncio.run(self._survivors())
        lost = set(self.acknowledged()) - set(kept)
        assert not lost, f"{len(lost)} acknowledged commands are lost: {sorted(lost)[:5]}"
        assert len(kept) == len(set(kept)), "a command that was proposed once applied twice"
        return len(kept)

    async def _survivors(self) -> list[bytes]:
        async with running_cluster(self.directory, self.addresses, self.ca) as cluster:
            for name in FOUNDERS:
                await cluster.start(name, FOUNDERS)
            await cluster.write(await cluster.leader(), b"end/%d" % time.time_ns())
            machines = [cluster.members[name].machine for name in FOUNDERS]
            await eventually_async(
                lambda: machines[0].commands == machines[1].commands == machines[2].commands,
                timeout_s=60,
                message=lambda: str([member.engine.status() for member in cluster.members.values()]),
            )
            return [command for _index, command in machines[0].commands]


def prepare(directory: Path, addresses: dict[str, MemberAddress]) -> TestCa:
    """Make the certificates."""
    ca = TestCa(directory / "pki")
    for name, member in addresses.items():
        ca.security(member.identity).leaf.rename(directory / "pki" / f"{name}.pem")
    return ca


def freeze(members: Members, name: str, seconds: float) -> None:
    """Stop a process for a while, as a paused machine does."""
    process = members.running[name]
    process.send(signal.SIGSTOP)
    try:
        time.sleep(seconds)  # The fault itself: how long the machine is paused.
    finally:
        process.send(signal.SIGCONT)


def kill_in(members: Members, name: str, point: str) -> None:
    """Restart a member so that it kills itself in front of a file operation, and wait until it has."""
    members.kill(name)
    victim = members.start(name, KILL_AT=point)
    before = len(members.acknowledged())
    eventually(
        lambda: not victim.running(),
        timeout_s=120,
        message=lambda: f"{name} comes to {point!r}, {len(members.acknowledged()) - before} commands later",
    )
    code = victim.exit_code()
    assert code == -signal.SIGKILL, f"{name} ended with {code} and not at {point!r}\n{victim.log()}"


def crash(members: Members, rng: random.Random) -> str:
    """Do one of the bad things, and return its name."""
    name = rng.choice(FOUNDERS)
    fault = rng.choice(["kill one", "kill two", "kill all", "freeze", "kill in"])
    if fault == "kill one":
        members.kill(name)
    elif fault == "kill two":
        members.kill(*rng.sample(FOUNDERS, 2))
    elif fault == "kill all":
        members.kill(*FOUNDERS)
    elif fault == "freeze":
        freeze(members, name, rng.uniform(0.2, FROZEN_S_MAX))
    else:
        fault = rng.choice(KILL_POINTS)
        kill_in(members, name, fault)
    return fault


def main() -> None:
    """Crash for as long as asked, then check, round after round; exit 1 with the seed when something is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    until_s = time.monotonic() + arguments.seconds
    faults: Counter[str] = Counter()
    print(f"seed {arguments.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(ProcessSet(Path(folder) / "logs")) as processes,
    ):
        federations = itertools.count()
        members = Members(Path(folder) / str(next(federations)), processes)
        while time.monotonic() < until_s:
            for _ in range(10):
                members.start_missing()
                members.wait_for_writes(rng.randrange(20, 800))
                faults[crash(members, rng)] += 1
            members.end()
            kept = members.check()
            print(f"{kept} commands, none lost; {dict(faults)}", flush=True)
            if kept > COMMANDS_MAX:
                members = Members(Path(folder) / str(next(federations)), processes)


if __name__ == "__main__":
    main()

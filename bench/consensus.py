"""Latency of durable writes in a log of three members."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench.log_member import Members, Request, prepare
from bench.records import Figure, Measured, of_rounds, quantile
from bench.session import Session
from chaos.lab.guardian import Guardian, environment_of
from chaos.lab.processes import LabError

TITLE = "Log: durable writes of three members"
ROUNDS = 5
COMMAND_BYTES = 256
# In flight, and how many writes a round has: about as long each.
LOADS = {1: 200, 64: 3_000}
SYNCS = 200
METHOD = f"""
The engine of the controllers alone: three members in processes of their own, mutual TLS between them, each with a
journal that is synced (fdatasync) before anything is promised. Commands of {COMMAND_BYTES} bytes are proposed within the leader's process; the clock
stops when the leader has applied the command, which a majority then has on disk. All three journals share one disk and
{os.cpu_count()} cores here. By turns, {ROUNDS} rounds: {SYNCS} times one write of {COMMAND_BYTES} bytes and fdatasync of a bare file on the same
disk; {LOADS[1]} commands with 1 in flight; {LOADS[64]:,} with 64 in flight.
"""
_ANSWER_TIMEOUT_S = 60.0


def measure(session: Session) -> Measured:
    """Run the rounds."""
    directory = session.directory / "consensus"
    guardian = Guardian(directory)
    guardian.start()
    members: list[_Member] = []
    try:
        members = _start(session, directory)
        leader = _leader(members)
        for in_flight, count in LOADS.items():  # Warm up.
            _latencies_ms(leader, in_flight, count // 4)
        synced: list[list[float]] = []
        took: dict[int, list[list[float]]] = {in_flight: [] for in_flight in LOADS}
        rates: dict[int, list[float]] = {in_flight: [] for in_flight in LOADS}
        for number in range(ROUNDS):
            session.say(f"consensus: round {number + 1} of {ROUNDS}")
            synced.append(_bare_syncs_ms(directory / "bare"))
            for in_flight, count in LOADS.items():
                began_s = time.perf_counter()
                took[in_flight].append(_latencies_ms(leader, in_flight, count))
                rates[in_flight].append(count / (time.perf_counter() - began_s))
    finally:
        guardian.close()
        for member in members:
            member.collect()
    return Measured(figures=tuple(_figures(synced, took, rates)))


def _figures(
    synced: list[list[float]], took: dict[int, list[list[float]]], rates: dict[int, list[float]]
) -> list[Figure]:
    bare = [quantile(one, 0.5) for one in synced]
    figures = [of_rounds("bare fdatasync p50", bare, "ms")]
    for in_flight, rounds in took.items():
        p50 = [quantile(one, 0.5) for one in rounds]
        figures += [
            of_rounds(f"{in_flight} in flight, p50", p50, "ms", beside=bare, ratio_to=figures[0].name),
            of_rounds(f"{in_flight} in flight, p99", [quantile(one, 0.99) for one in rounds], "ms"),
            of_rounds(f"{in_flight} in flight, rate", rates[in_flight], "writes/s"),
        ]
    return figures


class _Member:
    """A member's process, asked over pipes."""

    def __init__(self, name: str, directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._log = (directory / f"{name}.log").open("wb")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.log_member", str(directory), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            process_group=0,
        )

    def ask(self, request: Request) -> bytes:
        """Send a request and return the answer's line; raises LabError when the process has ended."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(msgspec.json.encode(request) + b"\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise LabError(f"member {self.name} ended, see {self._log.name}")
        return line

    def collect(self) -> None:
        """Take leave of a process that was ended."""
        self._child.wait(_ANSWER_TIMEOUT_S)
        self._log.close()


def _start(session: Session, directory: Path) -> list[_Member]:
    block = session.claim_block()
    addresses = {name: block.host(number) for number, name in enumerate(("alpha", "beta", "gamma"), start=1)}
    members: Members = prepare(directory, addresses)
    environment = environment_of(directory)
    return [_Member(one.id, directory, environment) for one in members]


def _leader(members: list[_Member]) -> _Member:
    deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
    while time.monotonic() < deadline_s:
        for member in members:
            if msgspec.json.decode(member.ask(Request(kind="role"))) == "leader":
                return member
        time.sleep(0.1)
    raise LabError(f"no member leads within {_ANSWER_TIMEOUT_S:g} s")


def _latencies_ms(leader: _Member, in_flight: int, count: int) -> list[float]:
    request = Request(kind="write", in_flight=in_flight, count=count, command_bytes=COMMAND_BYTES)
    return msgspec.json.decode(leader.ask(request), type=list[float])


def _bare_syncs_ms(path: Path) -> list[float]:
    took = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNCS):
            began_s = time.perf_counter()
            os.write(file, b"x" * COMMAND_BYTES)
            os.fdatasync(file)
            took.append((time.perf_counter() - began_s) * 1000)
    finally:
        os.close(file)
    return took

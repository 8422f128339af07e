"""What an answered DNS query costs in CPU time, beside a plain echo."""

import random
import socket
import sys

import dns.message

from bench.dns_process import NAMESPACE, READY, service_name
from bench.machine import cpu_s
from bench.records import Measured, of_rounds
from bench.session import Session
from chaos.lab.guardian import Guardian, environment_of
from chaos.lab.processes import LabError, LabProcess, wait_until
from chaos.lab.topology import DNS_PORT

TITLE = "DNS: CPU per answered query over UDP"
ROUNDS = 10
QUERIES = 20_000  # Each round, each side.
SERVICES = 1_000
OUTSTANDING = 16
_START_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 5.0
METHOD = f"""
The UDP loop of `isthmus dns` with a zone of {SERVICES:,} services, beside a loop of `recvfrom` and `sendto` in the same
Python that sends each packet back: the floor of any such loop in plain Python. Each is a process of its own; rounds take
turns, {QUERIES:,} queries for A records each, {OUTSTANDING} outstanding, from one socket; every answer is checked (id, rcode, that there is one).
CPU time is that of the answering process, user and system, by its own CPU clock. The ratio is the median of the ratios by
round.
"""
_ADDRESSES = {"echo": 1, "isthmus": 2}


def measure(session: Session) -> Measured:
    """Run the rounds by turns."""
    block = session.claim_block()
    directory = session.directory / "dns"
    queries = _queries()
    took: dict[str, list[float]] = {kind: [] for kind in _ADDRESSES}
    processes: dict[str, LabProcess] = {}
    guardian = Guardian(directory)
    guardian.start()
    try:
        for kind, number in _ADDRESSES.items():
            command = [sys.executable, "-m", "bench.dns_process", kind, block.host(number), str(DNS_PORT)]
            processes[kind] = LabProcess(
                kind,
                [*command, str(SERVICES)],
                directory / f"{kind}.log",
                environment=environment_of(directory),
            )
            processes[kind].start()
        for kind, process in processes.items():
            wait_until(lambda process=process: process.logged(READY), f"{kind} is ready", _START_TIMEOUT_S)
        for turn in range(ROUNDS + 1):
            for kind, process in processes.items():
                address = (block.host(_ADDRESSES[kind]), DNS_PORT)
                before_s = cpu_s(process.pid)
                _ask(address, queries, answered=kind == "isthmus")
                if turn:  # The first round warms up.
                    took[kind].append((cpu_s(process.pid) - before_s) / QUERIES * 1e6)
    finally:
        guardian.close()
        for process in processes.values():
            process.kill()  # Collects what the guardian killed.
    echo = of_rounds("echo in Python", took["echo"], "us of CPU")
    ours = of_rounds("isthmus dns", took["isthmus"], "us of CPU", beside=took["echo"], ratio_to=echo.name)
    return Measured(figures=(ours, echo))


def _queries() -> list[bytes]:
    """Return a round's queries without their first two bytes, the id."""
    names = [f"{service_name(number)}.{NAMESPACE}.svc.clusterset.local." for number in range(SERVICES)]
    packets = [dns.message.make_query(name, "A").to_wire()[2:] for name in names]
    order = random.Random(1)
    return [order.choice(packets) for _ in range(QUERIES)]


def _ask(address: tuple[str, int], queries: list[bytes], *, answered: bool) -> None:
    """Send the queries, a few outstanding at a time, and check what comes back; raises LabError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_ANSWER_TIMEOUT_S)
        client.connect(address)
        for first in range(0, len(queries), OUTSTANDING):
            batch = queries[first : first + OUTSTANDING]
            missing = set(range(first, first + len(batch)))
            for number, query in enumerate(batch, start=first):
                client.send(number.to_bytes(2, "big") + query)
            while missing:
                try:
                    reply = client.recv(4096)
                except TimeoutError as error:
                    raise LabError(f"{len(missing)} queries got no answer from {address[0]}") from error
                _check(reply, answered=answered)
                missing.remove(int.from_bytes(reply[:2], "big"))


def _check(reply: bytes, *, answered: bool) -> None:
    """A response with rcode 0 and at least one answer; an echo is what was sent."""
    flags, rcode, answers = reply[2], reply[3] & 0x0F, int.from_bytes(reply[6:8], "big")
    if answered and (not flags & 0x80 or rcode or not answers):
        raise LabError(
            f"reply with flags {flags:#x}, rcode {rcode} and {answers} answers, expected an answer"
        )

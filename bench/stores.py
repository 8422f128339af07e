"""The stores under comparison, three members of each, and the process that writes to them."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.log_member import CLIENT_PORT, KEYS_DIRECTORY, TIMING, prepare
from bench.machine import Memory, cpu_s, memory_of
from bench.store_keys import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from bench.writer import FindLeader, Request
from chaos.lab.processes import LabError, LabProcess
from chaos.lab.tools import tool

NAMES = ("alpha", "beta", "gamma")
# The words that figures of each store begin with: its key in a table of stores.
OURS, ETCD = "", "etcd, "
# Two more of ours: a server that keeps nothing, and members whose state machine is the catalog.
ALONE, CATALOGS = "answered at once, ", "catalog, "
START_TIMEOUT_S = 60.0
_PEER_PORT = 7446  # Of etcd.
_POLL_S = 0.05

AnswerT = TypeVar("AnswerT")


class WriterProcess:
    """The writer's process, asked over pipes: one question at a time."""

    def __init__(self, keys: Path, log_path: Path, environment: Mapping[str, str]) -> None:
        self._log = log_path.open("wb")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.writer", str(keys)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            process_group=0,
        )

    @property
    def cpu_s(self) -> float:
        """The CPU time that it has used."""
        return cpu_s(self._child.pid)

    def ask(self, request: Request, answer: type[AnswerT]) -> AnswerT:
        """Send a request and wait for its answer; LabError when the process has ended."""
        self.send(request)
        return self.receive(answer)

    def send(self, request: Request) -> None:
        """Send a request whose answer is received later."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(msgspec.json.encode(request) + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self, answer: type[AnswerT]) -> AnswerT:
        """Wait for the answer to what was sent."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self._ended()
        return msgspec.json.decode(line, type=answer)

    def collect(self) -> None:
        """Take leave of the process after it was ended."""
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()
        self._child.wait(START_TIMEOUT_S)
        self._log.close()

    def _ended(self) -> LabError:
        return LabError(f"the writer ended, see {self._log.name}")


class Trio:
    """Three members of one store, by the address at which clients reach each."""

    def __init__(self, members: Mapping[str, LabProcess]) -> None:
        self.members = members
        self.addresses = tuple(members)

    def start(self) -> None:
        """Start all that do not run."""
        for process in self.members.values():
            if not process.running():
                process.start()

    def cpu_s(self) -> float:
        """The CPU time that the living processes have used together."""
        return sum(cpu_s(process.pid) for process in self.members.values())

    def memories(self) -> list[Memory]:
        """What each member's process holds."""
        return [memory_of(process.pid) for process in self.members.values()]

    def leader(self, writer: WriterProcess) -> str:
        """Return the leader's address, as soon as there is one; LabError after START_TIMEOUT_S."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            address = writer.ask(FindLeader(addresses=self.addresses), str)
            if address:
                return address
            time.sleep(_POLL_S)
        tails = "\n".join(f"{process.name}: {process.tail()}" for process in self.members.values())
        raise LabError(f"no member leads within {START_TIMEOUT_S:g} s\n{tails}")

    def others(self, address: str) -> tuple[str, ...]:
        """Return the addresses but this one."""
        return tuple(other for other in self.addresses if other != address)

    def end(self) -> None:
        """Kill all members."""
        for process in self.members.values():
            process.kill_alone()


def called(store: str) -> str:
    """Return a store's name for a sentence."""
    return "etcd" if store == ETCD else "our members"


def our_trio(
    directory: Path, hosts: Sequence[str], environment: Mapping[str, str], module: str = "bench.log_member"
) -> Trio:
    """Prepare three members of the engine; `directory` holds KEYS_DIRECTORY already."""
    prepare(directory, dict(zip(NAMES, hosts, strict=True)))
    members = {}
    for name, host in zip(NAMES, hosts, strict=True):
        command = [sys.executable, "-m", module, str(directory), name]
        members[f"{host}:{CLIENT_PORT}"] = LabProcess(
            name, command, directory / f"{name}.log", environment=environment
        )
    return Trio(members)


def catalog_trio(directory: Path, hosts: Sequence[str], environment: Mapping[str, str]) -> Trio:
    """Prepare three members whose state machine is the catalog, with the keys of the writer."""
    own = directory / "catalogs"
    own.mkdir()
    (own / KEYS_DIRECTORY).symlink_to(directory / KEYS_DIRECTORY)
    return our_trio(own, hosts, environment, module="bench.change_member")


def one_alone(directory: Path, host: str, environment: Mapping[str, str]) -> Trio:
    """Prepare one server that answers writes at once and keeps nothing."""
    command = [sys.executable, "-m", "bench.answering", str(directory / KEYS_DIRECTORY), host]
    process = LabProcess("answering", command, directory / "answering.log", environment=environment)
    return Trio({f"{host}:{CLIENT_PORT}": process})


def etcd_trio(directory: Path, hosts: Sequence[str], environment: Mapping[str, str]) -> Trio:
    """Prepare three members of etcd with the keys of the writer; LabError when there is no etcd here.

    Its own defaults, but for the two times that elections depend on: those are ours.
    """
    program = str(tool("etcd"))
    environment = {name: value for name, value in environment.items() if not name.startswith("ETCD_")}
    peers = ",".join(f"{name}=https://{host}:{_PEER_PORT}" for name, host in zip(NAMES, hosts, strict=True))
    members = {}
    for name, host in zip(NAMES, hosts, strict=True):
        data = directory / f"etcd-{name}"
        client, peer = f"https://{host}:{CLIENT_PORT}", f"https://{host}:{_PEER_PORT}"
        command = [
            program,
            *_etcd_options(name, data, client, peer),
            "--initial-cluster",
            peers,
            *_etcd_keys(directory),
        ]
        members[f"{host}:{CLIENT_PORT}"] = LabProcess(
            f"etcd-{name}", command, directory / f"etcd-{name}.log", environment=environment
        )
    return Trio(members)


def etcd_version() -> str:
    """Return what the program says of itself, such as `etcd Version: 3.4.23`; LabError when there is none."""
    said = subprocess.run(
        [tool("etcd"), "--version"], check=True, capture_output=True, text=True, timeout=START_TIMEOUT_S
    )
    return said.stdout.partition("\n")[0]


def _etcd_options(name: str, data: Path, client: str, peer: str) -> list[str]:
    return [
        *("--name", name, "--data-dir", str(data)),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster-state", "new", "--logger", "zap", "--log-level", "warn"),
        *("--heartbeat-interval", str(TIMING.heartbeat_ms)),
        *("--election-timeout", str(TIMING.election_min_ms)),
    ]


def _etcd_keys(directory: Path) -> list[str]:
    keys = directory / KEYS_DIRECTORY
    return [
        argument
        for prefix in ("", "peer-")
        for argument in (
            f"--{prefix}client-cert-auth",
            f"--{prefix}trusted-ca-file={keys / CA_FILE}",
            f"--{prefix}cert-file={keys / CERTIFICATE_FILE}",
            f"--{prefix}key-file={keys / KEY_FILE}",
        )
    ]

"""One member of a log in a process of its own, which writes when it is told to over its standard input.

python -m bench.log_member DIRECTORY NAME
"""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from certs.core.issuance import LEAF_TTL, controller_dns_names
from certs.core.spiffe import system_id
from certs.core.verifier import Verifier
from certs.runtime.authority import Authority, RootAuthority
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from consensus.core.contract import MemberAddress
from consensus.core.timing import Timing
from consensus.runtime.embedded import EmbeddedEngine
from discovery.core.kinds import ControllerSpec
from federation.agent.directory import DirectoryStore, save_directory
from federation.api.messages import Directory, NamedController
from federation.app.raft import RaftSecurity, members_of
from federation.app.telemetry import set_up_logging

Members: TypeAlias = tuple[MemberAddress, ...]
TRUST_DOMAIN = "bench.example"
FEDERATION = "bench"
RAFT_PORT, CONTROL_PORT = 7443, 7444
_TIMEOUT_MS = 10_000


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a member is asked: its role, or to write `count` commands and return each one's milliseconds."""

    kind: Literal["role", "write"]
    in_flight: int = 1
    count: int = 0
    command_bytes: int = 0


class CountingMachine:
    """A state machine that only counts: what is measured is the log."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, _index: int, _command: bytes) -> bytes:
        """Count."""
        self.count += 1
        return b""

    def snapshot(self) -> Iterator[bytes]:
        """The count."""
        yield self.count.to_bytes(8, "big")

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Take it over."""
        self.count = int.from_bytes(b"".join(chunks), "big")


def prepare(directory: Path, addresses: Mapping[str, str]) -> Members:
    """Write what each member needs below `directory`: its certificate, and a directory that names all."""
    root = RootAuthority.create(TRUST_DOMAIN)
    authority = Authority.open(directory / "authority")
    authority.enroll(root)
    controllers = []
    for name, host in addresses.items():
        identity = system_id(TRUST_DOMAIN, name, "controller", "c1")
        leaf = LeafIdentity.load(directory / name / "identity")
        names = controller_dns_names(identity)
        leaf.install(authority.sign_leaf(leaf.create_csr(), identity, LEAF_TTL, names).chain_der)
        spec = ControllerSpec(
            cluster=name,
            role="member",
            identity=str(identity),
            raft=f"{host}:{RAFT_PORT}",
            control=f"{host}:{CONTROL_PORT}",
            api="",
            protocol=1,
        )
        controllers.append(NamedController(name=f"{name}-c1", spec=spec))
    everybody = Directory(
        revision=1,
        federation=FEDERATION,
        controllers=tuple(controllers),
        bundles={TRUST_DOMAIN: (root.bundle().pem().decode(),)},
        homes={},
    )
    for name in addresses:
        save_directory(directory / name, everybody)
    return members_of(everybody)


async def _write(engine: EmbeddedEngine, request: Request) -> list[float]:
    took: list[float] = []
    left = iter(range(request.count))
    command = b"x" * request.command_bytes

    async def writer() -> None:
        for _ in left:  # Shared: each command is one writer's.
            began_s = time.perf_counter()
            await engine.propose(command, timeout_ms=_TIMEOUT_MS)
            took.append((time.perf_counter() - began_s) * 1000)

    async with asyncio.TaskGroup() as tasks:
        for number in range(request.in_flight):
            tasks.create_task(writer(), name=f"writer/{number}")
    return took


async def _serve(directory: Path, name: str) -> None:
    store = DirectoryStore.open(directory / name)
    leaf = LeafIdentity.load(directory / name / "identity")
    members = members_of(store.current)
    engine = EmbeddedEngine(
        next(member for member in members if member.id == name),
        directory=directory / name / "raft",
        machine=CountingMachine(),
        bootstrap=members,
        security=RaftSecurity(leaf, store, Verifier(store.bundles, clock=utc_now)),
        federation=FEDERATION,
        timing=Timing(round_trip_ms=20),  # The default of a controller's configuration.
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(engine.run(), name="engine")
        await engine.ready.wait()
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            request = msgspec.json.decode(line, type=Request)
            answer = engine.status().role if request.kind == "role" else await _write(engine, request)
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()
        running.cancel()


if __name__ == "__main__":
    set_up_logging("info")  # To standard error: standard output carries the answers.
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))

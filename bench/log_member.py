"""One member of a log in a process of its own, which speaks the part of etcd's API that `bench.writer` speaks.

python -m bench.log_member DIRECTORY NAME
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import msgspec
from msgspec import Struct

from bench.record_machine import PUT, TRANSACTION, RecordMachine, put_command
from bench.store_keys import server_credentials
from bench.store_wire import (
    KV_SERVICE,
    MAINTENANCE_SERVICE,
    KeyValue,
    PutResponse,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    StatusResponse,
    TxnResponse,
)
from bench.writer import (
    INSIDE_METHOD,
    INSIDE_SERVICE,
    TURN_BUDGET_MS,
    TURNS_METHOD,
    InsideLoad,
    Loaded,
    Turns,
    key_of,
    side_by_side,
)
from certs.core.issuance import LEAF_TTL, controller_dns_names
from certs.core.spiffe import system_id
from certs.core.verifier import Verifier
from certs.runtime.authority import Authority, RootAuthority
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from consensus.core.contract import LATENCY_BOUNDS_US, Applied, MemberAddress, StateMachine
from consensus.core.timing import Timing
from consensus.runtime.embedded import EmbeddedEngine
from discovery.core.specs import ControllerSpec
from federation.agent.directory import DirectoryStore, save_directory
from federation.api.messages import Directory, NamedController
from federation.app.process import spare_what_lives
from federation.app.raft import RaftSecurity, members_of
from federation.app.telemetry import set_up_logging
from federation.kernel.errors import IsthmusError, OutcomeUnknownError
from federation.kernel.versions import PROTOCOL_VERSION

Members: TypeAlias = tuple[MemberAddress, ...]
TRUST_DOMAIN = "bench.example"
FEDERATION = "bench"
RAFT_PORT, CONTROL_PORT, CLIENT_PORT = 7443, 7444, 7445
KEYS_DIRECTORY = "keys"  # Below DIRECTORY: the certificates of the client side.
TIMING = Timing(round_trip_ms=20)  # The default of a controller's configuration.
_TIMEOUT_MS = 10_000
_SERVER_OPTIONS = (("grpc.so_reuseport", 0),)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


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
            protocol=PROTOCOL_VERSION,
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


class MemberCalls(Struct, frozen=True):
    """Answers of one member. Writes wait until it has applied them itself; reads are of its own state."""

    engine: EmbeddedEngine
    machine: RecordMachine
    numbers: Mapping[str, int]  # Of the members, by their ids: in etcd's API a member is a number.

    def handlers(self) -> "tuple[grpc.GenericRpcHandler[Any, Any], ...]":
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        return (
            service(KV_SERVICE, {"Put": self._put, "Range": self._range, "Txn": self._transact}),
            service(MAINTENANCE_SERVICE, {"Status": self._status}),
            service(INSIDE_SERVICE, {INSIDE_METHOD: self._inside, TURNS_METHOD: self._turns}),
        )

    async def _put(self, request: bytes, context: Context) -> bytes:
        applied = await self._propose(PUT + request, context)
        return bytes(PutResponse(header=self._header(applied)).SerializeToString())

    async def _transact(self, request: bytes, context: Context) -> bytes:
        applied = await self._propose(TRANSACTION + request, context)
        return bytes(TxnResponse(header=self._header(applied), succeeded=True).SerializeToString())

    async def _range(self, request: bytes, _context: Context) -> bytes:
        key = RangeRequest.FromString(request).key
        value = self.machine.records.get(key)
        found = [] if value is None else [KeyValue(key=key, value=value)]
        return bytes(RangeResponse(kvs=found, count=len(found)).SerializeToString())

    async def _status(self, _request: bytes, _context: Context) -> bytes:
        return status_answer(self.engine, self.numbers)

    async def _inside(self, request: bytes, context: Context) -> bytes:
        """Propose in this process, without the calls: what is left is the engine's own time."""
        load = msgspec.json.decode(request, type=InsideLoad)
        took_ms: list[float] = []
        left = iter(range(load.count))
        value = b"x" * load.value_bytes

        async def one_after_another() -> None:
            for number in left:  # Shared: each command is one task's.
                began_s = time.perf_counter()
                await self._propose(put_command(key_of(number), value), context)
                took_ms.append((time.perf_counter() - began_s) * 1000)

        await side_by_side(one_after_another, load.in_flight)
        return msgspec.json.encode(Loaded(took_ms=took_ms, failed=0))

    async def _turns(self, _request: bytes, _context: Context) -> bytes:
        turn = self.engine.counters().turn
        counts = tuple(turn.counts)
        over_budget = sum(counts[LATENCY_BOUNDS_US.index(TURN_BUDGET_MS * 1000) + 1 :])
        turns = Turns(count=sum(counts), longest_ms=turn.longest_us / 1000, over_budget=over_budget)
        return msgspec.json.encode(turns)

    async def _propose(self, command: bytes, context: Context) -> Applied:
        try:
            return await self.engine.propose(command, timeout_ms=_TIMEOUT_MS)
        except OutcomeUnknownError as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, error.message)
        except IsthmusError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
        raise AssertionError("abort returned")

    def _header(self, applied: Applied) -> Any:
        return ResponseHeader(revision=applied.index, raft_term=applied.term)


def service(
    name: str, methods: Mapping[str, Callable[[bytes, Context], Awaitable[bytes]]]
) -> "grpc.GenericRpcHandler[Any, Any]":
    """Return a service of unary calls, which take and give bytes."""
    return grpc.method_handlers_generic_handler(
        name, {method: grpc.unary_unary_rpc_method_handler(handle) for method, handle in methods.items()}
    )


def status_answer(engine: EmbeddedEngine, numbers: Mapping[str, int]) -> bytes:
    """Return the answer to Maintenance/Status."""
    status = engine.status()
    header = ResponseHeader(member_id=numbers[status.id], raft_term=status.term)
    leader = numbers.get(status.leader or "", 0)
    return bytes(StatusResponse(header=header, leader=leader).SerializeToString())


def open_member(
    directory: Path, name: str, machine: StateMachine
) -> tuple[EmbeddedEngine, str, dict[str, int]]:
    """Return the engine of a member that `prepare` wrote, its host, and the members' numbers by their ids."""
    store = DirectoryStore.open(directory / name)
    leaf = LeafIdentity.load(directory / name / "identity")
    members = members_of(store.current)
    me = next(member for member in members if member.id == name)
    engine = EmbeddedEngine(
        me,
        directory=directory / name / "raft",
        machine=machine,
        bootstrap=members,
        security=RaftSecurity(leaf, store, Verifier(store.bundles, clock=utc_now)),
        federation=FEDERATION,
        timing=TIMING,
    )
    numbers = {member.id: number for number, member in enumerate(members, start=1)}
    return engine, me.address.rpartition(":")[0], numbers


async def serve(
    engine: EmbeddedEngine, handlers: "tuple[grpc.GenericRpcHandler[Any, Any], ...]", host: str, keys: Path
) -> None:
    """Take part, and answer clients, until the process ends."""
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    server.add_generic_rpc_handlers(handlers)
    server.add_secure_port(f"{host}:{CLIENT_PORT}", server_credentials(keys))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run(), name="engine")
        await engine.ready.wait()
        spare_what_lives()
        await server.start()
        await server.wait_for_termination()


async def _main(directory: Path, name: str) -> None:
    machine = RecordMachine()
    engine, host, numbers = open_member(directory, name, machine)
    await serve(engine, MemberCalls(engine, machine, numbers).handlers(), host, directory / KEYS_DIRECTORY)


if __name__ == "__main__":
    set_up_logging("info")
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))

"""The client program of the stores under comparison, the same for each: `python -m bench.writer KEYS_DIRECTORY`.

A process of its own, told what to do by lines of JSON on its standard input; each is answered by one line.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bench.catalogs import endpoints
from bench.store_keys import client_credentials
from bench.store_wire import (
    KV_SERVICE,
    MAINTENANCE_SERVICE,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    StatusRequest,
    StatusResponse,
    TxnRequest,
    TxnResponse,
)

KEYS = 1_000  # A load writes these in turn.
OPERATIONS = 100  # Of one transaction, when many records are filled in.
FILLERS = 8
WRITE_TIMEOUT_S = 10.0
ATTEMPTS_MAX = 3
PACED_TIMEOUT_S = 1.0
TURN_BUDGET_MS = 50  # A bound of the engine's histogram.
# Spoken by our own members only.
INSIDE_SERVICE, INSIDE_METHOD, TURNS_METHOD = "isthmus.bench.Inside", "Load", "Turns"
CHANGES_METHOD, CHANGES_OWNER = "Changes", "alpha"
STREAM_IN_FLIGHT_MAX = 16  # Batches.
_POLL_S = 0.01
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # In truth the limit of one dial with its handshake.
    ("grpc.max_reconnect_backoff_ms", 50),
)


class FindLeader(Struct, frozen=True, kw_only=True, tag="find leader"):
    """Answered by the address of the member that says it leads, or an empty text."""

    addresses: tuple[str, ...]


class Load(Struct, frozen=True, kw_only=True, tag="load"):
    """Write `count` times with `in_flight` unfinished at each moment; answered by Loaded."""

    address: str
    in_flight: int
    count: int
    value_bytes: int


class InsideLoad(Struct, frozen=True, kw_only=True, tag="inside load"):
    """The same within the process of a member of ours."""

    address: str
    in_flight: int
    count: int
    value_bytes: int


class Pace(Struct, frozen=True, kw_only=True, tag="pace"):
    """Begin a write each `every_ms`, by turns at the addresses, whether earlier ones came back or not."""

    addresses: tuple[str, ...]
    seconds: float
    every_ms: int
    value_bytes: int


class Fill(Struct, frozen=True, kw_only=True, tag="fill"):
    """Write so many records in transactions of OPERATIONS, then one with `last_key`."""

    address: str
    records: int
    last_key: str
    value_bytes: int


class AwaitKey(Struct, frozen=True, kw_only=True, tag="await key"):
    """Answered when the member at `address` has the key in its own state."""

    address: str
    key: str


class StreamChanges(Struct, frozen=True, kw_only=True, tag="stream changes"):
    """Change so many endpoints of CHANGES_OWNER, on one stream; answered by the seconds until the last was acknowledged."""

    address: str
    rows: int
    in_batch: int
    sequence: int


class Transact(Struct, frozen=True, kw_only=True, tag="transact"):
    """Put so many keys in transactions, as many in flight as batches on a stream; answered by the seconds that took."""

    address: str
    rows: int
    in_batch: int
    value_bytes: int


class AskTurns(Struct, frozen=True, kw_only=True, tag="turns"):
    """Answered by Turns, of a member of ours."""

    address: str


class Turns(Struct, frozen=True, kw_only=True):
    """The turns of an engine's loop since its process began."""

    count: int
    longest_ms: float
    over_budget: int  # Longer than TURN_BUDGET_MS.


class Loaded(Struct, frozen=True, kw_only=True):
    """How long each write took, all its attempts together, and how many attempts failed."""

    took_ms: list[float]
    failed: int


class Paced(Struct, frozen=True, kw_only=True):
    """What became of paced writes; times are of the machine's monotonic clock."""

    began_s: float
    ended_s: float
    acknowledged_s: list[float]
    failed: int


Request: TypeAlias = (
    FindLeader | Load | InsideLoad | Pace | Fill | AwaitKey | StreamChanges | Transact | AskTurns
)


class Calls:
    """The calls to one member, on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.put = _call(channel, KV_SERVICE, "Put", PutRequest, PutResponse)
        self.range = _call(channel, KV_SERVICE, "Range", RangeRequest, RangeResponse)
        self.transact = _call(channel, KV_SERVICE, "Txn", TxnRequest, TxnResponse)
        self.status = _call(channel, MAINTENANCE_SERVICE, "Status", StatusRequest, StatusResponse)
        self.inside, self.turns = (
            channel.unary_unary(
                f"/{INSIDE_SERVICE}/{method}", request_serializer=bytes, response_deserializer=bytes
            )
            for method in (INSIDE_METHOD, TURNS_METHOD)
        )
        self.changes: Any = channel.stream_stream(
            f"/{INSIDE_SERVICE}/{CHANGES_METHOD}", request_serializer=bytes, response_deserializer=bytes
        )


def _call(channel: grpc.aio.Channel, service: str, method: str, request: Any, response: Any) -> Any:
    return channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )


class Writer:
    """Does what it is asked; keeps a channel to each member."""

    def __init__(self, credentials: grpc.ChannelCredentials) -> None:
        self._credentials = credentials
        self._calls: dict[str, Calls] = {}

    async def answer(self, request: Request) -> Any:
        """Return what the request's class says."""
        match request:
            case FindLeader():
                return await self._find_leader(request)
            case Load():
                return await self._load(request)
            case InsideLoad():
                return await self._load_inside(request)
            case Pace():
                return await self._pace(request)
            case Fill():
                return await self._fill(request)
            case AwaitKey():
                return await self._await_key(request)
            case StreamChanges():
                return await self._stream(request)
            case Transact():
                return await self._transact(request)
            case AskTurns():
                answer = await self._to(request.address).turns(b"")
                return msgspec.json.decode(answer, type=Turns)

    async def close(self) -> None:
        """Close the channels."""
        for calls in self._calls.values():
            await calls.channel.close(None)

    def _to(self, address: str) -> Calls:
        if address not in self._calls:
            channel = grpc.aio.secure_channel(address, self._credentials, options=_CHANNEL_OPTIONS)
            self._calls[address] = Calls(channel)
        return self._calls[address]

    async def _find_leader(self, request: FindLeader) -> str:
        for address in request.addresses:
            try:
                status = await self._to(address).status(StatusRequest(), timeout=PACED_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                continue  # It does not run, or does not answer yet.
            if status.leader and status.leader == status.header.member_id:
                return address
        return ""

    async def _load(self, request: Load) -> Loaded:
        took_ms: list[float] = []
        failed = 0
        put = self._to(request.address).put
        value = b"x" * request.value_bytes
        left = iter(range(request.count))

        async def one_after_another() -> None:
            nonlocal failed
            for number in left:  # Shared: each write is one task's.
                began_s = time.perf_counter()
                failed += await _repeated(put, PutRequest(key=key_of(number % KEYS), value=value))
                took_ms.append((time.perf_counter() - began_s) * 1000)

        await side_by_side(one_after_another, request.in_flight)
        return Loaded(took_ms=took_ms, failed=failed)

    async def _load_inside(self, request: InsideLoad) -> Loaded:
        inside = self._to(request.address).inside
        return msgspec.json.decode(await inside(msgspec.json.encode(request)), type=Loaded)

    async def _pace(self, request: Pace) -> Paced:
        acknowledged_s: list[float] = []
        failed = 0
        value = b"x" * request.value_bytes

        async def write(number: int) -> None:
            nonlocal failed
            put = self._to(request.addresses[number % len(request.addresses)]).put
            try:
                await put(PutRequest(key=key_of(number % KEYS), value=value), timeout=PACED_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                failed += 1
            else:
                acknowledged_s.append(time.monotonic())

        began_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(round(request.seconds * 1000 / request.every_ms)):
                tasks.create_task(write(number), name=f"write/{number}")
                due_s = began_s + (number + 1) * request.every_ms / 1000
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            ended_s = time.monotonic()
        return Paced(began_s=began_s, ended_s=ended_s, acknowledged_s=acknowledged_s, failed=failed)

    async def _fill(self, request: Fill) -> bool:
        transact = self._to(request.address).transact
        value = b"x" * request.value_bytes
        left = iter(range(0, request.records, OPERATIONS))

        async def one_after_another() -> None:
            for first in left:
                numbers = range(first, min(first + OPERATIONS, request.records))
                puts = (PutRequest(key=key_of(number), value=value) for number in numbers)
                transaction = TxnRequest(success=[RequestOp(request_put=put) for put in puts])
                await _repeated(transact, transaction)

        await side_by_side(one_after_another, FILLERS)
        last = PutRequest(key=request.last_key.encode(), value=value)
        await _repeated(self._to(request.address).put, last)
        return True

    async def _stream(self, request: StreamChanges) -> float:
        rows = [
            replace(row, sequence=request.sequence, ready=request.sequence % 2 == 0)
            for row in endpoints(CHANGES_OWNER, request.rows, address="10.0.0.1")
        ]
        batches = [
            msgspec.msgpack.encode(rows[first : first + request.in_batch])
            for first in range(0, len(rows), request.in_batch)
        ]
        slots = asyncio.Semaphore(STREAM_IN_FLIGHT_MAX)
        call = self._to(request.address).changes()

        async def feed() -> None:
            for batch in batches:
                await slots.acquire()
                await call.write(batch)
            await call.done_writing()

        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed(), name="feed")
            async for _acknowledgement in call:
                slots.release()
        return time.perf_counter() - began_s

    async def _transact(self, request: Transact) -> float:
        transact = self._to(request.address).transact
        value = b"x" * request.value_bytes
        puts = [RequestOp(request_put=PutRequest(key=key_of(at), value=value)) for at in range(request.rows)]
        batches = iter(
            [
                TxnRequest(success=puts[first : first + request.in_batch])
                for first in range(0, len(puts), request.in_batch)
            ]
        )

        async def one_after_another() -> None:
            for batch in batches:  # Shared: each is one task's.
                await _repeated(transact, batch)

        began_s = time.perf_counter()
        await side_by_side(one_after_another, STREAM_IN_FLIGHT_MAX)
        return time.perf_counter() - began_s

    async def _await_key(self, request: AwaitKey) -> bool:
        wanted = RangeRequest(key=request.key.encode(), serializable=True)
        async with asyncio.timeout(6 * WRITE_TIMEOUT_S):
            while True:
                try:
                    found = await self._to(request.address).range(wanted, timeout=PACED_TIMEOUT_S)
                    if found.count:
                        return True
                except grpc.aio.AioRpcError:
                    pass  # It does not answer yet.
                await asyncio.sleep(_POLL_S)


async def _repeated(call: Any, request: Any) -> int:
    """Make a call that may be made twice until it is answered; return how many attempts failed before that."""
    for failed in range(ATTEMPTS_MAX - 1):
        try:
            await call(request, timeout=WRITE_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(
                _POLL_S
            )  # On a busy machine a leader may lose its place, and what it was told.
        else:
            return failed
    await call(request, timeout=WRITE_TIMEOUT_S)
    return ATTEMPTS_MAX - 1


def key_of(number: int) -> bytes:
    """Return the key of a record."""
    return b"record-%07d" % number


async def side_by_side(work: Callable[[], Awaitable[None]], count: int) -> None:
    """Run `work` so many times at once, until all have returned."""
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(_awaited(work), name=f"writer/{number}")


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


@asynccontextmanager
async def _writer(keys: Path) -> AsyncIterator[Writer]:
    writer = Writer(client_credentials(keys))
    try:
        yield writer
    finally:
        await writer.close()


async def _serve(keys: Path) -> None:
    async with _writer(keys) as writer:
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            answer = await writer.answer(msgspec.json.decode(line, type=Request))
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))

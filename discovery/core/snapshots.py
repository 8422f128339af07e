"""The catalog's state as a stream of bytes, and back.

The stream is a sequence of records, each a length of four bytes and a MessagePack array tagged with its
kind: `header`, `leases`, `requests` and `rows` (several each), and `end` with the SHA-256 of all that
came before. Equal states give equal bytes. How the stream is cut into chunks means nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

import msgspec

from discovery.core.leases import Lease, LeaseTime
from discovery.core.model import Resource, TableName, unpack_endpoint, unpack_resource
from discovery.core.tables import Table, Tables
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError, PreconditionError
from federation.kernel.limits import COMMAND_BYTES_MAX

SNAPSHOT_FORMAT = 2  # 1: leases expired by federation time.
SNAPSHOT_CHUNK_BYTES_MAX = 256 * 1024
# A record is closed when it reaches this, so it is at most this and one row long.
_RECORD_BYTES = SNAPSHOT_CHUNK_BYTES_MAX - 2 * COMMAND_BYTES_MAX
_LENGTH_BYTES = 4
_TEXT_BYTES = 64  # Roughly what a record needs besides its rows' own bytes, for each row.


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that the log determines. Nothing in it changes, so it can be written while the log goes on."""

    tables: Tables
    now_ms: int
    lease_time: LeaseTime
    fence: int  # The newest that any lease was given.
    leases: tuple[tuple[str, Lease], ...]  # By name.
    requests: tuple[tuple[str, bytes], ...]  # Oldest first: proposer and request id, packed outcome.


class _Header(msgspec.Struct, frozen=True, array_like=True, tag="header"):
    format: int
    revision: int
    now_ms: int
    fence: int
    lease_time: LeaseTime | None = None


class _Leases(msgspec.Struct, frozen=True, array_like=True, tag="leases"):
    rows: tuple[tuple[str, Lease], ...]


class _Requests(msgspec.Struct, frozen=True, array_like=True, tag="requests"):
    rows: tuple[tuple[str, bytes], ...]


class _Rows(msgspec.Struct, frozen=True, array_like=True, tag="rows"):
    table: TableName
    rows: tuple[tuple[bytes, bytes], ...]


class _End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    sha256: bytes


Name = TypeVar("Name", str, bytes)

_Record: TypeAlias = _Header | _Leases | _Requests | _Rows | _End

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Record)


def encode_snapshot(state: State) -> Iterator[bytes]:
    """Yield the stream in chunks of at most `SNAPSHOT_CHUNK_BYTES_MAX`, one record each."""
    total = hashlib.sha256()
    for record in _records(state):
        payload = _encoder.encode(record)
        chunk = len(payload).to_bytes(_LENGTH_BYTES) + payload
        assert len(chunk) <= SNAPSHOT_CHUNK_BYTES_MAX, "a row is larger than a command may be"
        total.update(chunk)
        yield chunk
    payload = _encoder.encode(_End(total.digest()))
    yield len(payload).to_bytes(_LENGTH_BYTES) + payload


def _records(state: State) -> Iterator[_Record]:
    yield _Header(SNAPSHOT_FORMAT, state.tables.revision, state.now_ms, state.fence, state.lease_time)
    leases = []
    for name, lease in state.leases:
        leases.append((name, lease))
        if len(leases) == _RECORD_BYTES // 1_024:  # A name and a holder of 253 bytes, with room to spare.
            yield _Leases(tuple(leases))
            leases = []
    if leases:
        yield _Leases(tuple(leases))
    for requests in _batches(state.requests):
        yield _Requests(requests)
    for rows in _batches(state.tables.resources.items()):
        yield _Rows("resources", rows)
    for rows in _batches(state.tables.endpoints.items()):
        yield _Rows("endpoints", rows)


def _batches(rows: Iterable[tuple[Name, bytes]]) -> Iterator[tuple[tuple[Name, bytes], ...]]:
    batch: list[tuple[Name, bytes]] = []
    size = 0
    for name, value in rows:
        batch.append((name, value))
        size += len(name) + len(value) + _TEXT_BYTES
        if size >= _RECORD_BYTES:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)


def decode_snapshot(chunks: Iterable[bytes]) -> State:
    """Read a stream that may be cut anywhere.

    Raises `CorruptError` when it is damaged, cut short or followed by more, and `PreconditionError` when
    a newer build has written it.
    """
    parts = _Parts()
    total = hashlib.sha256()
    ended = False
    for raw in _split(chunks):
        if ended:
            raise CorruptError("catalog snapshot: bytes follow its end")
        try:
            record = _decoder.decode(memoryview(raw)[_LENGTH_BYTES:])
        except MALFORMED as error:
            raise CorruptError(f"catalog snapshot: record {parts.count}: {error}") from error
        if isinstance(record, _End):
            if record.sha256 != total.digest():
                raise CorruptError("catalog snapshot: its SHA-256 does not match its records")
            ended = True
        else:
            total.update(raw)
            parts.add(record)
    if not ended:
        raise CorruptError(f"catalog snapshot: cut short after {parts.count} records")
    return parts.state()


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield whole records, with their length in front, from a stream cut anywhere. Holds one record at most."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= _LENGTH_BYTES:
            size = _LENGTH_BYTES + int.from_bytes(held[:_LENGTH_BYTES])
            if size > SNAPSHOT_CHUNK_BYTES_MAX:
                raise CorruptError(
                    f"catalog snapshot: a record of {size} bytes, at most {SNAPSHOT_CHUNK_BYTES_MAX} are written"
                )
            if len(held) < size:
                break
            yield bytes(held[:size])
            del held[:size]
    if held:
        raise CorruptError("catalog snapshot: cut short within a record")


class _Parts:
    """The records read so far."""

    def __init__(self) -> None:
        self.count = 0
        self._header: _Header | None = None
        self._leases: list[tuple[str, Lease]] = []
        self._requests: list[tuple[str, bytes]] = []
        self._rows: Mapping[TableName, list[tuple[bytes, bytes]]] = {"resources": [], "endpoints": []}

    def add(self, record: _Header | _Leases | _Requests | _Rows) -> None:
        if (self._header is None) != isinstance(record, _Header):
            raise CorruptError(f"catalog snapshot: record {self.count} is out of place")
        match record:
            case _Header():
                if record.format > SNAPSHOT_FORMAT:
                    raise PreconditionError(
                        f"catalog snapshot has format {record.format}, this build reads {SNAPSHOT_FORMAT}: start the newer build"
                    )
                self._header = record
            case _Leases(rows):
                self._leases += rows
            case _Requests(rows):
                self._requests += rows
            case _Rows(table, rows):
                self._rows[table] += rows
        self.count += 1

    def state(self) -> State:
        if self._header is None:
            raise CorruptError("catalog snapshot: has no header")
        try:
            for key, value in self._rows["resources"]:
                _check_resource(key, unpack_resource(value))
            for key, value in self._rows["endpoints"]:
                if unpack_endpoint(value).key.encode() != key:
                    raise ValueError(f"the endpoint at {key[:80]!r} says that it is another one")
            tables = Tables(
                revision=self._header.revision,
                resources=Table.of_sorted(self._rows["resources"]),
                endpoints=Table.of_sorted(self._rows["endpoints"]),
            )
        except (*MALFORMED, ValueError) as error:
            raise CorruptError(f"catalog snapshot: a row cannot be read: {error}") from error
        return State(
            tables=tables,
            now_ms=self._header.now_ms,
            lease_time=self._header.lease_time
            or LeaseTime(now_ms=self._header.now_ms, ticked_ms=self._header.now_ms),
            fence=self._header.fence,
            leases=tuple(self._leases),
            requests=tuple(self._requests),
        )


def _check_resource(key: bytes, row: Resource) -> None:
    """Raise ValueError for a row that nobody could have written: a state that comes from outside is judged, too."""
    if row.key.encode() != key:
        raise ValueError(f"the resource at {key[:80]!r} says that it is {str(row.key)[:80]}")
    owner = row.key.name if row.key.kind == "Cluster" else row.key.scope
    if owner and row.owner != owner:
        raise ValueError(f"{row.key} is owned by {row.owner[:80]!r}, expected {owner}")

"""A state machine that keeps the records of the benchmarks, as etcd keeps its own."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from bench.store_wire import PutRequest, TxnRequest

PUT, TRANSACTION = b"p", b"t"  # First byte of a command; the request's own bytes follow.
_RECORDS_IN_CHUNK = 256
_LENGTH_BYTES = 4


def put_command(key: bytes, value: bytes) -> bytes:
    """Return the command that keeps one record."""
    return PUT + bytes(PutRequest(key=key, value=value).SerializeToString())


class RecordMachine:
    """Implements consensus.core.contract.StateMachine."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}

    def apply(self, _index: int, command: bytes) -> bytes:
        """Keep the records of a put or a transaction."""
        if command.startswith(PUT):
            self._put(PutRequest.FromString(command[1:]))
        else:
            for operation in TxnRequest.FromString(command[1:]).success:
                self._put(operation.request_put)
        return b""

    def snapshot(self) -> Iterator[bytes]:
        """The records, some hundred in each chunk."""
        records = self.records.copy()
        items = iter(records.items())
        while some := list(islice(items, _RECORDS_IN_CHUNK)):
            chunk = msgspec.msgpack.encode(some)
            yield len(chunk).to_bytes(_LENGTH_BYTES, "big") + chunk

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Take them over."""
        decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])
        self.records = {}
        rest = memoryview(b"".join(chunks))
        while rest:
            end = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "big")
            self.records.update(decoder.decode(rest[_LENGTH_BYTES:end]))
            rest = rest[end:]

    def _put(self, request: Any) -> None:
        self.records[request.key] = request.value

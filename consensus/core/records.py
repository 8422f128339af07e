"""The journal's bytes.

    file   = MAGIC version batch*
    batch  = BATCH_MAGIC length:u32 crc32:u32 payload          (little endian; the CRC covers length and payload)
    payload= MessagePack array of records

A batch is what one fdatasync made durable, and no batch is written before the one in front of it is
durable. Hence a bad last batch is a write that a crash cut short, which promised nothing, and is
dropped; a bad batch with a good one behind it is damage.
"""

import struct
import zlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from consensus.core.membership import Voters
from consensus.core.promises import Promise
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError, PreconditionError

FILE_MAGIC = b"ISTHMUSJ"
FORMAT_VERSION = 2  # 1: without the directory's incarnation, and with term and vote in the first batch.
FILE_HEADER = FILE_MAGIC + bytes([FORMAT_VERSION])
BATCH_MAGIC = b"\xb7JB\xa4"
BATCH_BYTES_MAX = 64 * 1024 * 1024  # A journal starts a new batch long before (runtime/journal.py).

_HEAD = struct.Struct("<4sII")


class Base(Struct, frozen=True, kw_only=True, array_like=True, tag="base"):
    """The log begins after `index`; `voters` are those in force there. First record of a file."""

    index: int
    term: int
    voters: Voters


class Entry(Struct, frozen=True, array_like=True, tag="entry", gc=False):
    """One log entry; `command` begins with its kind (consensus.core.membership).

    Not for the garbage collector: it refers to nothing that could refer back, and a log has tens of thousands.
    """

    index: int
    term: int
    command: bytes


class Vote(Struct, frozen=True, kw_only=True, array_like=True, tag="vote"):
    """The current term, and whom this member voted for in it."""

    term: int
    voted_for: str | None


class Commit(Struct, frozen=True, kw_only=True, array_like=True, tag="commit"):
    """A lower bound of the commit index."""

    index: int


class Truncate(Struct, frozen=True, kw_only=True, array_like=True, tag="truncate"):
    """Entries from `index` on conflicted with a leader's and are gone."""

    index: int


class Incarnation(Struct, frozen=True, kw_only=True, array_like=True, tag="directory"):
    """The name of this directory, drawn when it was begun, and anew when it had forgotten a promise.

    Not `is_original`: it has no vote until the membership names it.
    """

    id: str
    is_original: bool


class Promises(Struct, frozen=True, kw_only=True, array_like=True, tag="promises"):
    """What other members are known to have promised."""

    promises: tuple[Promise, ...]


Record = Base | Entry | Vote | Commit | Truncate | Incarnation | Promises

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Record])


def encode_batch(records: Sequence[Record]) -> bytes:
    """Return `records` as one batch."""
    payload = _encoder.encode(records)
    assert len(payload) <= BATCH_BYTES_MAX, "the journal splits batches"
    return _HEAD.pack(BATCH_MAGIC, len(payload), _crc(len(payload), payload)) + payload


def decode_file(data: bytes, name: str) -> tuple[list[Record], int]:
    """Return the records of the journal file `name`, and the length of its good part.

    What follows the good part is a torn write. Raises CorruptError naming the offset of damage, and
    PreconditionError for a file of a newer format.
    """
    _check_header(data, name)
    records: list[Record] = []
    offset = len(FILE_HEADER)
    while offset < len(data):
        payload = _payload_at(data, offset)
        if payload is None:
            if _good_batch_after(data, offset):
                raise CorruptError(
                    f"journal {name} is damaged at offset {offset}: bad batch with a good one behind it"
                )
            break
        try:
            records += _decoder.decode(payload)
        except MALFORMED as error:
            # The checksum holds, so these bytes were written so: another program, or a newer one.
            raise CorruptError(f"journal {name} has an unknown record at offset {offset}: {error}") from error
        offset += _HEAD.size + len(payload)
    return records, offset


def _check_header(data: bytes, name: str) -> None:
    if len(data) < len(FILE_HEADER) or not data.startswith(FILE_MAGIC):
        raise CorruptError(f"journal {name} does not begin with {FILE_MAGIC!r} at offset 0")
    version = data[len(FILE_MAGIC)]
    if version > FORMAT_VERSION:
        raise PreconditionError(
            f"journal {name} has format {version}, this program reads up to {FORMAT_VERSION}: start a newer version"
        )
    if version < 1:
        raise CorruptError(
            f"journal {name} has format {version} at offset {len(FILE_MAGIC)}, expected 1 or more"
        )


def _payload_at(data: bytes, offset: int) -> memoryview | None:
    """Return the payload of the batch at `offset`, None when no good batch is there."""
    if offset + _HEAD.size > len(data):
        return None
    magic, length, crc = _HEAD.unpack_from(data, offset)
    end = offset + _HEAD.size + length
    if magic != BATCH_MAGIC or length > BATCH_BYTES_MAX or end > len(data):
        return None
    payload = memoryview(data)[offset + _HEAD.size : end]
    return payload if _crc(length, payload) == crc else None


def _good_batch_after(data: bytes, offset: int) -> bool:
    at = data.find(BATCH_MAGIC, offset + 1)
    while at >= 0:
        if _payload_at(data, at) is not None:
            return True
        at = data.find(BATCH_MAGIC, at + 1)
    return False


def _crc(length: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(length.to_bytes(4, "little")))

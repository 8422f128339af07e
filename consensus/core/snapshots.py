"""A snapshot file's bytes.

    file  = MAGIC version block*
    block = length:u32 crc32:u32 kind:u8 payload      (little endian; the CRC covers kind and payload)

The first block is the manifest, the last one the end with the SHA-256 of every byte in front of it,
those between are the state machine's chunks in order. The same bytes go to a member that lags.
"""

import struct
import zlib

import msgspec
from msgspec import Struct

from consensus.core.contract import SNAPSHOT_CHUNK_BYTES_MAX
from consensus.core.membership import Membership, Voters
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError, PreconditionError

FILE_MAGIC = b"ISTHMUSS"
FORMAT_VERSION = 1
FILE_HEADER = FILE_MAGIC + bytes([FORMAT_VERSION])
BLOCK_HEAD = struct.Struct("<IIc")

KIND_MANIFEST = b"M"
KIND_CHUNK = b"D"
KIND_END = b"E"


class Manifest(Struct, frozen=True, kw_only=True, array_like=True):
    """The state after entry `index`, and who votes and learns there."""

    index: int
    term: int
    voters: Voters
    learners: Voters = ()
    incarnations: tuple[tuple[str, str], ...] = ()

    @property
    def membership(self) -> Membership:
        """What was in force there."""
        return Membership(voters=self.voters, learners=self.learners, incarnations=self.incarnations)


class End(Struct, frozen=True, kw_only=True, array_like=True):
    """Proof that the file is whole."""

    chunks: int
    sha256: bytes


def encode_block(kind: bytes, payload: bytes) -> bytes:
    """Return one block."""
    return BLOCK_HEAD.pack(len(payload), zlib.crc32(payload, zlib.crc32(kind)), kind) + payload


def encode_manifest(manifest: Manifest) -> bytes:
    """Return how a file begins."""
    return FILE_HEADER + encode_block(KIND_MANIFEST, msgspec.msgpack.encode(manifest))


def encode_end(chunks: int, sha256: bytes) -> bytes:
    """Return the last block."""
    return encode_block(KIND_END, msgspec.msgpack.encode(End(chunks=chunks, sha256=sha256)))


def check_header(header: bytes, name: str) -> None:
    """Raise CorruptError, or PreconditionError for a newer format."""
    if len(header) != len(FILE_HEADER) or not header.startswith(FILE_MAGIC) or header[-1] < 1:
        raise CorruptError(f"snapshot {name} does not begin with {FILE_MAGIC!r} and a version at offset 0")
    if header[-1] > FORMAT_VERSION:
        raise PreconditionError(
            f"snapshot {name} has format {header[-1]}, this program reads up to {FORMAT_VERSION}: start a newer version"
        )


def check_length(length: int, name: str, offset: int) -> None:
    """Refuse a length before it is believed."""
    if length > SNAPSHOT_CHUNK_BYTES_MAX:
        raise CorruptError(
            f"snapshot {name} is damaged at offset {offset}: block of {length} bytes,"
            f" expected at most {SNAPSHOT_CHUNK_BYTES_MAX}"
        )


def check_block(kind: bytes, payload: bytes, crc: int, name: str, offset: int) -> None:
    """Raise CorruptError unless the checksum holds."""
    if zlib.crc32(payload, zlib.crc32(kind)) != crc:
        raise CorruptError(f"snapshot {name} is damaged at offset {offset}: checksum of a block differs")


def decode_manifest(payload: bytes, name: str) -> Manifest:
    """Return the manifest; raises CorruptError."""
    try:
        return msgspec.msgpack.decode(payload, type=Manifest)
    except MALFORMED as error:
        raise CorruptError(f"snapshot {name} has a bad manifest: {error}") from error


def decode_end(payload: bytes, name: str) -> End:
    """Return the end block; raises CorruptError."""
    try:
        return msgspec.msgpack.decode(payload, type=End)
    except MALFORMED as error:
        raise CorruptError(f"snapshot {name} has a bad end: {error}") from error

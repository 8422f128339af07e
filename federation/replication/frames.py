"""Framed records in an append-only file, and how damage is told from a write that a crash cut short.

A frame is the payload's length, a CRC of that length, a CRC of the payload (three little-endian 32-bit
numbers), then the payload. The length has a check of its own: a flipped bit in it must not make the
rest of the file look like one long record that was cut short.
"""

import struct
import zlib
from collections.abc import Iterator

from federation.kernel.errors import CorruptError

_HEADER = struct.Struct("<III")
HEADER_BYTES = _HEADER.size
PAYLOAD_BYTES_MAX = 4 * 1024 * 1024


def frame(payload: bytes) -> bytes:
    """Return the payload with its header."""
    assert len(payload) <= PAYLOAD_BYTES_MAX, f"a record of {len(payload)} bytes"
    return _HEADER.pack(len(payload), _length_check(len(payload)), zlib.crc32(payload)) + payload


def read_frames(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield each payload and the offset behind it; end at a tail that was cut short.

    Cut short is: a frame that the end of the file cuts, a last frame whose payload fails its check, or
    nothing but zeros (blocks that a power cut left unwritten). Raises `CorruptError` for damage before
    the last frame.
    """
    offset = 0
    while len(data) - offset >= HEADER_BYTES:
        length, length_check, check = _HEADER.unpack_from(data, offset)
        start = offset + HEADER_BYTES
        if length_check != _length_check(length) or length > PAYLOAD_BYTES_MAX:
            if not any(data[offset:]):
                return
            raise CorruptError(f"the record at byte {offset} has a damaged header")
        payload = data[start : start + length]
        if len(payload) < length:
            return
        if zlib.crc32(payload) != check:
            if start + length == len(data) or not any(data[start + length :]):
                return
            raise CorruptError(f"the record at byte {offset} fails its checksum")
        offset = start + length
        yield offset, payload


def _length_check(length: int) -> int:
    return zlib.crc32(length.to_bytes(4, "little"), 0x15746D75)  # Not 0, so that zeros are no empty frame.

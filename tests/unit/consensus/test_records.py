"""The journal's bytes: what a crash may cut off is dropped, everything else is named and refused."""

import struct
import zlib

import pytest

from consensus.core.records import (
    BATCH_MAGIC,
    FILE_HEADER,
    FORMAT_VERSION,
    Base,
    Commit,
    Entry,
    Record,
    Truncate,
    Vote,
    decode_file,
    encode_batch,
)
from federation.kernel.errors import CorruptError, PreconditionError
from tests.unit.consensus.builders import ALPHA

FIRST: list[Record] = [Base(index=1, term=0, voters=(ALPHA,)), Vote(term=0, voted_for=None)]
SECOND: list[Record] = [
    Vote(term=3, voted_for="alpha"),
    Entry(2, 3, b"\x01"),
    Entry(3, 3, b"\x00" + BATCH_MAGIC),
]
LAST: list[Record] = [Truncate(index=3), Entry(3, 4, b"\x00last"), Commit(index=2)]
GOOD = FILE_HEADER + encode_batch(FIRST) + encode_batch(SECOND)
WHOLE = GOOD + encode_batch(LAST)


def test_records_come_back_as_written() -> None:
    assert decode_file(WHOLE, "j") == (FIRST + SECOND + LAST, len(WHOLE))


@pytest.mark.parametrize("length", range(len(GOOD), len(WHOLE)))
def test_a_last_batch_cut_at_any_byte_is_dropped(length: int) -> None:
    assert decode_file(WHOLE[:length], "j") == (FIRST + SECOND, len(GOOD))


@pytest.mark.parametrize("position", range(len(GOOD), len(WHOLE)))
def test_a_last_batch_with_any_bad_byte_is_dropped(position: int) -> None:
    assert decode_file(flipped(WHOLE, position), "j") == (FIRST + SECOND, len(GOOD))


@pytest.mark.parametrize("position", range(len(FILE_HEADER), len(GOOD)))
def test_a_bad_byte_with_a_good_batch_behind_it_is_damage(position: int) -> None:
    batch_at = (
        len(FILE_HEADER)
        if position < len(FILE_HEADER + encode_batch(FIRST))
        else len(GOOD) - len(encode_batch(SECOND))
    )
    with pytest.raises(CorruptError, match=f"journal j is damaged at offset {batch_at}"):
        decode_file(flipped(WHOLE, position), "j")


def test_zeros_in_the_middle_are_damage() -> None:
    middle = len(FILE_HEADER) + 5
    with pytest.raises(CorruptError):
        decode_file(WHOLE[:middle] + bytes(40) + WHOLE[middle + 40 :], "j")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        pytest.param(b"", CorruptError, "does not begin with", id="empty"),
        pytest.param(b"ISTHM", CorruptError, "does not begin with", id="short"),
        pytest.param(b"x" * 20, CorruptError, "does not begin with", id="another-file"),
        pytest.param(
            FILE_HEADER[:-1] + bytes([FORMAT_VERSION + 1]),
            PreconditionError,
            "start a newer version",
            id="newer",
        ),
        pytest.param(FILE_HEADER[:-1] + b"\0", CorruptError, "has format 0", id="version-0"),
    ],
)
def test_a_file_that_is_not_a_journal_is_named(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decode_file(data, "j")


def test_a_good_checksum_over_an_unknown_record_is_refused() -> None:
    payload = b"\x91\x92\xa3new\x01"
    head = struct.pack(
        "<4sII", BATCH_MAGIC, len(payload), zlib.crc32(payload, zlib.crc32(struct.pack("<I", len(payload))))
    )
    with pytest.raises(CorruptError, match=f"unknown record at offset {len(FILE_HEADER)}"):
        decode_file(FILE_HEADER + head + payload, "j")


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]

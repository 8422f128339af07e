"""A backup's bytes: what was written comes back, and whatever was changed is refused with its place."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from certs.runtime.keystore import SCRYPT_WORK_LOG2_MIN
from consensus.core.contract import MemberAddress
from federation.app.backup_file import BackupReader, Manifest, encode_backup, read_key, write_backup
from federation.kernel.errors import (
    AlreadyExistsError,
    CorruptError,
    InvalidInputError,
    IsthmusError,
    NotFoundError,
    PreconditionError,
)

CHUNKS = (b"first", b"", b"third" * 100)
KEY = b"a passphrase of some length"
MANIFEST = Manifest(
    federation="prod-1",
    incarnation=1,
    controller="alpha-c1",
    version="0.1.0",
    created_unix_ms=1,
    revision=7,
    index=9,
    term=2,
    members=(MemberAddress(id="alpha", address="10.0.0.1:7443", identity="spiffe://a/x"),),
    counts={"Cluster": 1},
)


def made(key: bytes | None = None) -> bytes:
    return b"".join(encode_backup(MANIFEST, iter(CHUNKS), key=key, work_log2=SCRYPT_WORK_LOG2_MIN))


def read(data: bytes, key: bytes | None = None) -> tuple[Manifest, tuple[bytes, ...]]:
    reader = BackupReader(io.BytesIO(data), name="b", key=key)
    return reader.manifest, tuple(reader.chunks())


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_what_was_written_comes_back(key: bytes | None) -> None:
    assert read(made(key), key) == (MANIFEST, CHUNKS)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_flip_of_any_byte_is_refused(key: bytes | None) -> None:
    data = made(key)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        with pytest.raises(IsthmusError):
            read(bytes(damaged), key)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_file_cut_at_any_byte_is_refused_as_cut_off(key: bytes | None) -> None:
    data = made(key)
    for length in range(len(data)):
        with pytest.raises(CorruptError, match=r"cut off at offset|not a backup"):
            read(data[:length], key)


def test_damage_is_told_with_its_offset() -> None:
    data = bytearray(made())
    data[data.index(b"third")] ^= 1
    place = data.index(b"first")
    with pytest.raises(
        CorruptError, match=r"^b is damaged at offset \d+: the checksum of a block differs$"
    ) as told:
        read(bytes(data))
    assert place < int(str(told.value).split("offset ")[1].split(":")[0])


def test_blocks_out_of_order_do_not_open() -> None:
    blocks = list(encode_backup(MANIFEST, iter((b"one", b"two")), key=KEY, work_log2=SCRYPT_WORK_LOG2_MIN))
    with pytest.raises(CorruptError, match="the file was changed"):
        read(b"".join((blocks[0], blocks[2], blocks[1], blocks[3])), KEY)


def test_what_follows_the_end_is_refused() -> None:
    with pytest.raises(CorruptError, match="bytes follow its end"):
        read(made() + b"x")


def test_a_wrong_key_is_named_as_one() -> None:
    with pytest.raises(CorruptError, match="does not open: wrong key"):
        read(made(KEY), b"another passphrase here")


@pytest.mark.parametrize(
    ("written", "given", "message"),
    [(KEY, None, "b is encrypted: give --key-file"), (None, KEY, "b is not encrypted: leave --key-file out")],
)
def test_a_key_is_given_exactly_where_one_is_needed(
    written: bytes | None, given: bytes | None, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read(made(written), given)


def test_nothing_of_a_sealed_backup_can_be_read_without_the_key() -> None:
    data = made(KEY)
    assert b"prod-1" not in data
    assert b"first" not in data
    assert made(KEY) != data


def test_a_newer_format_is_named() -> None:
    data = bytearray(made())
    data[8] = 2
    with pytest.raises(PreconditionError, match="b has format 2, this program reads up to 1"):
        read(bytes(data))


def test_a_file_is_written_at_once_or_not_at_all_and_never_over_another(tmp_path: Path) -> None:
    def cut() -> Iterator[bytes]:
        yield b"begun"
        raise CorruptError("the rest never came")

    path = tmp_path / "backup"
    with pytest.raises(CorruptError):
        write_backup(path, cut())
    assert list(tmp_path.iterdir()) == []
    assert write_backup(path, iter([b"abc", b"d"])) == 4
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"abcd", 0o600)
    with pytest.raises(AlreadyExistsError, match="never overwritten"):
        write_backup(path, iter([b"other"]))
    assert path.read_bytes() == b"abcd"
    assert [one.name for one in tmp_path.iterdir()] == ["backup"]
    with pytest.raises(NotFoundError, match="no such directory"):
        write_backup(tmp_path / "no" / "backup", iter([b""]))


def test_a_key_file_is_a_passphrase_or_random_bytes_of_some_length(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"  a long enough passphrase\n")
    assert read_key(path) == b"a long enough passphrase"
    path.write_bytes(b"short\n")
    with pytest.raises(InvalidInputError, match="has 5 bytes, expected 16"):
        read_key(path)
    with pytest.raises(NotFoundError):
        read_key(tmp_path / "none")

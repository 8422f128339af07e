"""A backup's bytes, on their way from a controller and in a file.

    file   = MAGIC version mode work_log2 salt block*
    block  = length:u32 sealed      (little endian; `length` is that of `sealed`)
    sealed = crc32:u32 plain        in mode "P": readable by anybody who has the file
           = AES-256-GCM(plain)     in mode "S": the nonce is the block's number, the file's head and the
                                    number are authenticated, the key is scrypt(key file, salt) with
                                    N=2**work_log2, r=8, p=1
    plain  = kind:u8 payload

The first block is the manifest, the last one the end, which counts the blocks between and has the SHA-256 of
all that came before; those between are the catalog's snapshot. A salt is used once, and with it each key, so
that a counter can be the nonce.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from certs.runtime.keystore import (
    SCRYPT_WORK_LOG2,
    SCRYPT_WORK_LOG2_MAX,
    SCRYPT_WORK_LOG2_MIN,
    sync_directory,
    usable,
)
from consensus.core.contract import SNAPSHOT_CHUNK_BYTES_MAX, MemberAddress
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    AlreadyExistsError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)

MAGIC = b"ISTHMUSB"
FORMAT_VERSION = 1
KEY_BYTES_MIN = 16
KEY_FILE_BYTES_MAX = 64 * 1024
_SALT_BYTES = 16
_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")
_HEAD_BYTES = len(MAGIC) + 3 + _SALT_BYTES
_BLOCK_BYTES_MAX = SNAPSHOT_CHUNK_BYTES_MAX + 64

KIND_MANIFEST, KIND_CHUNK, KIND_END = b"M", b"D", b"E"
_PLAIN, _SEALED = b"P", b"S"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a backup says of itself."""

    federation: str
    incarnation: int
    controller: str  # That it was taken from: CLUSTER-ID.
    version: str  # Of the program.
    created_unix_ms: int
    revision: int
    index: int
    term: int
    members: tuple[MemberAddress, ...]  # Those that voted.
    counts: dict[str, int]  # Resources by kind; endpoints under "Endpoint".


class _End(msgspec.Struct, frozen=True, kw_only=True):
    chunks: int
    sha256: bytes


class Readable(Protocol):
    """A file, or an answer of a controller."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""
        ...


class _Sealer:
    """Seals and opens the blocks of one file, in their order."""

    def __init__(self, head: bytes, key: bytes | None) -> None:
        self._head = head
        self._count = 0
        self._cipher = None
        if key is not None:
            work, salt = 2 ** head[-_SALT_BYTES - 1], head[-_SALT_BYTES:]
            self._cipher = AESGCM(Scrypt(salt=salt, length=32, n=work, r=8, p=1).derive(key))

    def seal(self, plain: bytes) -> bytes:
        nonce, associated = self._next()
        if self._cipher is None:
            return _CRC.pack(zlib.crc32(plain)) + plain
        return self._cipher.encrypt(nonce, plain, associated)

    def open(self, sealed: bytes, where: str) -> bytes:
        nonce, associated = self._next()
        if self._cipher is None:
            if len(sealed) < _CRC.size or _CRC.unpack_from(sealed)[0] != zlib.crc32(sealed[_CRC.size :]):
                raise CorruptError(f"{where}: the checksum of a block differs")
            return sealed[_CRC.size :]
        try:
            return self._cipher.decrypt(nonce, sealed, associated)
        except InvalidTag as error:
            reason = "wrong key, or the file was changed" if self._count == 1 else "the file was changed"
            raise CorruptError(f"{where}: a block does not open: {reason}") from error

    def _next(self) -> tuple[bytes, bytes]:
        number = self._count.to_bytes(12)
        self._count += 1
        return number, self._head + number


def encode_backup(
    manifest: Manifest, chunks: Iterator[bytes], *, key: bytes | None, work_log2: int = SCRYPT_WORK_LOG2
) -> Iterator[bytes]:
    """Yield the bytes of a backup; with a key, sealed."""
    if key is None:
        secrecy = _PLAIN + bytes(1 + _SALT_BYTES)
    else:
        secrecy = _SEALED + bytes([work_log2]) + os.urandom(_SALT_BYTES)
    head = MAGIC + bytes([FORMAT_VERSION]) + secrecy
    sealer, digest, count = _Sealer(head, key), hashlib.sha256(), 0

    def block(plain: bytes) -> bytes:
        sealed = sealer.seal(plain)
        return _LENGTH.pack(len(sealed)) + sealed

    first = KIND_MANIFEST + msgspec.json.encode(manifest)
    digest.update(first)
    yield head + block(first)
    for chunk in chunks:
        count += 1
        plain = KIND_CHUNK + chunk
        digest.update(plain)
        yield block(plain)
    yield block(KIND_END + msgspec.msgpack.encode(_End(chunks=count, sha256=digest.digest())))


class BackupReader:
    """Reads one backup; the manifest at once, the rest by `chunks`. Raises CorruptError with the place."""

    def __init__(self, source: Readable, *, name: str, key: bytes | None) -> None:
        """Read up to the manifest.

        Raises InvalidInputError when a key is missing or was given for nothing, PreconditionError for a
        newer format.
        """
        self._source = source
        self._name = name
        self._offset = 0
        head = self._read(_HEAD_BYTES)
        if not head.startswith(MAGIC):
            raise CorruptError(f"{name} is not a backup: it does not begin with {MAGIC.decode()}")
        version, mode = head[len(MAGIC)], head[len(MAGIC) + 1 : len(MAGIC) + 2]
        if version > FORMAT_VERSION:
            raise PreconditionError(
                f"{name} has format {version}, this program reads up to {FORMAT_VERSION}: use a newer version"
            )
        work_log2 = head[len(MAGIC) + 2]
        if version < 1 or mode not in (_PLAIN, _SEALED):
            raise CorruptError(f"{name} is damaged at offset {len(MAGIC)}: format {version}, mode {mode!r}")
        self.is_sealed = mode == _SEALED
        # Whoever wrote the file must not choose how much memory it takes to read it.
        if self.is_sealed and not SCRYPT_WORK_LOG2_MIN <= work_log2 <= SCRYPT_WORK_LOG2_MAX:
            raise CorruptError(
                f"{name} is damaged at offset {len(MAGIC) + 2}: work_log2 is {work_log2},"
                f" expected {SCRYPT_WORK_LOG2_MIN} to {SCRYPT_WORK_LOG2_MAX}"
            )
        if not self.is_sealed and any(head[len(MAGIC) + 2 :]):
            raise CorruptError(f"{name} is damaged at offset {len(MAGIC) + 2}: expected zeros")
        if self.is_sealed != (key is not None):
            raise InvalidInputError(
                f"{name} is encrypted: give --key-file"
                if self.is_sealed
                else f"{name} is not encrypted: leave --key-file out"
            )
        self._sealer = _Sealer(head, key)
        self._digest = hashlib.sha256()
        kind, payload = self._block()
        if kind != KIND_MANIFEST:
            raise CorruptError(f"{name} is damaged at offset {_HEAD_BYTES}: expected a manifest")
        try:
            self.manifest = msgspec.json.decode(payload, type=Manifest)
        except MALFORMED as error:
            raise CorruptError(f"{name}: its manifest cannot be read: {error}") from error

    def chunks(self) -> Iterator[bytes]:
        """Yield the catalog's snapshot; ends only if all of it was there, unchanged."""
        count = 0
        while True:
            before, offset = self._digest.digest(), self._offset
            kind, payload = self._block()
            if kind == KIND_CHUNK:
                count += 1
                yield payload
                continue
            if kind != KIND_END:
                raise CorruptError(f"{self._name} is damaged at offset {offset}: block of kind {kind!r}")
            self._check_end(payload, count, before, offset)
            return

    def _check_end(self, payload: bytes, count: int, digest: bytes, offset: int) -> None:
        try:
            end = msgspec.msgpack.decode(payload, type=_End)
        except MALFORMED as error:
            raise CorruptError(f"{self._name} is damaged at offset {offset}: {error}") from error
        if end.chunks != count or end.sha256 != digest:
            raise CorruptError(f"{self._name} is damaged: its end does not match its {count} blocks")
        if self._source.read(1):
            raise CorruptError(f"{self._name} is damaged at offset {self._offset}: bytes follow its end")

    def _block(self) -> tuple[bytes, bytes]:
        offset = self._offset
        where = f"{self._name} is damaged at offset {offset}"
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if not 0 < length <= _BLOCK_BYTES_MAX:
            raise CorruptError(f"{where}: a block of {length} bytes, expected 1 to {_BLOCK_BYTES_MAX}")
        plain = self._sealer.open(self._read(length), where)
        self._digest.update(plain)
        return plain[:1], plain[1:]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._source.read(size - len(data))
            if not more:
                raise CorruptError(f"{self._name} is cut off at offset {self._offset + len(data)}")
            data += more
        self._offset += size
        return data


def read_key(path: Path) -> bytes:
    """Return the content of a key file, without the white space around it: a passphrase or random bytes."""
    try:
        with usable(path), path.open("rb") as file:
            raw = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    key = raw.strip()
    if not KEY_BYTES_MIN <= len(key) <= KEY_FILE_BYTES_MAX:
        raise InvalidInputError(
            f"key file {path} has {len(key)} bytes, expected {KEY_BYTES_MIN} to {KEY_FILE_BYTES_MAX}"
        )
    return key


def write_backup(path: Path, blocks: Iterator[bytes]) -> int:
    """Write a new file of mode 0600, durably, at once or not at all; return its length.

    Raises AlreadyExistsError: a backup is never overwritten.
    """
    new = path.with_name(f".{path.name}.new")
    if path.exists():
        raise AlreadyExistsError(f"{path} exists: a backup is never overwritten")
    size_bytes = 0
    try:
        with usable(path):
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for block in blocks:
                    file.write(block)
                    size_bytes += len(block)
                file.flush()
                os.fsync(file.fileno())
            os.link(new, path)  # Not rename: it would replace what came there meanwhile.
    except FileExistsError as error:
        raise AlreadyExistsError(f"{path} exists: a backup is never overwritten") from error
    except FileNotFoundError as error:
        raise NotFoundError(f"{path.parent}: no such directory") from error
    finally:
        if new.parent.exists():
            new.unlink(missing_ok=True)
    sync_directory(path.parent)
    return size_bytes


def open_backup(path: Path) -> BinaryIO:
    """Open a backup for reading; raises NotFoundError or PreconditionError."""
    try:
        with usable(path):
            return path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error

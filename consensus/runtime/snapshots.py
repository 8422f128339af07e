"""Snapshot files: written slice by slice, verified before use, copied to members that lag."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consensus.core.contract import SNAPSHOT_CHUNK_BYTES_MAX
from consensus.core.snapshots import (
    BLOCK_HEAD,
    FILE_HEADER,
    KIND_CHUNK,
    KIND_END,
    KIND_MANIFEST,
    Manifest,
    check_block,
    check_header,
    check_length,
    decode_end,
    decode_manifest,
    encode_block,
    encode_end,
    encode_manifest,
)
from consensus.runtime.disk import FILE_DISK, Disk, naming_errors, replace_durably
from federation.kernel.errors import CorruptError, InvalidInputError, LimitExceededError

FILE_NAME = "snapshot"
SLICE_BYTES = 1024 * 1024  # Written and synced in one go: a few milliseconds.
SNAPSHOT_BYTES_MAX = 8 * 1024**3  # The catalog's budget at a million endpoints is 0.5 GiB.


def snapshot_path(directory: Path) -> Path:
    """Return where a member keeps its snapshot."""
    return directory / FILE_NAME


class _Reader:
    """Reads one file from its beginning."""

    def __init__(self, disk: Disk, descriptor: int) -> None:
        self._disk = disk
        self._descriptor = descriptor
        self.offset = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` only at the end."""
        data = self._disk.read(self._descriptor, size, self.offset)
        self.offset += len(data)
        return data


@contextmanager
def _reading(path: Path, disk: Disk) -> Iterator[_Reader]:
    with naming_errors(path, "read"):
        descriptor = disk.open_read(path)
        try:
            yield _Reader(disk, descriptor)
        finally:
            disk.close(descriptor)


def unfinished_paths(directory: Path) -> tuple[Path, ...]:
    """Return the names of snapshots that are being written or received."""
    path = snapshot_path(directory)
    return path.with_suffix(".new"), path.with_suffix(".incoming")


def verify(path: Path, disk: Disk = FILE_DISK) -> Manifest:
    """Read all of the file and return its manifest; raises CorruptError naming the offset."""
    manifest: Manifest | None = None
    chunks = 0
    with _reading(path, disk) as file:
        digest = hashlib.sha256()
        for kind, payload, raw in _blocks(file, path):
            if manifest is None:
                if kind != KIND_MANIFEST:
                    raise CorruptError(f"snapshot {path} does not begin with a manifest")
                manifest = decode_manifest(payload, str(path))
            elif kind == KIND_CHUNK:
                chunks += 1
            elif kind == KIND_END:
                end = decode_end(payload, str(path))
                if end.chunks != chunks or end.sha256 != digest.digest() or file.read(1):
                    raise CorruptError(
                        f"snapshot {path} is damaged: its end does not match its {chunks} chunks"
                    )
                return manifest
            else:
                raise CorruptError(f"snapshot {path} has a block of unknown kind {kind!r}")
            digest.update(raw)
    raise CorruptError(f"snapshot {path} has no end block: it was cut off")


def read_chunks(path: Path, disk: Disk = FILE_DISK) -> Iterator[bytes]:
    """Yield the state machine's chunks of a verified file."""
    with _reading(path, disk) as file:
        for kind, payload, _raw in _blocks(file, path):
            if kind == KIND_CHUNK:
                yield payload


def _blocks(file: _Reader, path: Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield kind, payload and raw bytes of each block; the first one's raw bytes include the file header."""
    name = str(path)
    prefix = file.read(len(FILE_HEADER))
    check_header(prefix, name)
    while True:
        offset = file.offset
        head = file.read(BLOCK_HEAD.size)
        if not head:
            return
        if len(head) < BLOCK_HEAD.size:
            raise CorruptError(f"snapshot {name} is cut off at offset {offset}")
        length, crc, kind = BLOCK_HEAD.unpack(head)
        check_length(length, name, offset)
        payload = file.read(length)
        if len(payload) < length:
            raise CorruptError(f"snapshot {name} is cut off at offset {offset}")
        check_block(kind, payload, crc, name, offset)
        yield kind, payload, prefix + head + payload
        prefix = b""


class SnapshotWriter:
    """Writes one snapshot; call `step` until it returns True. The old file stays until then."""

    def __init__(
        self, directory: Path, manifest: Manifest, chunks: Iterator[bytes], disk: Disk = FILE_DISK
    ) -> None:
        """Begin; the first chunk is drawn here, while the state is the manifest's."""
        self.manifest = manifest
        self._disk = disk
        self._path = snapshot_path(directory)
        self._new = self._path.with_suffix(".new")
        self._chunks = chunks
        self._drawn = next(chunks, None)
        self._count = 0
        self._digest = hashlib.sha256()
        self._descriptor = -1
        self._buffer = bytearray()
        self.size_bytes = 0

    def step(self) -> bool:
        """Write the next SLICE_BYTES; True when the snapshot is durable and has its name."""
        with naming_errors(self._new, "write"):
            if self._descriptor < 0:
                self._descriptor = self._disk.create(self._new)
                self._put(encode_manifest(self.manifest))
            while self._drawn is not None and len(self._buffer) < SLICE_BYTES:
                if len(self._drawn) > SNAPSHOT_CHUNK_BYTES_MAX:
                    raise LimitExceededError(
                        f"state machine gave a snapshot chunk of {len(self._drawn)} bytes,"
                        f" expected at most {SNAPSHOT_CHUNK_BYTES_MAX}"
                    )
                self._put(encode_block(KIND_CHUNK, self._drawn))
                self._count += 1
                self._drawn = next(self._chunks, None)
            done = self._drawn is None
            if done:
                self._put(encode_end(self._count, self._digest.digest()))
            self._disk.write(self._descriptor, bytes(self._buffer))
            self._disk.sync_data(self._descriptor)
            self.size_bytes += len(self._buffer)
            self._buffer.clear()
            if done:
                self.close()
                replace_durably(self._disk, self._new, self._path)
        return done

    def close(self) -> None:
        """Give up an unfinished file; the next writer overwrites it."""
        if self._descriptor >= 0:
            self._disk.close(self._descriptor)
            self._descriptor = -1

    def _put(self, block: bytes) -> None:
        self._digest.update(block)
        self._buffer += block


class OutgoingSnapshot:
    """The file as it was when the copy began: a newer one takes its name, not its bytes."""

    def __init__(self, directory: Path, index: int, disk: Disk = FILE_DISK) -> None:
        self._path = snapshot_path(directory)
        self._disk = disk
        with naming_errors(self._path, "read"):
            self._descriptor = disk.open_read(self._path)
            self.total_bytes = disk.size_bytes(self._path)
        self.index = index
        self.sent_bytes = 0
        self.acknowledged_bytes = 0

    @property
    def has_more(self) -> bool:
        """True while something was not sent."""
        return self.sent_bytes < self.total_bytes

    @property
    def unacknowledged_bytes(self) -> int:
        """Return what is on its way."""
        return self.sent_bytes - self.acknowledged_bytes

    def read(self, bytes_max: int) -> bytes:
        """Return the next piece and count it as sent."""
        with naming_errors(self._path, "read"):
            data = self._disk.read(self._descriptor, bytes_max, self.sent_bytes)
        self.sent_bytes += len(data)
        return data

    def close(self) -> None:
        """Release the file."""
        self._disk.close(self._descriptor)


class IncomingSnapshot:
    """A copy being received from a leader."""

    def __init__(self, directory: Path, index: int, total_bytes: int, disk: Disk = FILE_DISK) -> None:
        if total_bytes > SNAPSHOT_BYTES_MAX:
            raise InvalidInputError(
                f"snapshot {index} has {total_bytes} bytes, expected at most {SNAPSHOT_BYTES_MAX}"
            )
        self.index = index
        self.total_bytes = total_bytes
        self.received_bytes = 0
        self._path = snapshot_path(directory)
        self._new = self._path.with_suffix(".incoming")
        self._disk = disk
        with naming_errors(self._new, "create"):
            self._descriptor = disk.create(self._new)

    def write(self, offset: int, data: bytes) -> bool:
        """Add a piece if it is the next one; True when the copy has all its bytes."""
        if offset == self.received_bytes:
            if offset + len(data) > self.total_bytes:
                raise InvalidInputError(
                    f"snapshot {self.index} exceeds the {self.total_bytes} bytes announced"
                )
            with naming_errors(self._new, "write"):
                self._disk.write(self._descriptor, data)
                self._disk.sync_data(self._descriptor)
            self.received_bytes += len(data)
        return self.received_bytes == self.total_bytes

    def install(self, index: int) -> Manifest:
        """Verify the copy and make it this member's snapshot, durably; raises CorruptError."""
        manifest = verify(self._new, self._disk)
        if manifest.index != index:
            raise CorruptError(f"snapshot {self._new} ends at {manifest.index}, {index} was announced")
        with naming_errors(self._path, "replace"):
            replace_durably(self._disk, self._new, self._path)
        return manifest

    def close(self) -> None:
        """Release the file."""
        self._disk.close(self._descriptor)

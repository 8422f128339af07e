"""A follower's copy on disk: with it a process starts while no controller can be reached (invariant F1).

One file: a base (every row at one moment), then what changed since, in order, as framed records. When
the changes outgrow the base the file is written anew beside the old one and renamed over it, so that
the cost stays proportional to the changes (C3). Appends are not forced to the disk: the catalog is the
controllers', a copy that lost its last changes only resumes a little earlier. A damaged copy is moved
aside, never guessed at; the follower then lists again.
"""

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, TypeAlias

import msgspec
import structlog

from discovery.core.model import Change
from discovery.core.tables import Table, Tables
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError, PreconditionError
from federation.replication.frames import PAYLOAD_BYTES_MAX, frame, read_frames
from federation.replication.state import Image, Update
from federation.replication.wire import chunks

FORMAT = 1
FILE_NAME = "catalog.copy"
DAMAGED_NAME = "catalog.copy.damaged"
LOCK_NAME = "lock"

# Below this a rewrite saves nothing worth its work.
CHANGES_BYTES_MIN = 1024 * 1024

_Part: TypeAlias = Literal["resources", "endpoints", "own"]
_log = structlog.get_logger(__name__)


class _Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Base of the records."""


class _Base(_Record, frozen=True, kw_only=True, array_like=True, tag="base"):
    """First record of a file."""

    format: int
    history: str
    cluster: str
    revision: int


class _Rows(_Record, frozen=True, kw_only=True, array_like=True, tag="rows"):
    """A part of the base, in key order."""

    part: _Part
    rows: tuple[tuple[bytes, bytes], ...]


class _BaseEnd(_Record, frozen=True, kw_only=True, array_like=True, tag="base-end"):
    """The base is complete; without this there is no copy."""

    synced_unix_ms: int


class _Changed(_Record, frozen=True, kw_only=True, array_like=True, tag="changed"):
    """One update."""

    revision: int
    changes: tuple[Change, ...]
    own: tuple[Change, ...]


class _Synced(_Record, frozen=True, kw_only=True, array_like=True, tag="synced"):
    """The copy was up to date at this time."""

    unix_ms: int


_AnyRecord: TypeAlias = _Base | _Rows | _BaseEnd | _Changed | _Synced
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_AnyRecord] = msgspec.msgpack.Decoder(_AnyRecord)


class DiskCopy:
    """The copy in one directory, which it holds locked until `close`. Safe to call from several threads."""

    def __init__(self, directory: Path, lock: IO[bytes]) -> None:
        self._path = directory / FILE_NAME
        self._directory = directory
        self._lock = lock
        self._turn = threading.Lock()
        self._file: IO[bytes] | None = None  # None: there is no base, or a write failed half-way.
        self._base_bytes = 0
        self._changes_bytes = 0

    @classmethod
    def open(cls, directory: Path) -> "DiskCopy":
        """Take the directory, made if need be; raises `PreconditionError` when another process holds it."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / LOCK_NAME).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise PreconditionError(
                f"{directory} is in use by another process: give each process a data directory of its own"
            ) from error
        return cls(directory, lock)

    def close(self) -> None:
        """Give the directory back."""
        with self._turn:
            self._close_file()
            self._lock.close()

    @property
    def wants_rewrite(self) -> bool:
        """True when there is no sound base, or more changes than base."""
        return self._file is None or self._changes_bytes > max(self._base_bytes, CHANGES_BYTES_MIN)

    def load(self) -> Image | None:
        """Return the stored copy, or None when there is none; a damaged one is moved aside and logged."""
        with self._turn:
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise PreconditionError(
                    f"{self._path}: the stored copy cannot be read: {error.strerror}"
                ) from error
            try:
                image, base_bytes, end = _read(memoryview(data))
            except CorruptError as error:
                aside = self._directory / DAMAGED_NAME
                self._path.replace(aside)
                _log.error(
                    "stored copy damaged, starting without it", moved_to=str(aside), reason=error.message
                )
                return None
            self._file = self._path.open("r+b", buffering=0)
            self._file.truncate(end)
            self._file.seek(end)
            self._base_bytes, self._changes_bytes = base_bytes, end - base_bytes
            if end < len(data):
                _log.warning(
                    "stored copy ended in a cut record", path=str(self._path), dropped_bytes=len(data) - end
                )
            return image

    def append(self, updates: Iterable[Update], *, synced_unix_ms: int) -> None:
        """Add updates; afterwards, or when they fit no record, `wants_rewrite` may be true. Raises OSError."""
        with self._turn:
            if self._file is None:
                return
            records: list[bytes] = []
            for update in updates:
                payload = _encoder.encode(
                    _Changed(revision=update.revision, changes=tuple(update.changes), own=update.own)
                )
                if len(payload) > PAYLOAD_BYTES_MAX:
                    self._close_file()
                    return
                records.append(frame(payload))
            records.append(frame(_encoder.encode(_Synced(unix_ms=synced_unix_ms))))
            self._write(b"".join(records))

    def rewrite(self, image: Image) -> None:
        """Replace the copy by `image`. Raises OSError; the old copy then stays as it was."""
        with self._turn:
            self._close_file()
            fresh = self._path.with_suffix(".new")
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 (Path.open takes no mode bits)
                file.writelines(frame(_encoder.encode(record)) for record in _base(image))
                file.flush()
                # The name must not lead to an empty file after a power cut.
                os.fdatasync(file.fileno())
                size_bytes = file.tell()
            fresh.replace(self._path)
            self._file = self._path.open("r+b", buffering=0)
            self._file.seek(size_bytes)
            self._base_bytes, self._changes_bytes = size_bytes, 0

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            written = self._file.write(data)
        except OSError:
            self._close_file()
            raise
        if written != len(data):  # The disk filled up inside the record: what follows would be unreadable.
            self._close_file()
            raise OSError(f"{self._path}: {written} of {len(data)} bytes written")
        self._changes_bytes += len(data)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _base(image: Image) -> Iterator[_AnyRecord]:
    yield _Base(format=FORMAT, history=image.history, cluster=image.cluster, revision=image.tables.revision)
    parts: tuple[tuple[_Part, Table], ...] = (
        ("resources", image.tables.resources),
        ("endpoints", image.tables.endpoints),
        ("own", image.own),
    )
    for name, table in parts:
        for part in chunks(Change("endpoints", key, value) for key, value in table.items()):
            yield _Rows(part=name, rows=tuple((row.key, row.value or b"") for row in part))
    yield _BaseEnd(synced_unix_ms=image.synced_unix_ms)


def _read(data: memoryview) -> tuple[Image, int, int]:
    """Return the copy, how long its base is, and where sound records end; raises `CorruptError`."""
    reader = _Reader()
    base_bytes = end = 0
    for end, payload in read_frames(data):
        reader.take(payload)
        if reader.base_complete and not base_bytes:
            base_bytes = end
    if not base_bytes:
        raise CorruptError("the base is not complete")
    return reader.image(), base_bytes, end


class _Reader:
    """Builds an image from records."""

    def __init__(self) -> None:
        self.base_complete = False
        self._base: _Base | None = None
        self._revision = 0
        self._synced_unix_ms = 0
        self._rows: dict[_Part, dict[bytes, bytes]] = {"resources": {}, "endpoints": {}, "own": {}}

    def take(self, payload: memoryview) -> None:
        """Take the next record; raises `CorruptError` when it cannot stand here."""
        try:
            record = _decoder.decode(payload)
        except MALFORMED as error:
            raise CorruptError(f"record: {error}") from error
        match record:
            case _Base() if self._base is None:
                if record.format != FORMAT:
                    raise CorruptError(f"the file is of format {record.format}, expected {FORMAT}")
                self._base, self._revision = record, record.revision
            case _Rows() if self._base is not None and not self.base_complete:
                self._rows[record.part].update(record.rows)
            case _BaseEnd() if self._base is not None and not self.base_complete:
                self.base_complete, self._synced_unix_ms = True, record.synced_unix_ms
            case _Changed() if self.base_complete:
                self._revision = record.revision
                for change in record.changes:
                    self._set(change.table, change)
                for change in record.own:
                    self._set("own", change)
            case _Synced() if self.base_complete:
                self._synced_unix_ms = record.unix_ms
            case _:
                raise CorruptError(f"a {type(record).__name__.lstrip('_')} record stands where none may")

    def image(self) -> Image:
        """Return what the records say."""
        assert self._base is not None
        return Image(
            history=self._base.history,
            cluster=self._base.cluster,
            tables=Tables(
                revision=self._revision,
                resources=self._table("resources"),
                endpoints=self._table("endpoints"),
            ),
            own=self._table("own"),
            synced_unix_ms=self._synced_unix_ms,
        )

    def _set(self, part: _Part, change: Change) -> None:
        if change.value is None:
            self._rows[part].pop(change.key, None)
        else:
            self._rows[part][change.key] = change.value

    def _table(self, part: _Part) -> Table:
        return Table.of_sorted(sorted(self._rows[part].items()))

"""What agents told a controller and the catalog does not have yet, on its disk.

One file: a head, then entries in order, as framed records; the last entry of a row counts. When dead entries outgrow
the living ones the file is written anew beside the old one and renamed over it, so that the cost stays proportional
to the changes (C3). Nothing is forced to the disk: an agent repeats itself until it is told `global` (C1), and what a
power cut takes from this file it says again. A file that is damaged, of another controller or federation, or of a
later format is moved aside, never guessed at.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import msgspec
import structlog

from discovery.core.declarations import Withdrawn
from discovery.core.model import unpack_endpoint
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError, IsthmusError
from federation.replication.frames import frame, read_frames

FORMAT = 1
FOLDER = "declared"  # Of a controller's data directory.
FILE_NAME = "declared.journal"
REFUSED_NAME = "declared.journal.refused"

# Below this a rewrite saves nothing worth its work.
DEAD_BYTES_MIN = 1024 * 1024
# Of living entries: about 200,000 endpoints. What comes beyond is not kept.
LIVING_BYTES_MAX = 64 * 1024 * 1024
FILE_BYTES_MAX = 3 * LIVING_BYTES_MAX
ENTRIES_PER_RECORD = 500  # Of rows of at most 4 KiB, so a record stays below what a frame takes.

Entry: TypeAlias = bytes | Withdrawn  # A packed endpoint, or that one is over.
_log = structlog.get_logger(__name__)


class _Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Base of the records."""


class _Head(_Record, frozen=True, kw_only=True, array_like=True, tag="head"):
    """First record of a file."""

    format: int
    controller: str
    federation: str


class _Entries(_Record, frozen=True, kw_only=True, array_like=True, tag="entries"):
    """What became of rows, by key: they differ from the catalog's like this, or (None) no longer."""

    entries: tuple[tuple[bytes, Entry | None], ...]


_AnyRecord: TypeAlias = _Head | _Entries
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_AnyRecord] = msgspec.msgpack.Decoder(_AnyRecord)


class LocalJournal:
    """The journal in a controller's data directory, which is its alone. One call at a time, from any thread."""

    def __init__(self, data_dir: Path, *, controller: str, federation: str) -> None:
        self._path = data_dir / FOLDER / FILE_NAME
        self._head = _Head(format=FORMAT, controller=controller, federation=federation)
        self._sizes: dict[bytes, int] = {}  # Of living entries.
        self._living_bytes = 0
        self._file_bytes = 0
        self._sound = False  # False: there is no file, or a write failed half-way.

    @property
    def wants_rewrite(self) -> bool:
        """True when there is no sound file, or more in it is dead than living."""
        dead_bytes = self._file_bytes - self._living_bytes
        return not self._sound or dead_bytes > max(self._living_bytes, DEAD_BYTES_MIN)

    def load(self) -> dict[bytes, Entry]:
        """Return the living entries; none of a file that is refused, which is moved aside and named in the log."""
        try:
            return self._load()
        except FileNotFoundError:
            return {}
        except (IsthmusError, OSError) as error:
            reason = error.message if isinstance(error, IsthmusError) else str(error)
            aside = self._path.with_name(REFUSED_NAME)
            _log.error("declared_journal_refused", path=str(self._path), moved_to=str(aside), reason=reason)
            with contextlib.suppress(OSError):  # The next write replaces it then.
                self._path.replace(aside)
            return {}

    def _load(self) -> dict[bytes, Entry]:
        size_bytes = self._path.stat().st_size
        if size_bytes > FILE_BYTES_MAX:
            raise CorruptError(f"the file has {size_bytes} bytes, at most {FILE_BYTES_MAX} are expected")
        data = self._path.read_bytes()
        entries, end = self._read(memoryview(data))
        for key, entry in entries.items():
            self._note(key, entry)
        self._file_bytes = end
        self._sound = bool(end) and end == len(data)  # What was cut short is cut off by a rewrite.
        return entries

    def append(self, news: Mapping[bytes, Entry | None]) -> None:
        """Add what became of rows; None for what the catalog says by itself now. Raises OSError."""
        # What finds no room is taken out: nothing older of that row is to come back in its place.
        kept = {key: entry if self._note(key, entry) else None for key, entry in news.items()}
        data = b"".join(_records(kept.items()))
        self._sound = False
        with self._path.open("ab", buffering=0) as file:
            written = file.write(data)
        if written != len(data):
            raise OSError(f"{self._path}: {written} of {len(data)} bytes written")
        self._sound = True
        self._file_bytes += len(data)

    def rewrite(self, entries: Mapping[bytes, Entry]) -> None:
        """Replace the file by one with these entries. Raises OSError; the old one then stays, and wants another rewrite."""
        self._sound = False
        self._sizes, self._living_bytes = {}, 0
        kept = [(key, entry) for key, entry in entries.items() if self._note(key, entry)]
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 (Path.open takes no mode bits)
            file.write(frame(_encoder.encode(self._head)))
            file.writelines(_records(kept))
            file.flush()
            # The name must not lead to an empty file after a power cut.
            os.fdatasync(file.fileno())
            self._file_bytes = file.tell()
        fresh.replace(self._path)
        self._sound = True

    def _note(self, key: bytes, entry: Entry | None) -> bool:
        """Count an entry; False for one that finds no room."""
        before = self._sizes.pop(key, 0)
        self._living_bytes -= before
        if entry is None:
            return True
        size = len(key) + (len(entry) if isinstance(entry, bytes) else len(key) + len(entry.agent))
        if self._living_bytes + size > LIVING_BYTES_MAX:
            return False
        self._sizes[key] = size
        self._living_bytes += size
        return True

    def _read(self, data: memoryview) -> tuple[dict[bytes, Entry], int]:
        """Return the living entries, and where sound records end; raises `CorruptError`."""
        entries: dict[bytes, Entry] = {}
        end = 0
        for offset, payload in read_frames(data):
            record = _decode(payload)
            if isinstance(record, _Head) != (end == 0):
                raise CorruptError(f"a {type(record).__name__.lstrip('_')} record stands where none may")
            if isinstance(record, _Head):
                self._check_head(record)
            else:
                _replay(record, entries)
            end = offset
        return entries, end

    def _check_head(self, head: _Head) -> None:
        for what, found, expected in (
            ("format", head.format, self._head.format),
            ("controller", head.controller, self._head.controller),
            ("federation", head.federation, self._head.federation),
        ):
            if found != expected:
                raise CorruptError(f"the file is of {what} {found}, expected {expected}")


def _records(entries: Iterable[tuple[bytes, Entry | None]]) -> Iterator[bytes]:
    rest = iter(entries)
    while part := tuple(islice(rest, ENTRIES_PER_RECORD)):
        yield frame(_encoder.encode(_Entries(entries=part)))


def _decode(payload: memoryview) -> _AnyRecord:
    try:
        return _decoder.decode(payload)
    except MALFORMED as error:
        raise CorruptError(f"record: {error}") from error


def _replay(record: _Entries, entries: dict[bytes, Entry]) -> None:
    for key, entry in record.entries:
        if entry is None:
            entries.pop(key, None)
            continue
        try:
            there = unpack_endpoint(entry).key if isinstance(entry, bytes) else entry.key
        except MALFORMED as error:
            raise CorruptError(f"entry: {error}") from error
        if there.encode() != key:
            raise CorruptError(f"an entry of {there} stands under another key")
        entries[key] = entry

"""The audit trail on disk: JSON lines in `DATA_DIR/audit`, in files of bounded size and number.

`audit.jsonl` is the newest; a full one is renamed to `audit.1.jsonl`, that to `audit.2.jsonl`, and so on; the
oldest goes. Lines are written each second and not synced: a power cut may cost the last of them, which the
log still has, and which other controllers have written too. A disk that is full costs records, never writes.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from discovery.core.catalog import Catalog
from federation.api.audit import AuditRecord, AuditTrail
from federation.kernel.codec import MALFORMED

FILE_BYTES_MAX = 16 * 1024 * 1024
FILES_MAX = 8
WRITE_S = 1.0
_TAIL_BYTES = 256 * 1024  # Longer than any record.

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AuditRecord)
_log = structlog.get_logger("audit")


def audited_catalog() -> tuple[Catalog, AuditTrail]:
    """Return an empty catalog, and the trail of what becomes of it."""
    catalog, trail = Catalog(), AuditTrail()
    catalog.on_judged(trail.judged)
    return catalog, trail


class AuditFile:
    """Writes what a trail has collected. One process writes a folder: that which holds the data directory."""

    def __init__(self, folder: Path, trail: AuditTrail, *, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._folder = folder
        self._trail = trail
        self._file_bytes_max = file_bytes_max
        self._failing = False

    @property
    def path(self) -> Path:
        """The newest file."""
        return self._folder / "audit.jsonl"

    def resume(self) -> None:
        """Find out how far an earlier run came; call it before the log is replayed."""
        self._trail.after_index = max((_last_index(path) for path in self._files()), default=0)

    async def run(self) -> None:
        """Write until cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(WRITE_S)
                if records := self._trail.take():
                    await asyncio.to_thread(self.write, records)
        finally:
            self.write(self._trail.take())

    def write(self, records: Sequence[AuditRecord]) -> None:
        """Append records; those that the disk refuses are counted as lost."""
        if not records:
            return
        lines = b"".join(_encoder.encode(record) + b"\n" for record in records)
        try:
            self._append(lines)
        except OSError as error:
            self._trail.lose(len(records))
            if not self._failing:  # Said once, not each second.
                _log.error("audit_not_written", path=str(self.path), reason=error.strerror)
            self._failing = True
        else:
            self._failing = False

    def _append(self, lines: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = self.path.stat().st_size if self.path.exists() else 0
        if size and size + len(lines) > self._file_bytes_max:
            self._rotate()
        with self.path.open("ab") as file:
            self.path.chmod(0o600)
            if file.tell() and not _ends_with_line(self.path):
                file.write(b"\n")  # A crash cut the last line.
            file.write(lines)

    def _rotate(self) -> None:
        """Make room for a new file; the oldest of FILES_MAX goes."""
        for number in range(FILES_MAX - 1, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._folder / f"audit.{number}.jsonl" if number else self.path

    def _files(self) -> list[Path]:
        return [path for number in range(FILES_MAX) if (path := self._numbered(number)).exists()]


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _last_index(path: Path) -> int:
    """The log index of the last readable record of a file, 0 where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return _decoder.decode(line).index
        except MALFORMED:
            continue
    return 0

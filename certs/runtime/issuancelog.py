"""The record of every certificate signed: one JSON object per line, durable before the certificate leaves.

A certificate that nobody recorded cannot be revoked, counted or explained. The file only grows,
by about 500 bytes per certificate; it is the authority's own and is not replicated.
"""

import errno
import os
import threading
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from certs.runtime.keystore import sync_directory, usable
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError, LimitExceededError, UnavailableError

RECORD_BYTES_MAX = 16 * 1024


class IssuanceRecord(Struct, frozen=True, kw_only=True):
    """What was certified; serials and hashes in hexadecimal."""

    issued_at: datetime
    serial: str
    subject: str
    dns: tuple[str, ...]
    spki_sha256: str
    certificate_sha256: str
    issuer_serial: str
    not_before: datetime
    not_after: datetime


class IssuanceLog:
    """Appends to one file; safe to call from several threads, which then share one fsync.

    A record half written by a crash is cut off when the log is opened: its certificate was never
    released. Any other unreadable last record is CorruptError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._broken = False
        with usable(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            self._end = self._recover()
        except BaseException:
            os.close(self._file)
            raise
        self._durable_end = self._end
        sync_directory(path.parent)

    def append(self, record: IssuanceRecord) -> None:
        """Return once `record` is on disk.

        UnavailableError: the disk refused, now or earlier. After that the log takes nothing more
        until it is opened again, because what an fsync that failed has lost, the next one does
        not report.
        """
        line = msgspec.json.encode(record) + b"\n"
        if len(line) > RECORD_BYTES_MAX:
            raise LimitExceededError(f"issuance record has {len(line)} bytes, more than {RECORD_BYTES_MAX}")
        try:
            with self._write_lock:
                self._check_usable()
                self._write(line)
                self._end += len(line)
                mine = self._end
            with self._sync_lock:
                self._check_usable()
                if self._durable_end < mine:  # otherwise the fsync of another thread covered this record
                    end = self._end
                    self._sync()
                    self._durable_end = end
        except OSError as error:
            self._broken = True
            raise UnavailableError(f"{self._path} cannot be written: {error}") from error

    def _check_usable(self) -> None:
        if self._broken:
            raise UnavailableError(f"{self._path} could not be written before: restart this process")

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes written")

    def _sync(self) -> None:
        os.fdatasync(self._file)

    def close(self) -> None:
        """Release the file; appending afterwards fails."""
        os.close(self._file)

    def _recover(self) -> int:
        """Cut off a torn last line, check the last whole one, and return the file's length."""
        size = os.fstat(self._file).st_size
        start = max(0, size - 2 * RECORD_BYTES_MAX)
        tail = os.pread(self._file, size - start, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        if not whole and start:
            raise CorruptError(f"{self._path}: no record ends in its last {len(tail)} bytes")
        if len(whole) < len(tail):
            os.ftruncate(self._file, start + len(whole))
            os.fsync(self._file)
        if whole:
            last = whole[:-1].rpartition(b"\n")[2]
            try:
                msgspec.json.decode(last, type=IssuanceRecord)
            except MALFORMED as error:
                raise CorruptError(f"{self._path}: the last record cannot be read: {error}") from error
        return start + len(whole)


def read_records(path: Path) -> list[IssuanceRecord]:
    """Return every record, oldest first; for an operator's questions, not for a running authority."""
    with path.open("rb") as file:
        try:
            return [msgspec.json.decode(line, type=IssuanceRecord) for line in file]
        except MALFORMED as error:
            raise CorruptError(f"{path} holds a record that cannot be read: {error}") from error

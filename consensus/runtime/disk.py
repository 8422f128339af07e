"""What the journal and the snapshots need of a file system, with its errors named."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.kernel.errors import PreconditionError, UnavailableError


@contextmanager
def naming_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an OSError into an UnavailableError that names the file and what was being done."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"cannot {action} {path}: {error.strerror or error}; this member stops"
        ) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`; raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def replace_durably(new: Path, path: Path) -> None:
    """Give the durable file `new` the name `path`, durably; raises OSError."""
    new.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DirectoryLock:
    """Keeps a second process, or a second engine in this one, out of a member's directory."""

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        with naming_errors(path, "create"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(directory.parent)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise PreconditionError(
                f"directory {directory} is in use by process {owner or 'unknown'}"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)

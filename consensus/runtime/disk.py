"""What the journal and the snapshots need of a file system, with its errors named."""

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from federation.kernel.errors import PreconditionError, UnavailableError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoRoomError(UnavailableError):
    """The disk takes no more. Nothing that was promised is lost; the member waits for room."""


class Disk(Protocol):
    """A member's files. Every call may raise OSError.

    A `write` is durable after `sync_data` or `sync`, a name (create, rename, remove) after
    `sync_directory`; a power cut may keep or lose any part of what is not.
    """

    def exists(self, path: Path) -> bool:
        """True when a file has this name."""
        ...

    def size_bytes(self, path: Path) -> int:
        """Return the length of a file."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a name; one that is not there stays away."""
        ...

    def rename(self, new: Path, path: Path) -> None:
        """Give the file `new` the name `path`, which loses its former file."""
        ...

    def sync_directory(self, directory: Path) -> None:
        """Make the names in `directory` durable."""
        ...

    def create(self, path: Path) -> int:
        """Return a descriptor that appends to a new, empty file in place of what has this name."""
        ...

    def open_append(self, path: Path) -> int:
        """Return a descriptor that appends to a file."""
        ...

    def open_read(self, path: Path) -> int:
        """Return a descriptor that reads a file, even when another one takes its name."""
        ...

    def write(self, descriptor: int, data: bytes) -> None:
        """Append all of `data`."""
        ...

    def read(self, descriptor: int, bytes_max: int, offset: int) -> bytes:
        """Return at most `bytes_max` from `offset`; less only at the end of the file."""
        ...

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file to `length`."""
        ...

    def sync_data(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        ...

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes and attributes durable."""
        ...

    def close(self, descriptor: int) -> None:
        """Give up a descriptor. Nobody waits until the room of a file without a name is free again."""
        ...


class FileDisk:
    """The operating system's files."""

    def exists(self, path: Path) -> bool:
        """See the port."""
        return path.exists()

    def size_bytes(self, path: Path) -> int:
        """See the port."""
        return path.stat().st_size

    def remove(self, path: Path) -> None:
        """See the port."""
        path.unlink(missing_ok=True)

    def rename(self, new: Path, path: Path) -> None:
        """See the port."""
        with contextlib.ExitStack() as replaced:
            with contextlib.suppress(OSError):
                replaced.callback(self.close, self.open_read(path))  # Else `replace` frees its room.
            new.replace(path)

    def sync_directory(self, directory: Path) -> None:
        """See the port."""
        sync_directory(directory)

    def create(self, path: Path) -> int:
        """See the port."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def open_append(self, path: Path) -> int:
        """See the port."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def open_read(self, path: Path) -> int:
        """See the port."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes) -> None:
        """See the port."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def read(self, descriptor: int, bytes_max: int, offset: int) -> bytes:
        """See the port."""
        data = os.pread(descriptor, bytes_max, offset)
        while 0 < len(data) < bytes_max:
            more = os.pread(descriptor, bytes_max - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def truncate(self, descriptor: int, length: int) -> None:
        """See the port."""
        os.ftruncate(descriptor, length)

    def sync_data(self, descriptor: int) -> None:
        """See the port."""
        os.fdatasync(descriptor)

    def sync(self, descriptor: int) -> None:
        """See the port."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """See the port."""
        if os.fstat(descriptor).st_nlink == 0:
            _close_behind(descriptor)
        else:
            os.close(descriptor)


FILE_DISK = FileDisk()


def _close_behind(descriptor: int) -> None:
    """Close in a thread: to free some ten megabytes took ext4 up to 128 ms, in which a member heard nobody."""
    try:
        threading.Thread(target=os.close, args=(descriptor,), name="raft-close", daemon=True).start()
    except RuntimeError:  # No more threads.
        os.close(descriptor)


@contextlib.contextmanager
def naming_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an OSError into an UnavailableError that names the file and what was being done."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NoRoomError(
                f"cannot {action} {path}: {error.strerror}; this member takes no part until there is room"
            ) from error
        raise UnavailableError(
            f"cannot {action} {path}: {error.strerror or error}; this member stops"
        ) from error


def read_file(disk: Disk, path: Path) -> bytes:
    """Return all bytes of a file; raises OSError."""
    descriptor = disk.open_read(path)
    try:
        return disk.read(descriptor, disk.size_bytes(path), 0)
    finally:
        disk.close(descriptor)


def replace_durably(disk: Disk, new: Path, path: Path) -> None:
    """Give the durable file `new` the name `path`, durably; raises OSError."""
    disk.rename(new, path)
    disk.sync_directory(path.parent)


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
        # For people only: a full disk must not keep a member from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)

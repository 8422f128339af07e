"""One process per data directory: a second one would use the same keys, sockets and cache."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.kernel.errors import PreconditionError

LOCK_FILE = "lock"
FOLDER_MODE = 0o700


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, its owner's alone; the kernel gives it back when the process ends.

    Raises `PreconditionError` when another process has it, naming that one, or when it cannot be used.
    """
    try:
        _make_private(folder)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PreconditionError(f"data_dir: {folder} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise PreconditionError(
                f"data_dir: {folder} is in use by process {holder}:"
                " stop that one, or give this one a data_dir of its own"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _make_private(folder: Path) -> None:
    """Keys and the proxy's sockets lie inside: others must not enter.

    A wider mode is narrowed only where the folder is empty or already ours; anything else may be a
    folder that somebody named by mistake.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & 0o077:
        return
    if any(folder.iterdir()) and not (folder / LOCK_FILE).exists():
        raise PreconditionError(
            f"data_dir: {folder} has mode {mode:04o} and holds files of others: expected a folder of our own"
        )
    folder.chmod(FOLDER_MODE)

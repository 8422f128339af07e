"""Network namespaces as `ip netns` keeps them: entered, made and removed. Needs root.

Whoever makes some names them PREFIX-PID-..., after its own process: what a killed one left is told by that, and removed
by the next.
"""

import ctypes
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from chaos.lab.processes import LabError
from chaos.lab.tools import tool

NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_TIMEOUT_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Move this thread, and no other, into a network for the block: sockets opened there stay there."""
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        with (NAMESPACES / name).open("rb") as there:
            _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def command_in(name: str, command: Sequence[str | Path]) -> list[str]:
    """Return the command that enters a network and becomes `command`, under the same pid."""
    return ["nsenter", f"--net={NAMESPACES / name}", "--", *map(str, command)]


def ip(*arguments: str) -> None:
    """Run `ip` where we are; LabError with its words if it fails."""
    run([tool("ip"), *arguments])


def ip_batch(name: str, *commands: str) -> None:
    """Run several `ip` commands in a network by one process; LabError with its words if one fails."""
    run([tool("ip"), "-n", name, "-batch", "-"], "\n".join(commands) + "\n")


def run(command: Sequence[str | Path], text: str = "") -> str:
    """Run a command to its end and return its output; LabError with its words if it fails."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise LabError(f"{' '.join(map(str, command))} exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def dead_makers(prefix: str, folders: Iterable[Path] = (NAMESPACES,)) -> set[str]:
    """Return the pids of those that left something named PREFIX-PID or PREFIX-PID-... there, and run no more."""
    pattern = re.compile(rf"{prefix}-(\d+)(-|$)")
    entries = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    pids = {match[1] for entry in entries if (match := pattern.match(entry.name))}
    return {pid for pid in pids if not Path(f"/proc/{pid}").exists()}


def remove_of(prefix: str, pid: str) -> None:
    """Remove the networks that are named PREFIX-PID-..., if there are any."""
    for entry in list(NAMESPACES.iterdir()) if NAMESPACES.is_dir() else []:
        if entry.name.startswith(f"{prefix}-{pid}-"):
            with suppress(LabError):  # Somebody else may sweep at the same moment.
                ip("netns", "delete", entry.name)


def _enter(descriptor: int) -> None:
    """setns(2) for this thread: `os.setns` came with Python 3.12."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(number)}")

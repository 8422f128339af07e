"""Ends what a laboratory leaves behind, however the laboratory ended.

    python -m chaos.lab.guardian DIRECTORY [--namespace NAME]... [--files] < PIPE

The kernel kills the children of a dead laboratory, but not what they started: an Envoy outlives its agent on
purpose. Every process of a laboratory carries the laboratory's directory in its environment, and so does
what it starts. The guardian reads a pipe that only the laboratory can write to; when that closes, it kills
every process with the mark, then removes the network namespaces, and with `--files` the directory unless it was told
to keep it. It has a process group of its own, so that Ctrl-C does not reach it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chaos.lab.netns import NAMESPACES, ip
from chaos.lab.processes import STOP_TIMEOUT_S, LabError, kill_pid

MARK = "ISTHMUS_LABORATORY"
_KEEP_FILES = b"keep files"
_POLL_S = 0.02


def environment_of(directory: Path) -> dict[str, str]:
    """Return our environment with the mark of the laboratory in `directory`."""
    return {**os.environ, MARK: str(directory)}


class Guardian:
    """The guardian of what a laboratory made, from `start` to `close`."""

    def __init__(self, directory: Path, *, namespaces: Sequence[str] = (), files: bool = False) -> None:
        self._directory = directory
        self._namespaces = namespaces
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, before anything that it is to end."""
        arguments = [str(self._directory), *(f"--namespace={name}" for name in self._namespaces)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.lab.guardian", *arguments, *(["--files"] if self._files else [])],
            stdin=subprocess.PIPE,
            process_group=0,
        )

    def close(self, *, keep_files: bool = False) -> None:
        """Have it end and remove everything, and return when that is done. `keep_files` spares the directory."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # It was killed: nobody is left to be told.
                if keep_files:
                    process.stdin.write(_KEEP_FILES)
                process.stdin.close()
            process.wait(2 * STOP_TIMEOUT_S)


def marked(directory: Path) -> list[int]:
    """Return the living processes of the laboratory in `directory`."""
    wanted = f"{MARK}={directory}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # Empty for a zombie, which holds nothing.
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # It ended while we looked, or belongs to somebody else.
        if wanted in variables:
            found.append(int(entry.name))
    return found


def _sweep(directory: Path) -> bool:
    """Kill until nothing is left, at most `STOP_TIMEOUT_S`; return whether nothing is."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while left := marked(directory):
        if time.monotonic() > deadline:
            return False
        for pid in left:  # Again and again: one may have started another meanwhile.
            kill_pid(pid)
        time.sleep(_POLL_S)
    return True


def _remove_namespaces(names: Sequence[str]) -> None:
    """Take the names away; a network goes with the last process in it."""
    for name in names:
        if (NAMESPACES / name).exists():
            with suppress(LabError):  # Somebody else was quicker.
                ip("netns", "delete", name)


def main() -> None:
    """Wait for the end of the laboratory, then sweep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--namespace", action="append", default=[])
    parser.add_argument("--files", action="store_true")
    asked = parser.parse_args()
    word = sys.stdin.buffer.read()
    swept = _sweep(asked.directory)
    _remove_namespaces(asked.namespace)
    if asked.files and word != _KEEP_FILES:
        shutil.rmtree(asked.directory, ignore_errors=True)
    raise SystemExit(0 if swept else 1)


if __name__ == "__main__":
    main()

"""Ends what a laboratory leaves behind, however the laboratory ended.

    python -m chaos.lab.guardian DIRECTORY < PIPE

The kernel kills the children of a dead laboratory, but not what they started: an Envoy outlives its agent on
purpose. Every process of a laboratory carries the laboratory's directory in its environment, and so does
what it starts. The guardian reads a pipe that only the laboratory can write to; when that closes, it kills
every process with the mark. It has a process group of its own, so that Ctrl-C does not reach it.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from chaos.lab.processes import STOP_TIMEOUT_S, kill_pid

MARK = "ISTHMUS_LABORATORY"
_POLL_S = 0.02


def environment_of(directory: Path) -> dict[str, str]:
    """Return our environment with the mark of the laboratory in `directory`."""
    return {**os.environ, MARK: str(directory)}


class Guardian:
    """The guardian of one laboratory, from `start` to `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, before anything that it is to end."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.lab.guardian", str(self._directory)],
            stdin=subprocess.PIPE,
            process_group=0,
        )

    def close(self) -> None:
        """Have it end every process of the laboratory, and return when that is done."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
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


def main() -> None:
    """Wait for the end of the laboratory, then sweep."""
    directory = Path(sys.argv[1])
    sys.stdin.buffer.read()
    raise SystemExit(0 if _sweep(directory) else 1)


if __name__ == "__main__":
    main()

"""`isthmus demo --keep` on a terminal and on loopback: a disaster passes, a remote cluster moves, what it says to try works, Ctrl-C ends it all.

The other half of `tests/e2e/test_demo.py`, which as root takes place in network namespaces.
"""

import errno
import fcntl
import os
import pty
import shlex
import signal
import struct
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from chaos.lab.guardian import marked
from chaos.report import Report
from tests.support.tools import tool
from tests.support.wait import NeverHappenedError, eventually

SCENARIOS = ["local-instances-die", "rehome"]
COLUMNS, ROWS = 300, 30  # No command is broken into two lines.
READY = "Everything runs until Ctrl-C"
LAST_HINT = "kill -9 "
SETUP_TIMEOUT_S = 240
COMMAND_TIMEOUT_S = 30

pytestmark = pytest.mark.timeout(SETUP_TIMEOUT_S + 120)


class Demo:
    """The demo with a terminal of its own, which also gives it Ctrl-C."""

    def __init__(self, work_dir: Path, report: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
        os.set_blocking(self._ours, False)
        demo = [sys.executable, "-m", "federation.cli.main", "demo", "--keep", "--place", "loopback"]
        load = ["--seconds", "1", *(part for name in SCENARIOS for part in ("--scenario", name))]
        files = ["--work-dir", str(work_dir), "--report", str(report)]
        self.child = subprocess.Popen(
            # Interruptible also where the test run ignores SIGINT, as background commands of a shell do.
            [str(tool("setsid")), "--ctty", "env", "--default-signal=INT", *demo, *load, *files],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(theirs)
        self._shown = b""

    def shown(self) -> str:
        """All that it has drawn and printed."""
        while True:
            try:
                self._shown += os.read(self._ours, 65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EIO:  # It has ended.
                    raise
                break
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")

    def close(self) -> None:
        self.child.send_signal(signal.SIGINT)
        try:
            self.child.wait(60)
        finally:
            self.child.kill()
            os.close(self._ours)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path / "lab", tmp_path / "report.json")
    yield demo
    demo.close()


def test_a_disaster_passes_what_is_said_to_try_works_and_ctrl_c_leaves_nothing(
    demo: Demo, tmp_path: Path
) -> None:
    def hinted() -> bool:
        if demo.child.poll() is not None:
            raise NeverHappenedError(demo.shown())
        return LAST_HINT in demo.shown().partition(READY)[2]

    eventually(hinted, timeout_s=SETUP_TIMEOUT_S, message=lambda: f"it says what to try:\n{demo.shown()}")
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report)
    assert [one.name for one in report.scenarios] == SCENARIOS
    assert report.problems == []

    lines = demo.shown().partition(READY)[2].splitlines()
    context, *commands = [line.strip() for line in lines if line.startswith("  ")]
    *questions, kill = commands
    for command in questions:
        answer = call(command) if command.startswith("curl ") else run(f"{context}\n{command}")
        assert answer.strip(), command
        if "dig @" in command:
            assert "status: NOERROR" in answer, command
            assert "ANSWER: 0" not in answer, command
    calls = [command for command in questions if command.startswith("curl ")]
    assert len(calls) >= 2, commands

    run(kill)
    eventually(lambda: "is down: none of its" in demo.shown(), timeout_s=60, message="the loss is printed")
    assert call(calls[0]), "the service of the dead cluster is served by others"

    demo.press_ctrl_c()
    eventually(
        lambda: demo.child.poll() is not None, timeout_s=60, message=lambda: f"it ends\n{demo.shown()}"
    )
    assert demo.child.returncode == 0, demo.shown()
    assert "Traceback" not in demo.shown()
    assert marked(tmp_path / "lab") == []


def call(command: str) -> str:
    """Do what a `curl -H 'Host: NAME' URL` does, which not every machine has; return the answer to a 200."""
    _, option, header, url = shlex.split(command)
    assert option == "-H"
    name, _, value = header.partition(": ")
    with urllib.request.urlopen(urllib.request.Request(url, headers={name: value}), timeout=10) as answer:
        return answer.read().decode()


def run(command: str) -> str:
    """Run a command as somebody at another terminal does, and return what it prints."""
    path = f"{os.environ['PATH']}:{tool('dig').parent}"
    done = subprocess.run(
        ["bash", "-euc", command],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout

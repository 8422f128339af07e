"""Child processes of a test: started in a group of their own, logged to a file, never left behind."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from chaos.lab.processes import exit_code, living_members, spawn
from tests.support.tools import tool
from tests.support.wait import NeverHappenedError, eventually

STOP_TIMEOUT_S = 15.0
LOG_TAIL_BYTES = 8 * 1024


class Process:
    """One child process and everything it starts, in one process group.

    The kernel kills the child when the test process ends, however that ends (`chaos.lab.processes.spawn`). Leaving
    the context kills the group. Start it from the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start `command`; its output is appended to `log_path`; `env` is added to the test's own."""
        self.name = name
        self.command = tuple(str(part) for part in command)
        self.log_path = log_path
        tool("setpriv")  # Or a failure that says what to install.
        self._child = spawn(
            self.command, log_path=log_path, environment={**os.environ, **(env or {})}, cwd=cwd
        )

    @property
    def pid(self) -> int:
        """The child's process id, which is also its group's."""
        return self._child.pid

    def running(self) -> bool:
        """Return whether the child itself still runs."""
        return self.exit_code() is None

    def exit_code(self) -> int | None:
        """Return how the child ended (negative: the signal that ended it), None while it runs."""
        return exit_code(self._child)

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to the child alone, not to what it started; nothing if it has ended."""
        if self.running():
            os.kill(self.pid, signal_number)

    def kill(self) -> None:
        """Kill the whole group as `kill -9` does; on return nothing of it runs or holds a port."""
        if self._child.returncode is not None:
            return
        os.killpg(self.pid, signal.SIGKILL)
        self._child.wait(STOP_TIMEOUT_S)
        eventually(
            lambda: not living_members(self.pid),
            timeout_s=STOP_TIMEOUT_S,
            message=f"the processes that {self.name} started end after SIGKILL",
        )

    def kill_alone(self) -> None:
        """Kill only the child, as `kill -9 PID` does: what it started lives on until `kill`."""
        self.send(signal.SIGKILL)
        self.wait(timeout_s=STOP_TIMEOUT_S)

    def terminate(self, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send SIGTERM to the child, wait until it has stopped in order, return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s=timeout_s)

    def wait(self, *, timeout_s: float) -> int:
        """Wait until the child ends and return its exit code (negative: the signal that ended it).

        Raises NeverHappenedError with the end of the log.
        """
        eventually(
            lambda: not self.running(), timeout_s=timeout_s, message=lambda: f"{self.name} ends\n{self.log()}"
        )
        code = self.exit_code()
        assert code is not None
        return code

    def wait_for_log(self, text: str, *, timeout_s: float) -> None:
        """Wait until `text` stands in the log; fail at once if the child ends without having written it."""

        def written() -> bool:
            ended = not self.running()  # Before the read: the last lines come before the end.
            if text in self.log_path.read_text(errors="replace"):
                return True
            if ended:
                raise NeverHappenedError(f"{self.describe_end()} before it logged {text!r}\n{self.log()}")
            return False

        eventually(written, timeout_s=timeout_s, message=lambda: f"{self.name} logs {text!r}\n{self.log()}")

    def check_running(self) -> None:
        """Fail with the end of the log if the child has ended."""
        if not self.running():
            raise NeverHappenedError(f"{self.describe_end()}, expected it to run\n{self.log()}")

    def describe_end(self) -> str:
        """Say how the child ended."""
        return f"{self.name} (pid {self.pid}) ended with {self.exit_code()}"

    def log(self) -> str:
        """Return the end of the log, at most 8 KiB of it, under a line with the command."""
        with self.log_path.open("rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(0, size_bytes - LOG_TAIL_BYTES))
            tail = file.read().decode(errors="replace")
        return f"--- end of {self.log_path} of: {' '.join(self.command)}\n{tail}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()


class ProcessSet:
    """Starts processes for one test and kills all of them at its end, newest first."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._processes: list[Process] = []

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start `command`; a second start under the same name appends to the same log."""
        process = Process(name, command, log_path=self._log_folder / f"{name}.log", env=env, cwd=cwd)
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill every process group that was started here."""
        while self._processes:
            self._processes.pop().kill()

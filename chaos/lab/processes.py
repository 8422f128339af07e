"""Processes of a laboratory: each in a group of its own, logged to a file, never left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# In the environment of a process, and so of all that it starts: its log file, which no other process has.
MARK = "ISTHMUS_LABORATORY_PROCESS"
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.02
_TAIL_BYTES = 4096


class LabError(Exception):
    """The laboratory itself did not do what a scenario needs; nothing was measured."""


class LabProcess:
    """One process and all that it starts. It can be killed and started again under the same name."""

    def __init__(
        self, name: str, command: Sequence[str], log_path: Path, *, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log_path = log_path
        self._environment = {**environment, MARK: str(log_path)}
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, as `spawn` does; what it starts itself is the guardian's business (`chaos.lab.guardian`)."""
        if self.running():
            raise LabError(f"{self.name} runs already, expected it to have ended before its next start")
        if self._child is not None:
            self._child.wait()
        self._child = spawn(self.command, log_path=self.log_path, environment=self._environment)

    @property
    def pid(self) -> int:
        """Its process id, also of its group; LabError before the first start."""
        if self._child is None:
            raise LabError(f"{self.name} was never started")
        return self._child.pid

    def running(self) -> bool:
        """True while the process itself runs."""
        return self._child is not None and exit_code(self._child) is None

    def kill(self) -> None:
        """`kill -9` of the process and everything that it or its predecessors started; wait until it is gone."""
        child = self._child
        if child is None:
            return

        def gone() -> bool:
            # Again and again: for a moment of each exec a process has no environment to be known by.
            members = set(family([self]))
            if exit_code(child) is None:
                members.add(child.pid)
            for member in members:
                kill_pid(member)
            return not members

        wait_until(gone, f"the processes of {self.name} end", STOP_TIMEOUT_S)
        child.wait(STOP_TIMEOUT_S)

    def kill_alone(self) -> None:
        """`kill -9` of the process, not of what it started."""
        if self.running():
            kill_pid(self.pid)
            wait_until(lambda: not self.running(), f"{self.name} ends after SIGKILL", STOP_TIMEOUT_S)

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, then wait for an orderly end; returns the exit status, raises LabError after the timeout."""
        if self._child is None:
            return 0
        if self.running():
            os.kill(self.pid, signal.SIGTERM)
            wait_until(lambda: not self.running(), f"{self.name} ends after SIGTERM", timeout_s)
        code = exit_code(self._child)
        assert code is not None
        return code

    def log_bytes(self) -> int:
        """How long its log is now: where the words of the next start will begin."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def logged(self, text: str, *, since_bytes: int = 0) -> bool:
        """True when `text` stands in its log, behind the first `since_bytes`."""
        if not self.log_path.exists():
            return False
        return text.encode() in self.log_path.read_bytes()[since_bytes:]

    def tail(self) -> str:
        """The end of its log, for messages."""
        if not self.log_path.exists():
            return "(no log)"
        content = self.log_path.read_bytes()[-_TAIL_BYTES:]
        return content.decode(errors="replace")


def spawn(
    command: Sequence[str], *, log_path: Path, environment: Mapping[str, str], cwd: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command in a process group of its own; its output is appended to `log_path`.

    The kernel kills it when our process ends, however that ends (PR_SET_PDEATHSIG, set by `setpriv` because a
    Python hook between fork and exec is unsafe beside gRPC's threads). Call it from the main thread: the death
    signal follows the thread that starts a process.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as output:
        return subprocess.Popen(
            # A shell without job control starts its background commands with SIGINT ignored, and what is
            # ignored is inherited.
            ["setpriv", "--pdeathsig", "KILL", "--", "env", "--default-signal=INT", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            process_group=0,
        )


def exit_code(child: "subprocess.Popen[bytes]") -> int | None:
    """Return how a child ended (negative: the signal that ended it), None while it runs.

    It is looked at, not collected: a dead child keeps its id, which its group bears, until it is waited for, so
    that no signal of ours can reach a stranger who was given the same one.
    """
    if child.returncode is not None:
        return child.returncode
    end = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if end is None:
        return None
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def living_members(group: int) -> list[int]:
    """Return the processes of a group that still run; a zombie holds nothing and does not count."""
    return [pid for pid, (_, _, its_group) in _table().items() if its_group == group]


def wait_until(condition: object, what: str, timeout_s: float) -> None:
    """Wait until `condition()` is true; raises LabError naming `what` after `timeout_s`."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_POLL_S)


def parent_of(pid: int) -> int:
    """Return the parent of a living process, 0 when there is no such process."""
    return _table().get(pid, ("", 0, 0))[1]


def family(processes: Iterable[LabProcess]) -> list[int]:
    """Return the living processes that these are and that they started, an Envoy that was taken over too."""
    marks = {f"{MARK}={process.log_path}".encode() for process in processes}
    found = []
    for pid in _table():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # It ended while we looked, or belongs to somebody else.
        if not marks.isdisjoint(variables):
            found.append(pid)
    return found


def signal_all(processes: Iterable[LabProcess], number: signal.Signals) -> None:
    """Send a signal to these and to all that they started, in one sweep: it meets them at one moment."""
    for pid in family(processes):
        send_signal(pid, number)


def stopped_all(pids: Iterable[int]) -> bool:
    """True when each of these is stopped (SIGSTOP) or has ended."""
    states = _table()
    return all(states[pid][0] == "T" for pid in pids if pid in states)


def _table() -> dict[int, tuple[str, int, int]]:
    """Living processes: pid to (state, parent, group), from proc(5)."""
    found: dict[int, tuple[str, int, int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended while we looked.
        state, parent, group = stat.rpartition(")")[2].split()[:3]
        if state not in "ZX":
            found[int(entry.name)] = (state, int(parent), int(group))
    return found


def kill_pid(pid: int) -> None:
    """`kill -9`; nothing if it has ended."""
    send_signal(pid, signal.SIGKILL)


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal; nothing if it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # It ended by itself.

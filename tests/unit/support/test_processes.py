"""Child processes of tests end when they should, and leave nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import Process, ProcessSet
from tests.support.tools import MissingToolError, tool
from tests.support.wait import NeverHappenedError, eventually

SLEEPER = ("import time", "print('up', flush=True)", "time.sleep(600)")

# Starts a grandchild, says its id, and waits for it.
PARENT = (
    "import subprocess, sys",
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
    "print(f'child={child.pid}.', flush=True)",
    "child.wait()",
)


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def grandchild(process: Process) -> int:
    process.wait_for_log(".", timeout_s=60)
    return int(process.log_path.read_text().partition("child=")[2].partition(".")[0])


def test_kill_ends_the_process_and_everything_it_started(processes: ProcessSet) -> None:
    process = processes.start("parent", python(*PARENT))
    child = grandchild(process)

    process.kill()

    assert process.exit_code() == -signal.SIGKILL
    assert not alive(child)


def test_kill_alone_leaves_the_rest_of_the_group_until_kill(processes: ProcessSet) -> None:
    process = processes.start("parent", python(*PARENT))
    child = grandchild(process)

    process.kill_alone()
    survived = alive(child)
    process.kill()

    assert survived
    assert not alive(child)


def test_terminate_lets_the_process_stop_in_order(processes: ProcessSet) -> None:
    process = processes.start(
        "orderly",
        python("import signal, sys", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", *SLEEPER),
    )
    process.wait_for_log("up", timeout_s=60)

    assert process.terminate() == 7


def test_a_child_can_be_interrupted_though_its_test_run_ignores_that(processes: ProcessSet) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = processes.start("interrupted", python(*SLEEPER))
    finally:
        signal.signal(signal.SIGINT, before)
    process.wait_for_log("up", timeout_s=60)

    process.send(signal.SIGINT)

    assert process.wait(timeout_s=60) == -signal.SIGINT


def test_a_process_that_ends_early_fails_the_wait_at_once_with_its_log(processes: ProcessSet) -> None:
    process = processes.start("broken", python("print('port 53 is taken')", "raise SystemExit(3)"))

    with pytest.raises(NeverHappenedError, match=r"broken \(pid \d+\) ended with 3(.|\n)*port 53 is taken"):
        process.wait_for_log("ready", timeout_s=600)
    with pytest.raises(NeverHappenedError, match="expected it to run"):
        process.check_running()


def test_a_second_start_of_a_name_appends_to_its_log(processes: ProcessSet) -> None:
    first = processes.start("twice", python("print('one')"))
    first.wait(timeout_s=60)
    second = processes.start("twice", python("import os", "print(os.environ['WORD'])"), env={"WORD": "two"})
    second.wait(timeout_s=60)

    assert second.log_path.read_text().split() == ["one", "two"]


def test_the_child_dies_with_the_test_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    owner = subprocess.run(
        python(
            "import os, pathlib, sys",
            "from tests.support.processes import Process",
            f"child = Process('child', {python(*SLEEPER)!r}, log_path=pathlib.Path({str(log)!r}))",
            "child.wait_for_log('up', timeout_s=60)",
            "print(child.pid, flush=True)",
            "os._exit(0)",  # No exit handler runs: as when a test run is killed.
        ),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[3])},
    )

    child = int(owner.stdout)
    eventually(lambda: not alive(child), timeout_s=60, message="the orphan ends")


def test_a_missing_tool_fails_and_names_the_cure() -> None:
    with pytest.raises(MissingToolError, match=r"no-such-tool is not on PATH.*make setup"):
        tool("no-such-tool")


def test_a_tool_beside_our_python_is_found_first() -> None:
    assert tool("pytest") == Path(sys.executable).parent / "pytest"

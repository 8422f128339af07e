"""A process of the laboratory can be ended in each way, started again, and never signals a stranger."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.lab.processes import LabError, LabProcess, parent_of
from tests.support.wait import eventually

# Says that it runs, then ends in order at SIGTERM, with status 7.
ORDERLY = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"
# Starts another process in the same group and waits.
PARENT = "sleep 600 & echo $!; wait"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[object]:
    made: list[LabProcess] = []

    def start(script: str) -> LabProcess:
        process = LabProcess("one", ["sh", "-c", script], tmp_path / "one.log", environment=os.environ)
        made.append(process)
        process.start()
        eventually(lambda: process.log_bytes() > 0, timeout_s=60, message="it runs")
        return process

    yield start
    for process in made:
        process.kill()


def child_of(process: LabProcess) -> int:
    return int(process.tail().split()[-1])


def test_an_orderly_end_has_its_status_however_often_it_is_asked_for(make) -> None:
    process = make(ORDERLY)
    assert [process.terminate(), process.terminate()] == [7, 7]
    assert not process.running()


def test_kill_ends_what_it_started_too(make) -> None:
    process = make(PARENT)
    child = child_of(process)
    assert parent_of(child) == process.pid

    process.kill()

    assert parent_of(child) == 0
    assert process.terminate() == -9


def test_kill_ends_a_process_that_cannot_be_known_by_its_environment(tmp_path: Path) -> None:
    command = ["env", "-i", "/bin/sleep", "600"]
    process = LabProcess("bare", command, tmp_path / "bare.log", environment=os.environ)
    process.start()
    eventually(
        lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"/bin/sleep"),
        timeout_s=60,
        message="it runs without an environment",
    )

    process.kill()

    assert process.terminate() == -9


def test_kill_alone_leaves_what_it_started_which_kill_ends_later(make) -> None:
    process = make(PARENT)
    child = child_of(process)

    process.kill_alone()

    assert not process.running()
    assert parent_of(child) != 0
    process.kill()
    assert parent_of(child) == 0


def test_it_starts_again_under_its_name_and_log_and_not_twice_at_once(make) -> None:
    process = make(ORDERLY)
    first, logged_bytes = process.pid, process.log_bytes()
    with pytest.raises(LabError, match="runs already"):
        process.start()
    process.kill_alone()

    process.start()

    assert process.pid != first
    eventually(lambda: process.logged("up", since_bytes=logged_bytes), timeout_s=60, message="it runs again")
    assert not process.logged("down")

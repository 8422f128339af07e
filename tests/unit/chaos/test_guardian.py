"""A laboratory that dies leaves no process behind, not even one that was made to outlive its parent."""

import sys
from pathlib import Path

import pytest

from chaos.lab.guardian import Guardian, marked
from tests.support.processes import ProcessSet
from tests.support.tools import tool
from tests.support.wait import eventually

# A laboratory with one process, which has started another in a session of its own, as an agent its Envoy.
LABORATORY = """
import subprocess, sys, time
from pathlib import Path
from chaos.lab.guardian import Guardian, environment_of
directory = Path(sys.argv[1])
guardian = Guardian(directory, files=sys.argv[2:] == ["files"])
guardian.start()
script = "setsid sleep 600 & exec sleep 600"
subprocess.Popen(["sh", "-c", script], env=environment_of(directory), process_group=0)
time.sleep(600)
"""
PROCESSES = 2


@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_what_a_dead_laboratory_left_is_ended(ending: str, tmp_path: Path, processes: ProcessSet) -> None:
    laboratory = processes.start("laboratory", [sys.executable, "-c", LABORATORY, tmp_path])
    eventually(
        lambda: len(marked(tmp_path)) == PROCESSES,
        timeout_s=60,
        message=lambda: f"both run\n{laboratory.log()}",
    )

    # Only the laboratory itself: what it started is the guardian's.
    laboratory.kill_alone() if ending == "kill" else laboratory.terminate()

    eventually(lambda: not marked(tmp_path), timeout_s=60, message="nothing of the laboratory is left")


def test_the_guardian_ends_nobody_else(tmp_path: Path, processes: ProcessSet) -> None:
    mine, other = tmp_path / "mine", tmp_path / "mine-too"
    for directory in (mine, other):
        processes.start(directory.name, [tool("sleep"), "600"], env={"ISTHMUS_LABORATORY": str(directory)})
    eventually(lambda: marked(mine) and marked(other), timeout_s=60, message="both run")
    guardian = Guardian(mine)
    guardian.start()

    guardian.close()

    assert not marked(mine)
    assert marked(other)


@pytest.mark.parametrize("kept", [False, True])
def test_files_go_last_and_only_where_that_was_asked_for(
    kept: bool, tmp_path: Path, processes: ProcessSet
) -> None:
    directory = tmp_path / "laboratory"
    directory.mkdir()
    (directory / "log").write_text("said")
    laboratory = processes.start(
        "laboratory", [sys.executable, "-c", LABORATORY, directory, *([] if kept else ["files"])]
    )
    eventually(
        lambda: len(marked(directory)) == PROCESSES,
        timeout_s=60,
        message=lambda: f"both run\n{laboratory.log()}",
    )

    laboratory.kill_alone()

    eventually(lambda: not marked(directory), timeout_s=60, message="nothing of the laboratory runs")
    if not kept:
        eventually(lambda: not directory.exists(), timeout_s=60, message="its files are gone")
    assert directory.exists() == kept


def test_a_laboratory_that_closes_its_guardian_may_keep_its_files(tmp_path: Path) -> None:
    for keep_files in (True, False):
        guardian = Guardian(tmp_path, files=True)
        guardian.start()
        guardian.close(keep_files=keep_files)
        assert tmp_path.exists() == keep_files

"""How a run ends says its exit status; its directory stays only where somebody may want to look into it."""

import signal
import sys
from pathlib import Path

import pytest

from chaos.lab.processes import LabError
from chaos.load.dns_watch import Check
from chaos.report import Report
from chaos.session import EXIT_INTERRUPTED, conduct
from federation.cli.output import EXIT_FAILED
from tests.support.processes import ProcessSet
from tests.support.wait import eventually

# A run that has written something and goes on.
SESSION = """
import time
from chaos.session import conduct
def run(directory):
    (directory / "log").write_text("said")
    print("runs", flush=True)
    time.sleep(600)
raise SystemExit(conduct("demo", None, run))
"""


def report(*, passed: bool) -> Report:
    check = Check(name="dns", passed=passed, detail="3 failed")
    return Report(scenarios=(), checks=(check,), versions={})


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        pytest.param(report(passed=True), 0, "", id="success"),
        pytest.param(report(passed=False), EXIT_FAILED, "isthmus chaos: dns: 3 failed", id="failed-check"),
        pytest.param(LabError("no port"), EXIT_FAILED, "isthmus chaos: no port", id="failed-laboratory"),
        pytest.param(KeyboardInterrupt(), EXIT_INTERRUPTED, "isthmus chaos: interrupted", id="interrupted"),
    ],
)
def test_the_exit_status_tells_what_went_wrong_and_only_a_failed_runs_files_stay(
    outcome: Report | BaseException,
    status: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def run(directory: Path) -> Report:
        (directory / "log").write_text("said")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert conduct("chaos", None, run) == status

    said = capsys.readouterr().err
    assert words in said
    left = list(tmp_path.iterdir())
    assert [f"logs and data are in {one}" in said for one in left] == [True] * (status == EXIT_FAILED)


def test_the_files_of_an_error_that_nobody_foresaw_stay(tmp_path: Path) -> None:
    def run(_directory: Path) -> Report:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        conduct("demo", None, run)

    assert list(tmp_path.iterdir())


def test_a_directory_that_was_asked_for_is_made_and_stays(tmp_path: Path) -> None:
    wanted = tmp_path / "far" / "away"

    assert conduct("demo", wanted, lambda directory: report(passed=directory == wanted)) == 0

    assert wanted.is_dir()


@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_run_that_is_ended_takes_its_temporary_directory_with_it(
    ending: str, tmp_path: Path, processes: ProcessSet
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    session = processes.start("session", [sys.executable, "-c", SESSION], env={"TMPDIR": str(folder)})
    session.wait_for_log("runs", timeout_s=60)
    (directory,) = folder.iterdir()

    session.send(signal.Signals[ending])

    eventually(lambda: not directory.exists(), timeout_s=60, message="its directory is gone")
    status = session.wait(timeout_s=60)
    assert status == (-signal.SIGKILL if ending == "SIGKILL" else EXIT_INTERRUPTED)

"""`isthmus demo` succeeds only if no request failed, the load was there, and every check passed."""

from pathlib import Path

import msgspec
import pytest

from chaos.demo import conclude
from chaos.load.dns_watch import Check
from chaos.load.records import Result
from chaos.report import Report
from tests.unit.chaos.results import RESULT

CHECK = Check(name="dns", passed=True, detail="0 failed")


def report(result: Result, check: Check = CHECK) -> Report:
    return Report(scenarios=(result,), checks=(check,), versions={})


def changed(**fields: float) -> Report:
    return report(msgspec.structs.replace(RESULT, **fields))


@pytest.mark.parametrize(
    ("made_up", "status", "words"),
    [
        pytest.param(report(RESULT), 0, "", id="success"),
        pytest.param(changed(failed=1), 1, "cluster-dies: 1 of 100 requests failed", id="one-failed-request"),
        pytest.param(
            changed(failed=1, chain_failed=1), 1, "1 of 10 through the whole shop", id="one-failed-chain"
        ),
        pytest.param(changed(requests=89, valid=False), 1, "invalid, 89 of 100 planned", id="rate-missed"),
        pytest.param(
            changed(outlasted_ms=-5, valid=False), 1, "-5 ms after the last event", id="load-ended-early"
        ),
        pytest.param(
            report(RESULT, Check(name="dns", passed=False, detail="3 failed")),
            1,
            "dns: 3 failed",
            id="failed-check",
        ),
    ],
)
def test_the_exit_status_tells_whether_anything_went_wrong(
    made_up: Report, status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = tmp_path / "work"
    work_dir.mkdir()

    assert conclude(made_up, work_dir, keep=False) == status

    assert words in capsys.readouterr().err
    assert work_dir.exists() == bool(status), "what a failed run left is evidence, the rest is not"


def test_a_work_dir_that_was_asked_for_stays(tmp_path: Path) -> None:
    conclude(report(RESULT), tmp_path, keep=True)

    assert tmp_path.exists()

"""A run succeeds only if no request failed, the load was there, and every check passed; the report says which."""

from pathlib import Path

import msgspec
import pytest

from chaos.load.dns_watch import Check
from chaos.load.records import Result
from chaos.report import Report, publish, versions
from tests.unit.chaos.results import RESULT

CHECK = Check(name="dns", passed=True, detail="0 failed")
BROKEN = Check(name="dns", passed=False, detail="3 failed")


def report(result: Result, check: Check = CHECK) -> Report:
    return Report(scenarios=(result,), checks=(check,), versions=versions())


def changed(**fields: float) -> Report:
    return report(msgspec.structs.replace(RESULT, **fields))


@pytest.mark.parametrize(
    ("made_up", "problem"),
    [
        pytest.param(changed(failed=1), "cluster-dies: 1 of 100 requests failed", id="one-failed-request"),
        pytest.param(
            changed(failed=1, chain_failed=1), "1 of 10 through the whole shop", id="one-failed-chain"
        ),
        pytest.param(changed(requests=89, valid=False), "invalid, 89 of 100 planned", id="rate-missed"),
        pytest.param(
            changed(outlasted_ms=-5, valid=False), "-5 ms after the last event", id="load-ended-early"
        ),
        pytest.param(report(RESULT, BROKEN), "dns: 3 failed", id="failed-check"),
    ],
)
def test_whatever_went_wrong_is_a_problem_that_is_named(made_up: Report, problem: str) -> None:
    (named,) = made_up.problems
    assert problem in named


def test_a_run_in_which_nothing_failed_has_no_problem() -> None:
    assert report(RESULT).problems == []


def test_checks_and_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up = report(RESULT, BROKEN)

    publish(made_up, tmp_path / "report.json")

    printed = capsys.readouterr().out
    assert "FAIL dns: 3 failed" in printed
    (row,) = [line.split() for line in printed.splitlines() if line.startswith(RESULT.name)]
    assert row == [RESULT.name, "100", "100", "0", "3", *["1.0"] * 6]
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report) == made_up

"""`isthmus chaos` knows each scenario by one name, and says what it cannot run."""

from pathlib import Path

import pytest

from chaos.run import EXIT_USAGE, list_scenarios, run_scenario
from chaos.scenarios.catalogue import CATALOGUE

NEED_ROOT = {"partition", "one-way-partition", "flapping-link"}
NEED_NONE = {"cluster-loss", "leader-cluster-loss", "blackhole", "control-plane-loss", "gateway-kill"}
HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "chaos.md"


def test_every_scenario_is_listed_once_and_says_whether_it_needs_root() -> None:
    listed = list_scenarios()
    assert {name for name, needs_root, _ in listed if needs_root} == NEED_ROOT
    assert {name for name, needs_root, _ in listed if not needs_root} == NEED_NONE
    assert len(listed) == len(CATALOGUE) == len(NEED_ROOT | NEED_NONE)


def test_the_how_to_has_a_row_for_each_with_what_it_needs() -> None:
    rows = [line.split("|")[1:3] for line in HOW_TO.read_text().splitlines() if line.startswith("| `")]
    assert {name.strip(" `"): needs.strip() for name, needs in rows} == {
        name: "root" if needs_root else "" for name, needs_root, _ in list_scenarios()
    }


def test_an_unknown_scenario_is_a_usage_error_that_names_the_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_scenario("meteor", report=None, work_dir=None, seconds=None, say=print) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "no scenario meteor" in said
    assert all(name in said for name in NEED_ROOT | NEED_NONE)


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "missing" / "report.json"
    assert run_scenario("gateway-kill", report=report, work_dir=None, seconds=None, say=print) == EXIT_USAGE
    assert f"there is no folder {tmp_path / 'missing'}" in capsys.readouterr().err

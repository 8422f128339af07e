"""`isthmus chaos` knows each scenario by one name, and says what it cannot run."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos.demo import Options, chosen, known_scenarios
from chaos.run import list_scenarios, run_scenario
from chaos.scenarios.catalogue import CATALOGUE
from federation.cli.main import cli
from federation.kernel.errors import InvalidInputError

NEED_ROOT = {"partition", "one-way-partition", "flapping-link"}
NEED_NONE = {
    "cluster-loss",
    "leader-cluster-loss",
    "blackhole",
    "control-plane-loss",
    "gateway-kill",
    "drain",
    "failing-drain",
    "impostor",
    "rehome",
}
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


def test_a_scenario_that_there_is_not_is_answered_with_the_known() -> None:
    with pytest.raises(InvalidInputError, match="no scenario meteor") as refused:
        run_scenario("meteor", report=None, work_dir=None, seconds=None, say=print)
    assert all(name in refused.value.message for name in NEED_ROOT | NEED_NONE)


def test_the_demo_and_chaos_take_each_others_names() -> None:
    by_demo = {entry.scenario.name: entry for entry in CATALOGUE}
    for name, entry in by_demo.items():
        assert chosen(Options(scenarios=(entry.name, name))) == (entry.scenario,)
    with pytest.raises(InvalidInputError, match="there is no folder"):
        run_scenario("cluster-dies", report=Path("no/report"), work_dir=None, seconds=None, say=print)


def test_the_help_of_the_demo_names_every_scenario() -> None:
    shown = CliRunner().invoke(cli, ["demo", "-h"], terminal_width=200).output
    assert [name for name in known_scenarios() if name not in shown] == []


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    report = tmp_path / "missing" / "report.json"
    with pytest.raises(InvalidInputError, match=f"there is no folder {tmp_path / 'missing'}"):
        run_scenario("gateway-kill", report=report, work_dir=None, seconds=None, say=print)

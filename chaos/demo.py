"""`isthmus demo`: a federation on this machine, and what its callers notice while parts of it die."""

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import click
import msgspec

from chaos.hints import what_to_try
from chaos.lab.federation import Lab, Say
from chaos.lab.namespaces import why_not
from chaos.load.dns_watch import Check
from chaos.load.records import Result
from chaos.report import Report, publish, versions
from chaos.scenarios.catalogue import CATALOGUE
from chaos.scenarios.disasters import DISASTERS
from chaos.scenarios.paths import prove_paths
from chaos.scenarios.stage import SECONDS_DEFAULT, Scenario
from chaos.session import conduct, in_networks, on_loopback, require_folder_of, require_networks
from chaos.view import View, can_draw, open_view
from federation.kernel.errors import InvalidInputError


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `isthmus demo` was asked for."""

    scenarios: tuple[str, ...] = ()  # Empty: all disasters.
    no_faults: bool = False
    keep: bool = False
    seconds: float | None = None  # None: what the whole demo is made for.
    place: str = "auto"
    plain: bool = False
    report: Path | None = None
    work_dir: Path | None = None
    screenshots: Path | None = None


def run_demo(options: Options) -> int:
    """Run the scenarios, print what came out, and return the exit status (`chaos.session.conduct`).

    Raises InvalidInputError for wrong options, PreconditionError for a place that cannot be made.
    """
    scenarios = chosen(options)
    require_folder_of(options.report)
    _require_place(options, scenarios)
    if options.screenshots is not None:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    live = not options.plain and can_draw(sys.stdout, os.environ)

    def run(directory: Path) -> Report:
        with open_view(live=live, scenarios=[scenario.name for scenario in scenarios]) as view:
            report = _run(options, scenarios, directory, view)
        if not options.keep:
            publish(report, options.report)
        return report

    return conduct("demo", options.work_dir, run)


def chosen(options: Options) -> tuple[Scenario, ...]:
    """Return the scenarios to run, each once, in the order in which they were named."""
    if options.no_faults and options.scenarios:
        raise InvalidInputError("--no-faults and --scenario: give one of them")
    if options.no_faults:
        return ()
    known = known_scenarios()
    also = {entry.name: entry.scenario for entry in CATALOGUE}  # As `isthmus chaos` calls the disasters.
    for name in options.scenarios:
        if name not in known and name not in also:
            raise InvalidInputError(f"--scenario: there is no {name!r}, expected one of {', '.join(known)}")
    wanted = options.scenarios or tuple(scenario.name for scenario in DISASTERS)
    return tuple(dict.fromkeys((known | also)[name] for name in wanted))


def known_scenarios() -> dict[str, Scenario]:
    """Return all scenarios by name: first the disasters, which run by default."""
    usual = {scenario.name: scenario for scenario in DISASTERS}
    return usual | {entry.name: entry.scenario for entry in CATALOGUE if entry.scenario.name not in usual}


def _require_place(options: Options, scenarios: Sequence[Scenario]) -> None:
    """Raise where the clusters cannot live as the options and the scenarios need it."""
    if options.place == "namespaces":
        require_networks("--place namespaces")
    for entry in CATALOGUE:
        if entry.needs_root and entry.scenario in scenarios:
            wanted = f"--scenario {entry.name} makes faults between network namespaces"
            if options.place == "loopback":
                raise InvalidInputError(f"{wanted}: --place loopback has none")
            require_networks(wanted)


def laboratory(choice: str, directory: Path, say: Say) -> AbstractContextManager[Lab]:
    """Return the laboratory at the chosen place.

    `auto` takes networks of their own where they can be made, else loopback addresses, and says so.
    """
    obstacle = why_not() if choice == "auto" else ""
    if choice == "loopback" or obstacle:
        if obstacle:
            say(f"clusters share the loopback interface: {obstacle}")
        return on_loopback(directory, say)
    say(
        "each cluster in a network of its own, with delays between regions; calls of applications are captured"
    )
    return in_networks(directory, say, capture=True)


def _run(options: Options, scenarios: Sequence[Scenario], directory: Path, view: View) -> Report:
    with laboratory(options.place, directory, view.say) as lab:
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
            report = Report(scenarios=tuple(results), checks=tuple(checks), versions=versions())
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

"""`isthmus demo`, `isthmus chaos list|run`: a federation on this machine that loses parts under load.

The laboratory is imported when it runs: a quick `isthmus get` must not wait for it.
"""

from pathlib import Path

import click

from federation.cli.output import print_table, say

_PLACES = ("auto", "loopback", "namespaces")
_SECONDS = click.option(
    "--seconds",
    type=click.FloatRange(min=1, max=200),
    help="How long the load of a scenario lasts at least, 1 to 200.",
)
_REPORT = click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE", help="Write the figures there (JSON)."
)
_WORK_DIR = click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Keep logs and data there; default: a temporary directory, which stays only if something failed.",
)


class _Demo(click.Command):
    """Its help names the scenarios, which are imported for it alone."""

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them."""
        from chaos.demo import known_scenarios

        with formatter.section("Scenarios"):
            formatter.write_dl([(name, scenario.title) for name, scenario in known_scenarios().items()])


@click.command(cls=_Demo)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="Run only this one; may be repeated. Default: all disasters, in their order.",
)
@click.option("--no-faults", is_flag=True, help="Run no scenario: found the federation and prove its paths.")
@click.option(
    "--keep", is_flag=True, help="At the end leave everything running until Ctrl-C, and say what to try."
)
@_SECONDS
@click.option(
    "--place",
    type=click.Choice(_PLACES),
    default="auto",
    show_default=True,
    help="Where the clusters live: loopback addresses, or network namespaces, which need root.",
)
@click.option("--plain", is_flag=True, help="Print lines, also on a terminal.")
@_REPORT
@_WORK_DIR
@click.option(
    "--screenshots",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Write what the live view shows soon after the fault of each scenario there, as text.",
)
def demo(
    scenarios: tuple[str, ...],
    no_faults: bool,
    keep: bool,
    seconds: float | None,
    place: str,
    plain: bool,
    report: Path | None,
    work_dir: Path | None,
    screenshots: Path | None,
) -> None:
    """Run a federation on this machine, lose clusters under load, and report what callers noticed.

    Exits 1 if a request or a check failed, or a scenario is invalid.
    """
    from chaos.demo import Options, run_demo

    options = Options(
        scenarios=scenarios,
        no_faults=no_faults,
        keep=keep,
        seconds=seconds,
        place=place,
        plain=plain,
        report=report,
        work_dir=work_dir,
        screenshots=screenshots,
    )
    raise SystemExit(run_demo(options))


@click.group()
def chaos() -> None:
    """The fault laboratory."""


@chaos.command("list")
def list_command() -> None:
    """List the scenarios."""
    from chaos.run import list_scenarios

    rows = [(name, "root" if needs_root else "", title) for name, needs_root, title in list_scenarios()]
    print_table(("scenario", "needs", "what happens"), rows)


@chaos.command("run")
@click.argument("scenario")
@_REPORT
@_WORK_DIR
@_SECONDS
def run_command(scenario: str, report: Path | None, work_dir: Path | None, seconds: float | None) -> None:
    """Found a federation, run SCENARIO on it, check what must hold, and remove everything again.

    Exits 1 if a request or a check failed, or the scenario is invalid.
    """
    from chaos.run import run_scenario

    raise SystemExit(run_scenario(scenario, report=report, work_dir=work_dir, seconds=seconds, say=say))

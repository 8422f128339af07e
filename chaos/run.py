"""`isthmus chaos`: one scenario on a laboratory of its own, its figures and checks."""

from pathlib import Path

from chaos.lab.federation import Say
from chaos.report import Report, publish, versions
from chaos.scenarios.catalogue import CATALOGUE, Entry
from chaos.scenarios.stage import SECONDS_DEFAULT
from chaos.session import conduct, in_networks, on_loopback, require_folder_of, require_networks
from federation.kernel.errors import InvalidInputError


def list_scenarios() -> list[tuple[str, bool, str]]:
    """Return every scenario: its name, whether it needs root, its title."""
    return [(entry.name, entry.needs_root, entry.scenario.title) for entry in CATALOGUE]


def run_scenario(
    name: str, *, report: Path | None, work_dir: Path | None, seconds: float | None, say: Say
) -> int:
    """Run one scenario, print what came out, and return the exit status (`chaos.session.conduct`).

    `seconds`: how long the load lasts at least. Raises InvalidInputError for a scenario or a folder that there is not,
    PreconditionError where the scenario cannot be run.
    """
    entry = next((entry for entry in CATALOGUE if name in (entry.name, entry.scenario.name)), None)
    if entry is None:
        known = ", ".join(one.name for one in CATALOGUE)
        raise InvalidInputError(f"there is no scenario {name}, expected one of {known}")
    require_folder_of(report)
    if entry.needs_root:
        require_networks(f"{name} makes faults between network namespaces")

    def run(directory: Path) -> Report:
        outcome = _run(entry, directory, SECONDS_DEFAULT if seconds is None else seconds, say)
        publish(outcome, report)
        return outcome

    return conduct("chaos", work_dir, run)


def _run(entry: Entry, directory: Path, seconds: float, say: Say) -> Report:
    laboratory = in_networks if entry.needs_root else on_loopback
    with laboratory(directory, say) as lab:
        lab.build()
        say(entry.scenario.title)
        result, checks = entry.scenario.run(lab, say, seconds)
        say("stopping")
    return Report(scenarios=(result,), checks=tuple(checks), versions=versions())

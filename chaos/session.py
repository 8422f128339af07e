"""One run of a command that starts a laboratory: its directory, its laboratory, its exit status.

`isthmus demo` and `isthmus chaos run` are such commands.
"""

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from chaos.lab.federation import Lab, Say
from chaos.lab.guardian import Guardian
from chaos.lab.loopback import claim_block
from chaos.lab.namespaces import Namespaces, why_not
from chaos.lab.processes import LabError
from chaos.lab.topology import demo_topology, routed_topology
from chaos.report import Report
from federation.cli.output import EXIT_FAILED
from federation.kernel.errors import InvalidInputError, PreconditionError

EXIT_INTERRUPTED = 130  # As a shell shows a command that SIGINT ended.
_PREFIX = "10.77"  # Of addresses that only the laboratory's own namespaces have.


def conduct(command: str, work_dir: Path | None, run: Callable[[Path], Report]) -> int:
    """Do `run` in its directory, say what went wrong, and return the exit status of `isthmus COMMAND`.

    0: nothing failed; 1: a request or a check failed, a scenario is invalid, or the laboratory failed; 130: ended by
    Ctrl-C or SIGTERM. Without `work_dir` the directory is a temporary one. It goes at the end, also when we are
    killed; what a failed run left stays for inspection.
    """
    # Ends as Ctrl-C does: the terminal and the machine are given back.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if work_dir is not None:
            work_dir.mkdir(parents=True, exist_ok=True)
            return _status(command, work_dir, run)
        directory = Path(tempfile.mkdtemp(prefix=f"isthmus-{command}-"))
        guardian = Guardian(directory, files=True)
        guardian.start()
        status = EXIT_FAILED  # Of an error that nobody foresaw: its traces stay, too.
        try:
            status = _status(command, directory, run)
        finally:
            guardian.close(keep_files=status == EXIT_FAILED)
        return status
    finally:
        signal.signal(signal.SIGTERM, before)


def _status(command: str, directory: Path, run: Callable[[Path], Report]) -> int:
    try:
        problems = run(directory).problems
    except LabError as error:
        problems = [str(error)]
    except KeyboardInterrupt:  # Everything has been ended on the way here.
        click.echo(f"isthmus {command}: interrupted", err=True)
        return EXIT_INTERRUPTED
    for problem in problems:
        click.echo(f"isthmus {command}: {problem}", err=True)
    if problems:
        click.echo(f"logs and data are in {directory}", err=True)
    return EXIT_FAILED if problems else 0


def require_folder_of(report: Path | None) -> None:
    """Raise InvalidInputError when the report could not be written, before anything is started."""
    if report is not None and not report.absolute().parent.is_dir():
        raise InvalidInputError(f"--report: there is no folder {report.absolute().parent}")


def require_networks(wanted_by: str) -> None:
    """Raise PreconditionError when network namespaces cannot be made here."""
    obstacle = why_not()
    if obstacle:
        raise PreconditionError(f"{wanted_by}: {obstacle}")


@contextmanager
def on_loopback(directory: Path, say: Say) -> Iterator[Lab]:
    """A laboratory whose clusters share the loopback interface, on a block of addresses of their own."""
    with claim_block() as block, Lab(demo_topology(block.prefix), directory, say) as lab:
        yield lab


@contextmanager
def in_networks(directory: Path, say: Say, *, capture: bool = False) -> Iterator[Lab]:
    """A laboratory with a network namespace for each cluster; `capture`: calls of applications are captured."""
    clusters = routed_topology(_PREFIX, capture=capture)
    with Namespaces(clusters) as networks, Lab(clusters, directory, say, place=networks) as lab:
        yield lab

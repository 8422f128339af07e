"""`isthmus doctor`: every problem of the federation that can be seen from here, each with its next step."""

import sys
from typing import Any

import click

from federation.cli.output import EXIT_FAILED, print_json, print_table
from federation.cli.session import Session, context_option, output_option
from federation.kernel.errors import UnavailableError


@click.command()
@context_option
@output_option
def doctor(context_directory: str, output: str) -> None:
    """Look for problems and say what to do about each; exits 1 if there is one.

    Checks quorum, reach, log, lag, clocks, certificates, disks, agents, followers, mirrors,
    versions and incarnations. Needs no quorum.
    """
    session = Session(context_directory)
    try:
        answer: dict[str, Any] = session.get("/v1/doctor")
    except UnavailableError as error:
        answer = _nobody_answers(session, error.message)
    if output == "json":
        print_json(answer)
    else:
        _print(answer["findings"])
    if not answer["healthy"]:
        sys.exit(EXIT_FAILED)


def _nobody_answers(session: Session, message: str) -> dict[str, Any]:
    finding = {
        "check": "controller",
        "level": "problem",
        "subject": session.context.file.cluster,
        "message": message,
        "next": "start it: isthmus controller run --config FILE; if it ends at once, its last line says why",
    }
    return {"healthy": False, "findings": [finding], "members": [], "mirrors": []}


def _print(findings: list[dict[str, str]]) -> None:
    print_table(
        ("level", "check", "subject", "finding"),
        [(one["level"], one["check"], one["subject"], one["message"]) for one in findings],
    )
    for one in findings:
        if one["next"]:
            click.echo(f"{one['check']} {one['subject']}: {one['next']}")

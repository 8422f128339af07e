"""`isthmus cluster drain|undrain|remove`: a cluster hands its traffic over, gets it back, or leaves."""

import math
import time
from typing import Any
from urllib.parse import quote

import click

from federation.api.cluster_requests import DrainRequest, RemoveRequest
from federation.cli.output import only_watching, print_json, say
from federation.cli.session import Session, context_option, decode_answer, output_option, read_duration
from federation.kernel.errors import InvalidInputError, NotFoundError, PreconditionError, UnavailableError

POLL_S = 0.5
# Beyond the time between two steps: a new leader, a new holder of the lease, a check of many services.
PATIENCE_S = 60.0


@click.command()
@click.argument("name")
@click.option(
    "--step", default=25, show_default=True, metavar="PERCENT", help="How much of its traffic goes at once."
)
@click.option(
    "--every",
    default="10s",
    show_default=True,
    help="Time between two steps; the last is watched for 10s at least.",
)
@click.option(
    "--min-capacity",
    default=0,
    show_default=True,
    metavar="PERCENT",
    help="Of each service's ready endpoints, by weight, so much must be elsewhere; 0: any.",
)
@click.option(
    "--max-error-rate",
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="It is given up when so much more of what callers ask for fails than before.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also where nobody else serves, or the log needs it: it stays the last resort, and is never rolled back.",
)
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Until it is drained, or was rolled back."
)
@context_option
@output_option
def drain(
    name: str,
    step: int,
    every: str,
    min_capacity: int,
    max_error_rate: float,
    force: bool,
    wait: bool,
    context_directory: str,
    output: str,
) -> None:
    """Hand the traffic of cluster NAME over to the others, in steps.

    Refused where it alone serves something, or where the log would stop without it. Given up by itself when the
    others lose what they serve meanwhile, or when more requests fail than before. Repeat the command to watch one that is under way.
    """
    if not 1 <= step <= 100:
        raise InvalidInputError(f"--step is {step}, expected 1 to 100")
    if not 0 <= min_capacity <= 100:
        raise InvalidInputError(f"--min-capacity is {min_capacity}, expected 0 to 100")
    if not 0 <= max_error_rate <= 100:
        raise InvalidInputError(f"--max-error-rate is {max_error_rate:g}, expected 0 to 100")
    path = f"/v1/clusters/{quote(name, safe='')}/drain"
    wanted = DrainRequest(
        step_percent=step,
        every_ms=read_duration(every, "--every"),
        force=force,
        min_capacity=min_capacity,
        max_error_rate=max_error_rate,
    )
    session = Session(context_directory)
    answer = session.send("POST", path, wanted)
    if wait:
        with only_watching(f"the drain goes on: isthmus cluster undrain {name} takes it back"):
            answer = _watch(session, path, answer)
    if output == "json":
        print_json(answer)
    if answer["state"] == "rolled back":
        raise PreconditionError(f"the drain of {name} was rolled back: {answer['reason']}")
    if output == "table":
        click.echo(f"{name}: {traffic(answer)}")


@click.command()
@click.argument("name")
@context_option
def undrain(name: str, context_directory: str) -> None:
    """Give cluster NAME its whole share of the traffic back, at once; also while it is being drained."""
    path = f"/v1/clusters/{quote(name, safe='')}/undrain"
    click.echo(decode_answer(Session(context_directory).api.call("POST", path))["message"])


@click.command()
@click.argument("name")
@click.option(
    "--force", is_flag=True, help="Although it is not drained, or votes still: its vote is taken too."
)
@context_option
def remove(name: str, force: bool, context_directory: str) -> None:
    """Take cluster NAME out of the federation with all that it has; it need not answer.

    Drain it and remove its member first. Its name is free for a new join afterwards.
    """
    path = f"/v1/clusters/{quote(name, safe='')}/remove"
    click.echo(Session(context_directory).send("POST", path, RemoveRequest(force=force))["message"])


def traffic(drain: dict[str, Any] | None) -> str:
    """How much of its traffic a cluster gets, and why not all."""
    if drain is None:
        return "100%"
    return f"{drain['sharePercent']}% ({drain['state']})"


def print_drain(drain: dict[str, Any] | None) -> None:
    """Say why the last drain was given up, if it was."""
    if drain is not None and drain["reason"]:
        click.echo(f"its drain was rolled back: {drain['reason']}")


def _watch(session: Session, path: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Say each step, until there are no more and the last one has had its time to show errors.

    How much of that time is left the controllers say: whoever repeats the command watches what is left of it.
    """
    patience_s = answer["everyMs"] / 1000 + PATIENCE_S
    share, stepped_s = None, time.monotonic()
    while True:
        if answer["sharePercent"] != share:
            share, stepped_s = answer["sharePercent"], time.monotonic()
            say(f"{answer['cluster']}: {traffic(answer)}{_still_watched(answer)}")
        if answer["state"] == "rolled back" or (answer["state"] == "drained" and not answer["watchedLeftMs"]):
            return answer
        if time.monotonic() - stepped_s > patience_s:
            raise UnavailableError(
                f"nothing came of the drain of {answer['cluster']} for {patience_s:g} s, it is {answer['state']}, at {share}%:"
                " isthmus doctor says whether the log has a leader"
            )
        time.sleep(POLL_S)
        try:
            answer = _same_drain(answer, session.get(path))
        except UnavailableError as error:
            say(f"asking again: {error.message}")
        except NotFoundError as error:
            raise PreconditionError(
                f"the drain of {answer['cluster']} was ended by somebody else: it has its whole share again,"
                " or was removed"
            ) from error


def _same_drain(watched: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The newer state of a drain; raises for another drain of the same cluster."""
    began, other = watched["startedUnixMs"], found["startedUnixMs"]
    if other < began:
        raise UnavailableError("a controller that is behind tells of an earlier drain")
    if other > began:
        raise PreconditionError(
            f"the drain of {watched['cluster']} was ended by somebody else, and another one began:"
            f" isthmus cluster status {watched['cluster']}"
        )
    return found


def _still_watched(drain: dict[str, Any]) -> str:
    """What there is to wait for after the last step."""
    left_s = math.ceil(drain["watchedLeftMs"] / 1000)
    return f", watched for errors for {left_s} s" if drain["state"] == "drained" and left_s else ""

"""`isthmus cluster rehome`: a remote cluster moves to another home while it serves."""

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from certs.core.token import parse_token, token_hash
from federation.api.cluster_requests import RehomeRequest
from federation.cli.output import only_watching, print_json, say
from federation.cli.session import Session, context_option, output_option, read_duration, read_token
from federation.kernel.errors import InvalidInputError, PreconditionError, UnavailableError

POLL_S = 0.5
# Beyond the time that a move has: the way back, and a new leader.
PATIENCE_S = 120.0


@click.command()
@click.argument("name")
@click.option("--to", metavar="HOME", help="The primary cluster that is to be its home.")
@click.option(
    "--token",
    "token_text",
    help="The leave of the new home: isthmus token create --cluster NAME, made there.",
)
@click.option("--token-file", type=click.Path(path_type=Path), help="File that holds it.")
@click.option("--dry-run", is_flag=True, help="Show who would see or call less than before; change nothing.")
@click.option(
    "--force",
    is_flag=True,
    help="Although somebody would see or call less than before, or a home that it returns to is not missed.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--within", default="10m", show_default=True, help="Taken back by itself when not done by then."
)
@click.option("--abort", is_flag=True, help="Take a move back that is under way.")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Until it has moved, or has returned."
)
@context_option
@output_option
def rehome(
    name: str,
    to: str | None,
    token_text: str | None,
    token_file: Path | None,
    dry_run: bool,
    force: bool,
    yes: bool,
    within: str,
    abort: bool,
    wait: bool,
    context_directory: str,
    output: str,
) -> None:
    """Move the remote cluster NAME to another home, as an operator of the one that it has.

    Its processes get identities of the new home's trust domain, one by one, while they serve: nothing is restarted, no
    connection is cut. Repeat the command to watch a move that is under way.
    """
    session, path = Session(context_directory), _path(name)
    if abort:
        if to or dry_run:
            raise InvalidInputError("--abort: takes neither --to nor --dry-run")
        answer = session.send("POST", f"{path}/abort", {})
    else:
        if not to:
            raise InvalidInputError("--to is missing: the primary cluster that is to be its home")
        if dry_run:
            _show_forecast(session.send("POST", f"{path}/forecast", RehomeRequest(to=to)), output)
            return
        answer = _begin(
            session, path, name, to, read_token(token_text, token_file), within, force=force, yes=yes
        )
    _finish(session, path, answer, to, wait=wait, output=output)


def _begin(
    session: Session, path: str, name: str, to: str, text: str | None, within: str, *, force: bool, yes: bool
) -> dict[str, Any]:
    within_ms = read_duration(within, "--within")
    found: dict[str, Any] = session.get(path)
    if found["state"] in ("announced", "moving") and found["otherHome"] == to:
        return found
    # One that returns from there goes on by the leave that it had.
    resumes = found["state"] == "returning" and found["otherHome"] == to and text is None
    secret_sha256 = "" if resumes else _leave(name, to, text)
    if not yes:
        click.confirm(f"move cluster {name} from {found['home']} to {to}?", abort=True)
    request = RehomeRequest(to=to, secret_sha256=secret_sha256, within_ms=within_ms, force=force)
    answer: dict[str, Any] = session.send("POST", path, request)
    return answer


def _leave(name: str, to: str, text: str | None) -> str:
    """The hash of the token's secret, by which the new home's leave is known."""
    if text is None:
        raise InvalidInputError(
            f"--token or --token-file is missing: isthmus token create --cluster {name}, made at {to}"
        )
    token = parse_token(text)
    if token.purpose != "cluster" or token.cluster != name:
        raise InvalidInputError(
            f"token: made for {token.purpose} {token.cluster}, expected one for cluster {name}"
        )
    return token_hash(token.secret)


def _finish(
    session: Session, path: str, answer: dict[str, Any], to: str | None, *, wait: bool, output: str
) -> None:
    if wait:
        name = answer["cluster"]
        goes_on = (
            f"the move goes on: isthmus cluster rehome {name} --abort takes it back"
            if to is not None
            else f"the return goes on: isthmus cluster status {name} says how far it is"
        )
        with only_watching(goes_on):
            answer = _watch(session, path, answer)
    if output == "json":
        print_json(answer)
    if wait and to is not None and answer["home"] != to:
        raise PreconditionError(
            f"cluster {answer['cluster']} has not moved: {answer['reason'] or 'it was taken back'}"
        )
    if output == "table":
        click.echo(f"{answer['cluster']}: {progress(answer)}")


def home_of(cluster: dict[str, Any]) -> str:
    """The home of a cluster of the status, and where it is on the way to."""
    move = cluster.get("rehoming")
    if move is None:
        return str(cluster["home"])
    if move["state"] == "returning":
        return f"{cluster['home']} (returns from {move['home']})"
    return f"{cluster['home']} (moves to {move['home']})"


def show_move(session: Session, cluster: dict[str, Any]) -> None:
    """Print how far a cluster of the status is on its way to another home; nothing where it is at home."""
    if cluster.get("rehoming") is not None:
        name = str(cluster["name"])
        click.echo(f"{name}: {progress(session.get(_path(name)))}")


def _path(name: str) -> str:
    return f"/v1/clusters/{quote(name, safe='')}/rehome"


def progress(answer: dict[str, Any]) -> str:
    """How far a move is, in words."""
    home, other = answer["home"], answer["otherHome"]
    counted = f"{answer['changed']} of {answer['endpoints']} endpoints show the"
    late = [*answer["late"], *(f"agent {name}" for name in answer["agents"])]
    waiting = f", waiting for {', '.join(late)}" if late else ""
    match answer["state"]:
        case "announced":
            return f"moves from {home} to {other}: callers learn of it"
        case "moving":
            goes_on = f" ({answer['reason']})" if answer["reason"] else ""
            return f"moves from {home} to {other}: {counted} new identity{waiting}{goes_on}"
        case "returning":
            return f"returns to {home}: {counted} old identity again{waiting} ({answer['reason']})"
        case _:
            return f"at home in {home}, trust domain {answer['trustDomain']}"


def _show_forecast(found: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(found)
        return
    click.echo(
        f"{found['cluster']} would move from {found['home']} ({found['trustDomain']})"
        f" to {found['to']} ({found['toTrustDomain']})"
    )
    for title, lines in (
        ("losses: the move is refused without --force", found["losses"]),
        (f"grants that name {found['trustDomain']} and not {found['toTrustDomain']}", found["grants"]),
    ):
        click.echo(f"{title}:" if lines else f"{title.partition(':')[0]}: none")
        for line in lines:
            click.echo(f"  {line}")


def _watch(session: Session, path: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Say how far it is whenever that changes, until it is done."""
    deadline_s = time.monotonic() + answer["withinMs"] / 1000 + PATIENCE_S
    said = ""
    while answer["state"] not in ("", "done"):
        now = f"{answer['cluster']}: {progress(answer)}"
        if now != said:
            say(now)
            said = now
        if time.monotonic() > deadline_s:
            raise UnavailableError(
                f"{now}: no end for too long; isthmus doctor says whether the log has a leader"
            )
        time.sleep(POLL_S)
        try:
            answer = session.get(path)
        except UnavailableError as error:
            say(f"asking again: {error.message}")
    return answer

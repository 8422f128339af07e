"""`isthmus member list|add|promote|remove|transfer|recover`: who votes."""

from pathlib import Path
from urllib.parse import quote

import click

from federation.app.config import ControllerConfig
from federation.cli.backup_commands import tell_restored
from federation.cli.output import print_json
from federation.cli.session import (
    Session,
    config_option,
    context_option,
    decode_answer,
    output_option,
    read_config,
)
from federation.cli.status_commands import print_members
from federation.kernel.errors import PreconditionError


@click.group()
def member() -> None:
    """Members of the log: the controllers that vote, and learners."""


@member.command("list")
@context_option
@output_option
def list_members(context_directory: str, output: str) -> None:
    """Show every controller with its vote, its last contact with the leader and what it lacks."""
    members = Session(context_directory).get("/v1/doctor")["members"]
    if output == "json":
        print_json(members)
        return
    print_members(members)


@member.command()
@click.argument("name")
@context_option
def add(name: str, context_directory: str) -> None:
    """Make the controller of cluster NAME a learner: it gets the log and has no vote.

    Before NAME joins: it will be a learner then. Otherwise a controller that joins gets its vote by itself.
    """
    _change("add", name, context_directory)


@member.command()
@click.argument("name")
@context_option
def promote(name: str, context_directory: str) -> None:
    """Give a learner its vote; refused while it has not caught up."""
    _change("promote", name, context_directory)


@member.command()
@click.argument("name")
@context_option
def remove(name: str, context_directory: str) -> None:
    """Take the vote of NAME, also of one that is dead.

    Refused when the members that are left could not decide anything; nothing forces it.
    """
    _change("remove", name, context_directory)


@member.command()
@click.argument("name")
@context_option
def transfer(name: str, context_directory: str) -> None:
    """Make NAME the leader."""
    _change("transfer", name, context_directory)


@member.command()
@config_option
@click.option(
    "--accept-loss", is_flag=True, help="Go on, although writes that only other members hold are lost."
)
def recover(config_path: Path, accept_loss: bool) -> None:
    """Go on from this controller alone, when most members are lost for ever.

    For a controller that is stopped. Its own log becomes the federation's, with it as the only member;
    the log of before is kept beside it.
    """
    from federation.app.restoring import recover as recover_log
    from federation.app.restoring import survey

    config = read_config(config_path, ControllerConfig)
    if not accept_loss:
        raise PreconditionError(
            "this founds the log anew from this controller's copy: writes that only the lost members hold are lost,"
            f" and members that still live must join again; {survey(config)}: choose the survivor with the highest"
            " term, then entry; when the others are stopped or gone for ever, repeat it with --accept-loss"
        )
    restored = recover_log(config)
    tell_restored(restored, config_path)
    if restored.uncertain:
        click.echo(
            f"{restored.uncertain} entries at the end of the log were kept although nobody here knows whether they"
            " were acknowledged",
            err=True,
        )


def _change(action: str, name: str, context_directory: str) -> None:
    path = f"/v1/members/{quote(name, safe='')}/{action}"
    answer = decode_answer(Session(context_directory).api.call("POST", path))
    click.echo(answer["message"])

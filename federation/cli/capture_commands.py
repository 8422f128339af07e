"""`isthmus capture apply|remove|show`: root's part of transparent capture."""

from pathlib import Path

import click

from federation.agent.capture import (
    apply_capture,
    capture_of,
    describe_apply,
    describe_remove,
    remove_capture,
    show_capture,
)
from federation.agent.config import AgentConfig
from federation.cli.output import say
from federation.cli.session import read_config

dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")


@click.group()
def capture() -> None:
    """Redirect this host's connections to its agent's Envoy (needs root)."""


@capture.command("apply")
@click.option(
    "--config",
    "config_paths",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An agent's configuration; may be repeated, where agents share a network namespace.",
)
@dry_run_option
def apply_command(config_paths: tuple[Path, ...], dry_run: bool) -> None:
    """Redirect connections as [capture] of the agents says; replaces an earlier redirection."""
    captures = [capture_of(read_config(path, AgentConfig)) for path in config_paths]
    if dry_run:
        click.echo(describe_apply(captures), nl=False)
        return
    apply_capture(captures)
    for each in captures:
        say(f"connections go to agent {each.agent} at {each.address}:{each.port}")


@capture.command("remove")
@dry_run_option
def remove_command(dry_run: bool) -> None:
    """Stop to redirect; connections that live go on."""
    if dry_run:
        click.echo(describe_remove(), nl=False)
        return
    say("connections are captured no longer" if remove_capture() else "nothing was captured")


@capture.command("show")
def show_command() -> None:
    """Print the rules and the route as the kernel has them."""
    click.echo(show_capture(), nl=False)

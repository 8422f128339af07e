"""`isthmus`: the operator's command. Verbs as in kubectl; every error says what, where, and what to do."""

import sys
from importlib.metadata import version

import click

from federation.cli.account_commands import history, withheld
from federation.cli.backup_commands import backup
from federation.cli.capture_commands import capture
from federation.cli.doctor_command import doctor
from federation.cli.federation_commands import cluster, init, token
from federation.cli.lab_commands import chaos, demo
from federation.cli.member_commands import member
from federation.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, exit_code, leave_quietly, say
from federation.cli.process_commands import agent, controller, dns, gateway
from federation.cli.resource_commands import apply, delete, get
from federation.cli.status_commands import proxy, resolve, status
from federation.cli.understanding_commands import explain, trace, whatif
from federation.kernel.errors import IsthmusError, cause_of


class Commands(click.Group):
    """Ends with the status of an interrupted command on Ctrl-C, which is no failure."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed, 2 bad input or usage, 3 not found, 4 conflict, 5 unavailable or timed out,"
    " 130 interrupted.",
)
@click.version_option(version("isthmus"), prog_name="isthmus")
def cli() -> None:
    """Federation of service meshes across clusters, clouds, VMs and racks."""


for command in (
    init,
    cluster,
    token,
    controller,
    agent,
    capture,
    gateway,
    dns,
    apply,
    get,
    delete,
    resolve,
    explain,
    whatif,
    trace,
    history,
    withheld,
    proxy,
    status,
    doctor,
    backup,
    member,
    demo,
    chaos,
):
    cli.add_command(command)


def main() -> None:
    """Entry point of the command: our errors become one line and an exit status."""
    try:
        try:
            cli(prog_name="isthmus")
        except BaseExceptionGroup as group:
            raise cause_of(group) from group
    except IsthmusError as error:
        say(f"isthmus: {error.message}")
        sys.exit(exit_code(error))
    except BrokenPipeError:
        leave_quietly()
    except OSError as error:  # Of a file or disk, not translated where it happened.
        say(f"isthmus: {error}")
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()

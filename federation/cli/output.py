"""What commands print: data on standard output, talk on standard error."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from federation.kernel.errors import Code, IsthmusError

# Documented in docs/reference/cli.md; scripts rely on them.
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_CONFLICT = 4
EXIT_UNAVAILABLE = 5
EXIT_INTERRUPTED = 130  # As a shell shows a command that SIGINT ended.

_EXIT_CODES = {
    Code.INVALID_ARGUMENT: EXIT_USAGE,
    Code.NOT_FOUND: EXIT_NOT_FOUND,
    Code.ALREADY_EXISTS: EXIT_CONFLICT,
    Code.ABORTED: EXIT_CONFLICT,
    Code.UNAVAILABLE: EXIT_UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: EXIT_UNAVAILABLE,
}


def exit_code(error: IsthmusError) -> int:
    """Return the exit status of a command that failed so."""
    return _EXIT_CODES.get(error.code, EXIT_FAILED)


def leave_quietly() -> NoReturn:
    """End because whoever read our output, such as `grep -q`, has seen enough: nothing to complain about."""
    # What is still buffered would be written at the interpreter's end, and fail there, aloud.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(EXIT_FAILED)


def plain(text: str) -> str:
    """Return a text with what does not show escaped: agents and mirrors write some of it, and must not command a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def say(text: str) -> None:
    """Tell the operator something that is not data."""
    click.echo("\n".join(map(plain, text.split("\n"))), err=True)


@contextmanager
def only_watching(text: str) -> Iterator[None]:
    """Say `text` when Ctrl-C ends the block: what it watches goes on in the controllers."""
    try:
        yield
    except KeyboardInterrupt:
        say(text)
        raise


def print_json(value: object) -> None:
    """Print data for programs, indented."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print data for people, as kubectl does: no borders, upper-case headings."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.upper(), no_wrap=True, overflow="ignore")
    shown = [[plain(str(cell)) for cell in row] for row in rows]
    for row in shown:
        table.add_row(*row)
    # Piped into a program there is no width to fit into; a narrow terminal wraps by itself. Each column
    # is as wide as its widest cell, which may stand in another row than that of the next column.
    width = sum(max(map(cell_len, column)) + 3 for column in zip(columns, *shown, strict=True))
    # What a cell holds is text: brackets and colons in it mean nothing to rich.
    console = Console(
        file=sys.stdout, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True
    )
    console.print(table)

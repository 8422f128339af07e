"""The face without a screen: one line for each event, on standard error."""

from collections.abc import Callable

import click

from chaos.view.board import Board, Line


class PlainFace:
    """Prints lines with the seconds since `since_s` (Unix seconds)."""

    def __init__(self, *, since_s: float) -> None:
        self._since_s = since_s

    def open(self, board: Callable[[], Board]) -> None:
        """Nothing to prepare."""

    def line(self, _board: Board, line: Line) -> None:
        """Print it."""
        click.echo(format_line(line, self._since_s), err=True)

    def close(self, board: Board) -> None:
        """Everything has been printed."""


def format_line(line: Line, since_s: float) -> str:
    """Return a line with its time."""
    return f"[{line.at_s - since_s:6.1f} s] {line.text}"

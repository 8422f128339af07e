"""Programs that tests run: those of the laboratory. One that is missing fails a test, never skips it."""

from pathlib import Path

from chaos.lab import tools
from chaos.lab.processes import LabError


class MissingToolError(AssertionError):
    """A test needs a program that this machine lacks: the test fails, it is never skipped."""


def tool(name: str) -> Path:
    """Return the program called `name`, as `chaos.lab.tools.tool`; raises MissingToolError."""
    try:
        return tools.tool(name)
    except LabError as error:
        raise MissingToolError(str(error)) from error

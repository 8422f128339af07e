"""What every command shares: options, configuration files, the API of the operator's context."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import click
import msgspec

from federation.api.client import ApiClient
from federation.app.context import Context, open_context
from federation.kernel.codec import MALFORMED
from federation.kernel.configfile import Section, decode_config
from federation.kernel.errors import InvalidInputError, NotFoundError, OutcomeUnknownError, UnavailableError
from federation.kernel.units import duration_ms

CONTEXT_VARIABLE = "ISTHMUS_CONTEXT"
CONTEXT_DEFAULT = "~/.config/isthmus"
_FILE_BYTES_MAX = 1024 * 1024

S = TypeVar("S", bound=Section)
F = TypeVar("F", bound=Callable[..., Any])


def context_option(command: F) -> F:
    """`--context DIRECTORY`: whose API, as whom."""
    return click.option(
        "--context",
        "context_directory",
        envvar=CONTEXT_VARIABLE,
        default=CONTEXT_DEFAULT,
        show_default=True,
        show_envvar=True,
        metavar="DIRECTORY",
        help="The operator's context, made by isthmus init or isthmus cluster join.",
    )(command)


def output_option(command: F) -> F:
    """`-o table|json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people or for programs.",
    )(command)


def config_option(command: F) -> F:
    """`--config FILE`."""
    return click.option(
        "--config",
        "config_path",
        required=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The process's configuration (TOML).",
    )(command)


def read_text(path: Path) -> str:
    """Return a configuration or manifest file; raises NotFoundError or InvalidInputError naming it."""
    try:
        with path.open("rb") as file:
            return text_of(file, str(path))
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from error


def text_of(file: IO[bytes], name: str) -> str:
    """Return what a file holds; raises InvalidInputError naming it where that is too much, or no text."""
    raw = file.read(_FILE_BYTES_MAX + 1)
    if len(raw) > _FILE_BYTES_MAX:
        raise InvalidInputError(f"{name}: larger than {_FILE_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name}: not UTF-8 text: {error}") from error


def as_text(error: Exception) -> str:
    """Return what an error says as one line."""
    return " ".join(str(error).split())


def read_duration(text: str, option: str) -> int:
    """Return the milliseconds that an option says; raises InvalidInputError naming it."""
    try:
        return duration_ms(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"{option}: {error.message}") from error


def read_config(path: Path, schema: type[S]) -> S:
    """Read a process's configuration."""
    return decode_config(read_text(path), schema, path=str(path))


def read_token(text: str | None, path: Path | None) -> str | None:
    """Return a join token given on the command line, or better in a file that only its owner can read."""
    if text and path:
        raise InvalidInputError("--token and --token-file: give one of them")
    return read_text(path).strip() if path else text


class Session:
    """An operator's context and the API that it leads to."""

    def __init__(self, context_directory: str) -> None:
        self.context: Context = open_context(Path(os.path.expanduser(context_directory)))  # noqa: PTH111 - "~"
        self.api = ApiClient.of_operator(
            self.context.file.api,
            cluster=self.context.file.cluster,
            identity=self.context.identity,
            bundles=self.context.bundles,
        )

    def get(self, path: str) -> Any:
        """Return the decoded answer of a GET; a lost one is nothing but unavailable, since a GET changes nothing."""
        try:
            return decode_answer(self.api.call("GET", path))
        except OutcomeUnknownError as error:
            raise UnavailableError(error.message) from error

    def send(self, method: str, path: str, value: object) -> Any:
        """Send `value` as JSON and return the decoded answer."""
        return decode_answer(self.api.call(method, path, msgspec.json.encode(value)))


def decode_answer(content: bytes) -> Any:
    """Decode an answer of the API."""
    try:
        return msgspec.json.decode(content)
    except MALFORMED as error:
        raise UnavailableError(f"the controller's answer cannot be read: {error}") from error

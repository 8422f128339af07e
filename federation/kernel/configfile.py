"""Configuration files: TOML in, one frozen Struct out, every mistake named with its place."""

import tomllib
from typing import TypeVar

import msgspec

from federation.kernel.errors import InvalidInputError


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of a configuration file: an unknown key is a mistake, never ignored."""


S = TypeVar("S", bound=Section)


def decode_config(text: str, schema: type[S], *, path: str) -> S:
    """Return the checked configuration in `text`.

    Raises `InvalidInputError` naming `path`, the key and what was expected there. Relations between
    keys are the schema's own business (`__post_init__` raising ValueError).
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{path}: not a TOML file: {error}") from error
    try:
        return msgspec.convert(raw, schema)
    except msgspec.ValidationError as error:
        problem = str(error)
        raise InvalidInputError(f"{path}: {problem[0].lower()}{problem[1:]}") from error


def host_port(text: str, key: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 in brackets); raises ValueError naming `key`, for use in `__post_init__`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{key}: {text!r} is not an address: expected host:port, such as 10.0.0.1:7443")
    return host.removeprefix("[").removesuffix("]"), int(port)

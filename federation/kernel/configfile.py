"""Configuration files: TOML in, one frozen Struct out, every mistake named with its place."""

import re
import tomllib
from typing import TypeVar

import msgspec

from federation.kernel.errors import InvalidInputError


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of a configuration file: an unknown key is a mistake, never ignored."""


S = TypeVar("S", bound=Section)

_HOST_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([a-zA-Z0-9._-]{1,253})):([0-9]{1,5})")
_SHOWN_CHARACTERS = 80


def decode_config(text: str, schema: type[S], *, path: str) -> S:
    """Return the checked configuration in `text`.

    Raises `InvalidInputError` naming `path`, the key and what was expected there. Relations between
    keys are the schema's own business (`__post_init__` raising ValueError).
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not a TOML file: {error}") from error
    try:
        return msgspec.convert(raw, schema)
    except msgspec.ValidationError as error:
        problem = str(error)
        raise InvalidInputError(f"{path}: {problem[0].lower()}{problem[1:]}") from error


def host_port(text: str, key: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 in brackets); raises ValueError naming `key`, for use in `__post_init__`."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65_536:
        raise ValueError(
            f"{key}: {text[:_SHOWN_CHARACTERS]!r} is not an address: expected host:port, such as 10.0.0.1:7443 or [fd00::1]:7443"
        )
    return match[1] or match[2], int(match[3])

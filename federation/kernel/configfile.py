"""Configuration files: TOML in, one frozen Struct out, every mistake named with its place."""

import difflib
import re
import tomllib
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from federation.kernel.errors import InvalidInputError


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of a configuration file: an unknown key is a mistake, never ignored."""


S = TypeVar("S", bound=Section)

_HOST_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([a-zA-Z0-9._-]{1,253})):([0-9]{1,5})")
_UNKNOWN = re.compile(r"unknown field `([^`]{1,80})`(?: - at `([^`]*)`)?")
_ITEM = re.compile(r"\[[0-9]+\]")
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
        hint = _hint(problem, schema)
        raise InvalidInputError(f"{path}: {problem[0].lower()}{problem[1:]}{hint}") from error


def _hint(problem: str, schema: type[Section]) -> str:
    """Return the key that was probably meant, with its place where that is another section, as the end of a sentence."""
    unknown = _UNKNOWN.search(problem)
    if unknown is None:
        return ""
    known = tuple(_keys(msgspec.inspect.type_info(schema), "$"))
    close = difflib.get_close_matches(unknown[1], dict(known), n=1, cutoff=0.7)
    if not close:
        return ""
    places = [place for key, place in known if key == close[0]]
    is_here = f"{_ITEM.sub('[...]', unknown[2] or '$')}.{close[0]}" in places
    return f": did you mean `{close[0] if is_here else places[0]}`?"


def _keys(kind: msgspec.inspect.Type, place: str) -> Iterator[tuple[str, str]]:
    """Yield every key of a section and of those in it, and its place, as msgspec spells it."""
    match kind:
        case msgspec.inspect.StructType(fields=fields):
            for field in fields:
                yield field.encode_name, f"{place}.{field.encode_name}"
                yield from _keys(field.type, f"{place}.{field.encode_name}")
        case msgspec.inspect.UnionType(types=types):
            for one in types:
                yield from _keys(one, place)
        case msgspec.inspect.VarTupleType(item_type=item):
            yield from _keys(item, f"{place}[...]")


def host_port(text: str, key: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 in brackets); raises ValueError naming `key`, for use in `__post_init__`."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65_536:
        raise ValueError(
            f"{key}: {text[:_SHOWN_CHARACTERS]!r} is not an address: expected host:port, such as 10.0.0.1:7443 or [fd00::1]:7443"
        )
    return match[1] or match[2], int(match[3])

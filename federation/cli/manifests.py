"""Objects as people write them: YAML or JSON, from a file, a folder or standard input.

Everything is read and checked for its shape before anything is sent.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from discovery.core.kinds import KINDS, Kind
from federation.api.manifest import API_VERSION
from federation.cli.session import as_text, read_text, text_of
from federation.kernel.errors import InvalidInputError, NotFoundError
from federation.kernel.limits import RESOURCE_BYTES_MAX

SIZE_MAX = RESOURCE_BYTES_MAX  # Of one object: each of its values and characters is at least a byte.
ITEMS_MAX = 1_000  # In one List: aliases may multiply them.
FILES_MAX = 1_000  # In one folder.
_SHOWN_MAX = 80  # Characters of a wrong value in a message.
_MERGE = "tag:yaml.org,2002:merge"
SUFFIXES = (".yaml", ".yml", ".json")


class _Loader(yaml.SafeLoader):
    """Merges (`<<`) no more keys than an object may have values: mappings that merge others multiply without end."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take over the keys of merged mappings, or raise ConstructorError."""
        keys = len(node.value)
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(merged, yaml.MappingNode) and merged is not node:
                    self.flatten_mapping(merged)
                    keys += len(merged.value)
                if keys > SIZE_MAX:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"more than {SIZE_MAX} merged keys", node.start_mark
                    )
        super().flatten_mapping(node)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One object, and where it was read."""

    where: str
    value: dict[str, Any]
    kind: Kind
    metadata: dict[str, str]

    @property
    def label(self) -> str:
        """How the object is named to people."""
        return f"{self.kind.name.lower()}/{self.metadata['name']}"


def read_manifests(filenames: tuple[str, ...]) -> list[Manifest]:
    """Read every object; raises InvalidInputError or NotFoundError for the first place that makes no sense."""
    found = [one for name in filenames for file in _files(name) for one in _read(file)]
    if not found:
        raise InvalidInputError(f"{', '.join(filenames)}: no object in it")
    return found


def _files(filename: str) -> list[str]:
    """Return the file itself, or what a folder holds, by name, without its folders."""
    path = Path(filename)
    if filename == "-" or not path.is_dir():
        return [filename]
    files = sorted(str(one) for one in path.iterdir() if one.suffix in SUFFIXES and one.is_file())
    if not files:
        raise NotFoundError(f"{filename}: no {', '.join(SUFFIXES)} in this folder")
    if len(files) > FILES_MAX:
        raise InvalidInputError(f"{filename}: {len(files)} files, expected at most {FILES_MAX}")
    return files


def _read(filename: str) -> Iterator[Manifest]:
    if filename == "-":
        filename = "standard input"
        if sys.stdin is None:
            raise InvalidInputError(f"{filename} is closed, expected objects in it")
        text = text_of(sys.stdin.buffer, filename)
    else:
        text = read_text(Path(filename))
    try:
        documents = list(_documents(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date.
        raise InvalidInputError(f"{filename}: not YAML: {_one_line(error)}") from error
    for position, document in enumerate(documents, start=1):
        if document is not None:
            yield from _objects(document, f"{filename}: document {position}")


def _documents(text: str) -> Iterator[object]:
    loader = _Loader(text)
    try:
        while loader.check_data():  # type: ignore[no-untyped-call]  # As types-PyYAML has it.
            yield loader.get_data()
    finally:
        loader.dispose()


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem or error.context} at line {mark.line + 1}, column {mark.column + 1}"
    return as_text(error)


def _objects(document: object, where: str) -> Iterator[Manifest]:
    """Yield the objects of a document: itself, or the items of a list as `isthmus get -o yaml` prints it."""
    kind = document.get("kind") if isinstance(document, dict) else None
    items = document.get("items") if isinstance(document, dict) else None
    if not (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        yield _manifest(document, where)
        return
    if len(items) > ITEMS_MAX:
        raise InvalidInputError(f"{where} has {len(items)} items, expected at most {ITEMS_MAX}")
    for number, item in enumerate(items, start=1):
        yield _manifest(item, f"{where}, item {number}")


def _manifest(document: object, where: str) -> Manifest:
    if not isinstance(document, dict):
        raise InvalidInputError(f"{where} is not an object")
    if _is_too_large(document):
        raise InvalidInputError(f"{where} is larger than {SIZE_MAX} bytes, what its aliases repeat included")
    try:
        msgspec.json.encode(document)
    # ValueError: half a surrogate pair, an endless number. RecursionError: depth, by aliases.
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInputError(f"{where} holds what JSON cannot say: {error}") from error
    kind, metadata = _identify(document, where)
    return Manifest(where=where, value=document, kind=kind, metadata=metadata)


def _is_too_large(document: object) -> bool:
    """True when the document is sure to have more than SIZE_MAX bytes as JSON: its aliases may multiply without end."""
    size, left = 0, [document]
    while left and size <= SIZE_MAX:
        value = left.pop()
        if not isinstance(value, dict | list | set | tuple | str | bytes):
            continue
        size += len(value)
        if size > SIZE_MAX or isinstance(value, str | bytes):
            continue
        left += value
        if isinstance(value, dict):
            left += value.values()
    return size > SIZE_MAX


def _identify(one: dict[str, Any], where: str) -> tuple[Kind, dict[str, str]]:
    if one.get("apiVersion") != API_VERSION:
        raise InvalidInputError(
            f"{where}: apiVersion is {_shown(one.get('apiVersion'))}, expected {API_VERSION!r}"
        )
    metadata = one.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidInputError(f"{where}: metadata.name is missing")
    for field in ("namespace", "cluster"):
        if not isinstance(metadata.get(field, ""), str):
            raise InvalidInputError(f"{where}: metadata.{field} is {_shown(metadata[field])}, expected text")
    kind = KINDS.get(str(one.get("kind")))
    if kind is None:
        raise InvalidInputError(
            f"{where}: kind is {_shown(one.get('kind'))}, expected one of {', '.join(KINDS)}"
        )
    return kind, metadata


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_MAX]

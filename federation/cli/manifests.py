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

VALUES_MAX = 20_000  # In one object of at most 32 KiB.
ITEMS_MAX = 1_000  # In one List: aliases may multiply them.
FILES_MAX = 1_000  # In one folder.
SUFFIXES = (".yaml", ".yml", ".json")


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
        text = text_of(sys.stdin.buffer, filename)
    else:
        text = read_text(Path(filename))
    try:
        documents = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date.
        raise InvalidInputError(f"{filename}: not YAML: {_one_line(error)}") from error
    for position, document in enumerate(documents, start=1):
        if document is not None:
            yield from _objects(document, f"{filename}: document {position}")


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
    if _count(document) > VALUES_MAX:
        raise InvalidInputError(f"{where} has more than {VALUES_MAX} values, those of aliases included")
    try:
        msgspec.json.encode(document)
    except (TypeError, OverflowError) as error:
        raise InvalidInputError(f"{where} holds what JSON cannot say: {error}") from error
    kind, metadata = _identify(document, where)
    return Manifest(where=where, value=document, kind=kind, metadata=metadata)


def _count(document: object) -> int:
    """Count the values of a document, up to one more than VALUES_MAX: its aliases may multiply without end."""
    count, left = 0, [document]
    while left and count <= VALUES_MAX:
        value = left.pop()
        count += 1
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | set):
            left += value
    return count


def _identify(one: dict[str, Any], where: str) -> tuple[Kind, dict[str, str]]:
    if one.get("apiVersion") != API_VERSION:
        raise InvalidInputError(f"{where}: apiVersion is {one.get('apiVersion')!r}, expected {API_VERSION!r}")
    metadata = one.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidInputError(f"{where}: metadata.name is missing")
    for field in ("namespace", "cluster"):
        if not isinstance(metadata.get(field, ""), str):
            raise InvalidInputError(f"{where}: metadata.{field} is {metadata[field]!r}, expected text")
    kind = KINDS.get(str(one.get("kind")))
    if kind is None:
        raise InvalidInputError(f"{where}: kind is {one.get('kind')!r}, expected one of {', '.join(KINDS)}")
    return kind, metadata

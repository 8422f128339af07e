"""Small files that a process believes when it starts: never half written, never silently damaged.

One JSON object: what kind of file it is, the SHA-256 of the content, and the content.
"""

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from certs.runtime.keystore import write_private
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError, NotFoundError, PreconditionError
from federation.kernel.limits import FRAME_BYTES_MAX

T = TypeVar("T")

# The largest content is a directory, which also has to fit into one frame.
STATE_FILE_BYTES_MAX = FRAME_BYTES_MAX + 1024


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    sha256: str
    content: msgspec.Raw


def write_state(path: Path, kind: str, content: msgspec.Struct) -> None:
    """Replace the file at `path` at once or not at all, durably, readable by its owner only.

    Raises `PreconditionError` when the disk refuses.
    """
    raw = msgspec.json.encode(content)
    envelope = _Envelope(kind=kind, sha256=hashlib.sha256(raw).hexdigest(), content=msgspec.Raw(raw))
    try:
        write_private(path, msgspec.json.encode(envelope))
    except OSError as error:
        raise PreconditionError(f"{path}: cannot be written: {error.strerror}") from error


def read_state(path: Path, kind: str, schema: type[T]) -> T:
    """Return what `write_state` wrote.

    Raises `NotFoundError` when there is no file, `CorruptError` naming it when its content is not what
    was written, `PreconditionError` when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(STATE_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise PreconditionError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > STATE_FILE_BYTES_MAX:
        raise CorruptError(f"{path}: larger than {STATE_FILE_BYTES_MAX} bytes, this is no {kind} file")
    try:
        envelope = msgspec.json.decode(raw, type=_Envelope)
    except MALFORMED as error:
        raise CorruptError(f"{path}: damaged, not a {kind} file: {error}") from error
    if envelope.kind != kind:
        raise CorruptError(f"{path}: a {envelope.kind!r} file, expected {kind!r}")
    if hashlib.sha256(bytes(envelope.content)).hexdigest() != envelope.sha256:
        raise CorruptError(f"{path}: damaged, its checksum does not match its content")
    try:
        return msgspec.json.decode(envelope.content, type=schema)
    except MALFORMED as error:
        raise CorruptError(f"{path}: written by a version that this one cannot read: {error}") from error

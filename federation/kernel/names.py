"""Which names may exist: what DNS, SPIFFE, Kubernetes and Envoy all accept."""

import re

from federation.kernel.errors import InvalidInputError
from federation.kernel.limits import LABEL_BYTES_MAX, NAME_BYTES_MAX

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_label(text: str, where: str) -> str:
    """Return `text` if it is one DNS label (RFC 1123: lower case letters, digits, inner hyphens, at most 63)."""
    if len(text) > LABEL_BYTES_MAX:
        raise InvalidInputError(
            f"{where}: {text[:20]!r}... has {len(text)} characters, at most {LABEL_BYTES_MAX} are allowed"
        )
    if _LABEL.fullmatch(text) is None:
        raise InvalidInputError(
            f"{where}: {text!r} is not a name: expected lower case letters, digits and inner hyphens"
        )
    return text


def check_name(text: str, where: str) -> str:
    """Return `text` if it is labels joined by dots, at most 253 characters in all (RFC 1123)."""
    if len(text) > NAME_BYTES_MAX:
        raise InvalidInputError(
            f"{where}: {text[:20]!r}... has {len(text)} characters, at most {NAME_BYTES_MAX} are allowed"
        )
    for label in text.split("."):
        check_label(label, where)
    return text

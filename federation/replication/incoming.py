"""Rows on their way into a follower's copy: each can be read, and a list that is still arriving is bounded."""

from collections.abc import Iterable

from discovery.core.model import (
    Change,
    EndpointKey,
    ResourceKey,
    unpack_endpoint,
    unpack_resource,
)
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError

# Of a snapshot or local list that is still arriving: several times what a million endpoints take.
INCOMING_BYTES_MAX = 2 * 1024 * 1024 * 1024
# What Python spends on a row beside its bytes, so that empty rows count too.
ROW_OVERHEAD_BYTES = 200


def check_row(change: Change) -> None:
    """Refuse a row that no view could read: views rely on it."""
    try:
        key: ResourceKey | EndpointKey
        if change.table == "resources":
            key = ResourceKey.decode(change.key)
            good = change.value is None or unpack_resource(change.value).key == key
        else:
            key = EndpointKey.decode(change.key)
            good = change.value is None or unpack_endpoint(change.value).key == key
    except (*MALFORMED, TypeError) as error:
        raise InvalidInputError(f"{change.table}: row {change.key[:80]!r} cannot be read: {error}") from error
    if not good:
        raise InvalidInputError(f"{change.table}: row {change.key[:80]!r} holds the row of another key")


class ListBound:
    """What a list that is still arriving may hold: rows, and not too many bytes of them."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._size_bytes = 0

    def row(self, change: Change) -> bytes:
        """Return the row of `change`; raises `InvalidInputError` for a removal, or one row too many."""
        if change.value is None:
            raise InvalidInputError(f"{self._what}: {change.key!r} is a removal, a list has only rows")
        self._size_bytes += len(change.key) + len(change.value) + ROW_OVERHEAD_BYTES
        if self._size_bytes > INCOMING_BYTES_MAX:
            raise InvalidInputError(f"{self._what} has more than {INCOMING_BYTES_MAX} bytes")
        return change.value


class IncomingList:
    """A local list that is still arriving."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self._bound = ListBound("local list")

    def add(self, changes: Iterable[Change]) -> None:
        """Take rows; raises `InvalidInputError` for a removal, or too many bytes."""
        for change in changes:
            self.rows[change.key] = self._bound.row(change)

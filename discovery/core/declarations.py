"""What agents tell a controller of their cluster, and what the controller tells the catalog."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from discovery.core.agents import NOTHING_TOLD
from discovery.core.model import Change, Endpoint, EndpointKey
from discovery.core.rules import check_endpoint_key
from federation.kernel.errors import IsthmusError, NotAllowedError


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """One message of an agent. A list may take many; `complete` is set on its last."""

    agent: str
    incarnation: int
    sequence: int  # The agent's own position after this message; no row in it is newer.
    put: tuple[Endpoint, ...] = ()
    remove: tuple[EndpointKey, ...] = ()
    complete: bool = False
    refused: tuple[EndpointKey, ...] = ()  # Rows of it that were refused before: it has them nevertheless.

    def check_own(self, row: Endpoint) -> None:
        """Raise `NotAllowedError` for a row of another agent or start, or newer than this message."""
        if row.agent != self.agent or row.incarnation != self.incarnation or row.sequence > self.sequence:
            raise NotAllowedError(
                f"endpoint {row.key.name} is of agent {row.agent!r} at {row.version}, "
                f"expected {self.agent!r} at most at {(self.incarnation, self.sequence)}"
            )


class Word(NamedTuple):
    """All that one agent told a controller, up to `position`: its incarnation and sequence."""

    position: tuple[int, int]
    rows: tuple[Endpoint, ...] = ()
    refused: tuple[EndpointKey, ...] = ()  # What it has besides, by rows that this controller refused.


NOTHING = Word(NOTHING_TOLD)  # Of an agent of which only that it lives is told.


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What a declaration did: the rows that changed, and those that were refused, with the reason."""

    changes: tuple[Change, ...] = ()
    refused: tuple[tuple[EndpointKey, str], ...] = ()


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One batch for `PublishEndpoints`, and rows that the catalog would refuse, with the reason."""

    put: tuple[Endpoint, ...] = ()
    remove: tuple[tuple[EndpointKey, int, int], ...] = ()
    refused: tuple[tuple[EndpointKey, str], ...] = ()
    held: frozenset[str] = frozenset()  # Agents of rows that have to wait for room, or for their pace.
    whole: bool = True  # Nothing that differs is left for another batch.


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """A row that its agent took back and that the catalog may still have: up to which version it is over."""

    key: EndpointKey
    agent: str
    until: tuple[int, int]


def possible_keys(keys: Iterable[EndpointKey], cluster: str) -> set[bytes]:
    """Return those of the keys that rows of the cluster may have: what else was named is not worth remembering."""
    return {key.encode() for key in keys if _is_possible(key, cluster)}


def _is_possible(key: EndpointKey, cluster: str) -> bool:
    try:
        check_endpoint_key(key, cluster)
    except IsthmusError:
        return False
    return True

"""The replication protocol: how a process follows the catalog of a controller.

A follower names the last revision that it holds and of which history (the federation's id). It gets
the changes since, or a snapshot where that is not possible, then changes as they are applied, and a
heartbeat with the newest revision. Beside the global rows it gets its own cluster's local rows, as
the controllers of that cluster hold them before the log has agreed (local first); a full list of
those replaces what it had only when the list is declared complete (invariant F2).
"""

from typing import TypeAlias

import msgspec

from discovery.core.model import Change
from federation.kernel.versions import PROTOCOL_VERSION

REPLICATION_SERVICE = "isthmus.v1.Replication"  # Follow: one request, a stream of answers; Hold: one request.

ROWS_PER_MESSAGE_MAX = 500


class FollowRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Opens a stream."""

    history: str = ""  # FederationSpec.id of what the follower holds; "" when it holds nothing.
    revision: int = 0
    protocol: int = PROTOCOL_VERSION


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Method Hold: the follower has everything up to this revision, and serves by it."""

    revision: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the answers."""


class SnapshotBegin(Answer, frozen=True, kw_only=True, tag="snapshot-begin"):
    """Forget the global rows once `SnapshotEnd` has come; until then go on with them."""

    history: str
    revision: int


class SnapshotRows(Answer, frozen=True, kw_only=True, tag="snapshot-rows"):
    """A part of the snapshot, at most ROWS_PER_MESSAGE_MAX rows."""

    rows: tuple[Change, ...]


class SnapshotEnd(Answer, frozen=True, kw_only=True, tag="snapshot-end"):
    """The snapshot is complete."""

    revision: int


class Resumed(Answer, frozen=True, kw_only=True, tag="resumed"):
    """The follower's revision is known: changes since follow."""

    history: str
    revision: int


class Delta(Answer, frozen=True, kw_only=True, tag="delta"):
    """What one revision changed."""

    revision: int
    changes: tuple[Change, ...]


class LocalRows(Answer, frozen=True, kw_only=True, tag="local-rows"):
    """Endpoints of the follower's own cluster: changes, or (between `first` and `complete`) the whole list."""

    changes: tuple[Change, ...]
    first: bool = False
    complete: bool = False


class Heartbeat(Answer, frozen=True, kw_only=True, tag="heartbeat"):
    """Nothing new; the controller's newest revision, its clock, and how old its own knowledge is."""

    revision: int
    unix_ms: int
    leader_contact_age_ms: int = 0


FollowAnswer: TypeAlias = SnapshotBegin | SnapshotRows | SnapshotEnd | Resumed | Delta | LocalRows | Heartbeat

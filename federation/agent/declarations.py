"""What an agent says about its workloads: pure.

`Declarations` is the agent's own truth: its rows, and one sequence that grows with each change. A
`Cursor` is what one controller has been told of it, and what it has acknowledged. The difference of
the two is the next message, so that a lost stream, a slow controller and a fast one need no care of
their own: each gets what it lacks.
"""

from collections.abc import Iterable, Mapping

import msgspec

from discovery.core.model import Endpoint, EndpointKey
from federation.api.messages import Declare

ENDPOINTS_PER_MESSAGE_MAX = 500

Version = tuple[int, int]


class Declarations(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints of one start of an agent. Every change raises `sequence`."""

    incarnation: int
    rows: Mapping[EndpointKey, Endpoint]
    sequence: int = 0
    # Removed ones, with the version at which they ended: a controller that had them must hear of it.
    ended: Mapping[EndpointKey, Version] = {}


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far one stream is. A new stream begins with a new cursor: the whole list."""

    sent: Mapping[EndpointKey, tuple[Version, int]] = {}  # Newest version sent, and in which message.
    number: int = 0  # Of the last message sent.
    listed: bool = False  # The whole list has been sent.
    local_number: int = 0  # Up to here the controller holds everything.
    global_number: int = 0  # Up to here the log's quorum does.
    revision: int = 0  # Of the newest global acknowledgement.
    refused: frozenset[EndpointKey] = frozenset()  # As last sent; not repeated before `retry_refused`.
    # Held by the controller, which may not publish them, and why; as of the newest global acknowledgement.
    unpublished: Mapping[EndpointKey, str] = {}


def begin(incarnation: int, endpoints: Iterable[Endpoint]) -> Declarations:
    """Return the declarations of an agent that starts; versions in `endpoints` are replaced."""
    rows = {
        one.key: msgspec.structs.replace(one, incarnation=incarnation, sequence=position)
        for position, one in enumerate(sorted(endpoints, key=lambda one: one.key), start=1)
    }
    return Declarations(incarnation=incarnation, rows=rows, sequence=len(rows))


def with_ready(declarations: Declarations, ready: Mapping[EndpointKey, bool]) -> Declarations:
    """Return the declarations after probes: only rows whose readiness differs get a new version."""
    rows, sequence = dict(declarations.rows), declarations.sequence
    for key in sorted(ready):
        row = rows.get(key)
        if row is not None and row.ready != ready[key]:
            sequence += 1
            rows[key] = msgspec.structs.replace(row, ready=ready[key], sequence=sequence)
    return msgspec.structs.replace(declarations, rows=rows, sequence=sequence)


def with_identity(declarations: Declarations, identity: str) -> Declarations:
    """Return the declarations of an agent whose endpoints show `identity`: only rows that had another get a new version."""
    rows, sequence = dict(declarations.rows), declarations.sequence
    for key, row in sorted(declarations.rows.items()):
        if row.identity != identity:
            sequence += 1
            rows[key] = msgspec.structs.replace(row, identity=identity, sequence=sequence)
    return msgspec.structs.replace(declarations, rows=rows, sequence=sequence)


def without_rows(declarations: Declarations) -> Declarations:
    """Return the declarations of an agent that leaves: every row has ended, each at a new version."""
    ended, sequence = dict(declarations.ended), declarations.sequence
    for key in sorted(declarations.rows):
        sequence += 1
        ended[key] = (declarations.incarnation, sequence)
    return msgspec.structs.replace(declarations, rows={}, sequence=sequence, ended=ended)


def next_message(declarations: Declarations, cursor: Cursor) -> tuple[Declare, Cursor] | None:
    """Return the next message of a stream and the cursor after it, or None when nothing is missing.

    The first messages of a stream are the whole list, at most ENDPOINTS_PER_MESSAGE_MAX rows each;
    the last of them is `complete`, also where the list is empty.
    """
    put = [
        row
        for key, row in sorted(declarations.rows.items())
        if key not in cursor.sent or cursor.sent[key][0] < row.version
    ]
    # What this stream never mentioned need not be removed: the complete list says that it is gone.
    ended = [
        (key, version)
        for key, version in sorted(declarations.ended.items())
        if key in cursor.sent and cursor.sent[key][0] < version
    ]
    if cursor.listed and not put and not ended:
        return None
    put_now = put[:ENDPOINTS_PER_MESSAGE_MAX]
    ended_now = ended[: ENDPOINTS_PER_MESSAGE_MAX - len(put_now)]
    complete = not cursor.listed and len(put_now) == len(put) and len(ended_now) == len(ended)
    number = cursor.number + 1
    message = Declare(
        number=number,
        put=tuple(put_now),
        remove=tuple((key, incarnation, sequence) for key, (incarnation, sequence) in ended_now),
        complete=complete,
    )
    sent = dict(cursor.sent)
    sent.update((row.key, (row.version, number)) for row in put_now)
    sent.update((key, (version, number)) for key, version in ended_now)
    told = {row.key for row in put_now} | {key for key, _ in ended_now}
    return message, msgspec.structs.replace(
        cursor,
        sent=sent,
        number=number,
        listed=cursor.listed or complete,
        refused=cursor.refused - told,
    )


def acknowledged(
    cursor: Cursor,
    number: int,
    level: str,
    revision: int,
    unpublished: Iterable[tuple[EndpointKey, str]] = (),
) -> Cursor:
    """Return the cursor after an acknowledgement; one of a message never sent counts up to the last sent.

    `unpublished` is left out of what is global; endpoints that were never sent are not remembered.
    """
    number = min(number, cursor.number)
    if level == "global":
        return msgspec.structs.replace(
            cursor,
            local_number=max(number, cursor.local_number),
            global_number=max(number, cursor.global_number),
            revision=max(revision, cursor.revision),
            unpublished={key: reason for key, reason in unpublished if key in cursor.sent},
        )
    return msgspec.structs.replace(cursor, local_number=max(number, cursor.local_number))


def refused(cursor: Cursor, key: EndpointKey, number: int) -> Cursor:
    """Return the cursor after a refusal of what message `number` said of an endpoint; an old one is nothing."""
    sent = cursor.sent.get(key)
    if sent is None or sent[1] != number:
        return cursor
    return msgspec.structs.replace(cursor, refused=cursor.refused | {key})


def retry_refused(cursor: Cursor) -> Cursor:
    """Return the cursor that says refused endpoints once more: what stood in the way may be gone."""
    sent = {key: value for key, value in cursor.sent.items() if key not in cursor.refused}
    return msgspec.structs.replace(cursor, sent=sent, refused=frozenset())


def level_of(key: EndpointKey, declarations: Declarations, cursors: Iterable[Cursor]) -> str:
    """Return how safe the newest version of an endpoint is: "global", "local" or "declared" (to nobody yet).

    Invariant C1: local survives unless every controller that gave it loses its disk.
    """
    row = declarations.rows.get(key)
    version = row.version if row is not None else declarations.ended.get(key)
    best = "declared"
    for cursor in cursors:
        sent = cursor.sent.get(key)
        if version is None or sent is None or sent[0] < version or key in cursor.refused:
            continue
        if sent[1] <= cursor.global_number and key not in cursor.unpublished:
            return "global"
        if sent[1] <= cursor.local_number:
            best = "local"
    return best


def all_held(declarations: Declarations, cursor: Cursor) -> bool:
    """True when the stream's controller holds everything that there is to say."""
    return (
        cursor.listed and cursor.local_number == cursor.number and next_message(declarations, cursor) is None
    )

"""A state as the first one of a new incarnation of its federation: after a restore, or from one survivor.

What happened after the state was taken is unknown: other processes may have seen revisions, fences and
tokens that this state never heard of. So everything that only grows jumps ahead of all that.
"""

from collections.abc import Iterator

import msgspec

from discovery.core.external import read_status
from discovery.core.kinds import decode_spec
from discovery.core.model import Resource, ResourceKey, pack, unpack_resource
from discovery.core.snapshots import State
from discovery.core.specs import ControllerSpec, ExternalServiceStatus, FederationSpec, JoinTokenStatus
from discovery.core.tables import Table, Tables
from federation.kernel.errors import InvalidInputError

# Revisions are positions in the log, which grow by less than one in a microsecond. So the time of the
# restore, in microseconds, is above whatever the lost log reached, and above an earlier restore.
# A clock that is wrong by years must not lead backwards: this much is added at least.
REVISION_JUMP_MIN = 1_000_000_000


class Refounding(msgspec.Struct, frozen=True, kw_only=True):
    """The new incarnation."""

    state: State
    incarnation: int
    revision: int
    tokens_dropped: int


def refound(state: State, *, unix_us: int, controller: str, spec: ControllerSpec) -> Refounding:
    """Return `state` as a new incarnation that begins with the one member `controller`, at `spec`.

    Revisions of all resources and the fence are above every earlier one; leases are free; join tokens that
    were not claimed are gone, since they may have been used meanwhile, and so are observations and what followed from them.
    Raises InvalidInputError when the state holds no federation.
    """
    revision = max(state.tables.revision + REVISION_JUMP_MIN, unix_us)
    incarnation, rows, dropped = 0, [], 0
    for row in _resources(state.tables):
        changed = msgspec.structs.replace(row, revision=revision)
        if row.key.kind == "Federation":
            federation = decode_spec("Federation", row.spec, where=str(row.key))
            assert isinstance(federation, FederationSpec)
            incarnation = max(federation.incarnation + 1, unix_us // 1_000_000)
            federation = msgspec.structs.replace(federation, incarnation=incarnation)
            changed = msgspec.structs.replace(changed, spec=msgspec.json.encode(federation))
        elif row.key == ResourceKey("", "Controller", "", controller):
            changed = msgspec.structs.replace(changed, spec=msgspec.json.encode(spec))
        elif row.key.kind == "JoinToken" and not _claimed(row):
            dropped += 1
            continue
        elif row.key.kind in ("Observation", "Verdict", "ExternalObservation"):
            continue  # Whoever lives observes anew.
        elif row.key.kind == "ExternalService":
            told = ExternalServiceStatus(conditions=read_status(row).conditions)
            changed = msgspec.structs.replace(changed, status=msgspec.json.encode(told))
        rows.append((row.key.encode(), pack(changed)))
    if not incarnation:
        raise InvalidInputError(
            "the state holds no Federation: it was taken before the federation was founded"
        )
    tables = Tables(revision=revision, resources=Table.of_sorted(rows), endpoints=state.tables.endpoints)
    return Refounding(
        state=msgspec.structs.replace(state, tables=tables, fence=max(state.fence, revision), leases=()),
        incarnation=incarnation,
        revision=revision,
        tokens_dropped=dropped,
    )


def _resources(tables: Tables) -> Iterator[Resource]:
    return (unpack_resource(value) for _, value in tables.resources.items())


def _claimed(row: Resource) -> bool:
    return bool(msgspec.json.decode(row.status, type=JoinTokenStatus).claimed_by)

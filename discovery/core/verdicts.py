"""Verdicts in the catalog: rows that follow from the observations, damped against flapping.

A cluster that dies once is found dead at once. One that was found dead before, within DAMPING_WINDOW_MS,
has to look dead for a while first: HOLD_MS_MIN, and twice as long for each earlier death, at most
HOLD_MS_MAX. Meanwhile it is `data-degraded`. A verdict lifts at once: that harms nobody. Damping counts
lease time (`discovery.core.leases`), so that no clock that jumps makes or ends a verdict.
"""

from collections.abc import Mapping

import msgspec

from discovery.core.draft import Draft
from discovery.core.kinds import decode_spec
from discovery.core.liveness import Electorate, Judgement
from discovery.core.model import FEDERATION_SCOPE, Change, Resource, ResourceKey
from discovery.core.ownership import clusters
from discovery.core.specs import (
    ClusterSpec,
    MemberSpec,
    ObservationSpec,
    VerdictChange,
    VerdictSpec,
    VerdictStatus,
)
from discovery.core.tables import Tables, resource_prefix

DAMPING_WINDOW_MS = 600_000
HOLD_MS_MIN = 10_000
HOLD_MS_MAX = 300_000
# The holds between so many deaths are longer than the window.
DEATHS_KEPT_MAX = 8
VERDICT_CHANGES_MAX = 16
EVIDENCE_MAX = 16  # Observers named in a row.

_VERDICTS = resource_prefix(FEDERATION_SCOPE, "Verdict")
_JUDGED_KINDS = frozenset({b"Observation", b"Cluster", b"Member"})


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is held of one cluster, and how it came about."""

    spec: VerdictSpec
    status: VerdictStatus


def read_verdicts(tables: Tables) -> dict[str, Verdict]:
    """What is held of each cluster of which anything was ever missed, by name."""
    return {
        row.key.name: Verdict(spec=_spec(row), status=_status(row))
        for row in tables.list_resources(FEDERATION_SCOPE, "Verdict")
    }


def verdict_key(cluster: str) -> ResourceKey:
    """The key of what is held of a cluster."""
    return ResourceKey(FEDERATION_SCOPE, "Verdict", "", cluster)


def concerns_verdicts(draft: Draft) -> bool:
    """True when a command changed what verdicts follow from."""
    return any(
        change.table == "resources" and change.key.split(b"\0", 2)[1] in _JUDGED_KINDS
        for change in draft.changes()
    )


def touches_verdicts(changes: tuple[Change, ...]) -> bool:
    """True when one of the rows is a verdict."""
    return any(change.table == "resources" and change.key.startswith(_VERDICTS) for change in changes)


def next_due(tables: Tables) -> int | None:
    """The lease time at which a verdict that is held becomes due; None when none is held."""
    due = [
        status.held_lease_ms + hold_ms(status.deaths_lease_ms, status.held_lease_ms)
        for row in tables.list_resources(FEDERATION_SCOPE, "Verdict")
        if (status := _status(row)).held_lease_ms is not None
    ]
    return min(due, default=None)


def hold_ms(deaths_lease_ms: tuple[int, ...], now_ms: int) -> int:
    """How long a cluster with these deaths has to look dead before it is found dead again."""
    recent = sum(now_ms - death <= DAMPING_WINDOW_MS for death in deaths_lease_ms)
    return min(HOLD_MS_MAX, HOLD_MS_MIN << (recent - 1)) if recent else 0


def settle(draft: Draft, lease_ms: int) -> None:
    """Make the verdicts what the observations say at this moment, and drop what is about clusters that left.

    Cost: the rows of clusters, observations and verdicts; observations exist only while something is missed.
    """
    joined = clusters(draft)
    rows = {row.key.name: row for row in tuple(draft.list_resources(FEDERATION_SCOPE, "Verdict"))}
    electorate = electorate_of(draft, joined)
    observed = electorate.missed
    # A remote cluster hangs on its home's silence, of which nobody wrote a row about it.
    remotes = {name for name, spec in joined.items() if spec.home in observed}
    for subject in sorted({*rows, *observed, *remotes}):
        row = rows.get(subject)
        if subject in joined:
            _settle_one(draft, subject, row, electorate.judge(subject), lease_ms)
        elif row is not None:
            draft.remove(row.key)


def electorate_of(draft: Draft, joined: Mapping[str, ClusterSpec]) -> Electorate:
    """These clusters, with what they miss of each other; those whose member was removed observe nothing."""
    blind = frozenset(
        row.key.name
        for row in draft.list_resources(FEDERATION_SCOPE, "Member")
        if isinstance(spec := decode_spec("Member", row.spec, where=str(row.key)), MemberSpec)
        and spec.standing == "removed"
    )
    return Electorate(joined, _complaints_of(draft, joined), blind)


def _complaints_of(draft: Draft, joined: Mapping[str, ClusterSpec]) -> dict[str, dict[str, ObservationSpec]]:
    """What joined clusters miss of each other; rows about clusters that left are dropped."""
    found: dict[str, dict[str, ObservationSpec]] = {}
    for observer in sorted(joined):
        for row in tuple(draft.list_resources(observer, "Observation")):
            if row.key.name not in joined:
                draft.remove(row.key)
                continue
            spec = decode_spec("Observation", row.spec, where=str(row.key))
            assert isinstance(spec, ObservationSpec)
            found.setdefault(observer, {})[row.key.name] = spec
    return found


def _settle_one(
    draft: Draft, subject: str, row: Resource | None, judgement: Judgement, lease_ms: int
) -> None:
    if row is None and judgement.state == "ok":
        return
    before = None if row is None else _spec(row)
    status = VerdictStatus() if row is None else _status(row)
    state, held = judgement.state, None
    if state == "dead" and (before is None or before.state != "dead"):
        held = lease_ms if status.held_lease_ms is None else status.held_lease_ms
        if lease_ms - held < hold_ms(status.deaths_lease_ms, held):
            state = "data-degraded"
        else:
            held = None
            deaths = (*status.deaths_lease_ms, lease_ms)[-DEATHS_KEPT_MAX:]
            status = msgspec.structs.replace(status, deaths_lease_ms=deaths)
    changed = before is None or before.state != state
    since_ms = draft.now_ms if before is None or changed else before.since_ms
    spec = VerdictSpec(
        state=state,
        since_ms=since_ms,
        control_lost_by=judgement.control_lost_by[:EVIDENCE_MAX],
        data_lost_by=judgement.data_lost_by[:EVIDENCE_MAX],
    )
    changes = status.changes
    if changed:
        news = VerdictChange(
            state=state, at_ms=since_ms, control_lost_by=spec.control_lost_by, data_lost_by=spec.data_lost_by
        )
        changes = (*changes, news)[-VERDICT_CHANGES_MAX:]
    status = msgspec.structs.replace(
        status, changes=changes, flips=status.flips + changed, held_lease_ms=held
    )
    _put(draft, subject, row, spec, status)


def _put(draft: Draft, subject: str, row: Resource | None, spec: VerdictSpec, status: VerdictStatus) -> None:
    key = verdict_key(subject)
    raw, raw_status = msgspec.json.encode(spec), msgspec.json.encode(status)
    if row is None:
        made = Resource(
            key=key,
            uid=draft.make_uid(key),
            owner=FEDERATION_SCOPE,
            revision=draft.index,
            generation=1,
            created_ms=draft.now_ms,
            created_revision=draft.index,
            spec=raw,
            status=raw_status,
        )
        draft.put(made)
    elif (raw, raw_status) != (row.spec, row.status):
        changed = msgspec.structs.replace(
            row,
            spec=raw,
            status=raw_status,
            revision=draft.index,
            generation=row.generation + (raw != row.spec),
        )
        draft.put(changed)


def _spec(row: Resource) -> VerdictSpec:
    spec = decode_spec("Verdict", row.spec, where=str(row.key))
    assert isinstance(spec, VerdictSpec)
    return spec


def _status(row: Resource) -> VerdictStatus:
    return msgspec.json.decode(row.status, type=VerdictStatus)

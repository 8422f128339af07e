"""How much one cluster may take of what all share, and how fast (invariant F3: nobody pays for a neighbour).

    Quota/CLUSTER   of that cluster
    Quota/default   of every cluster without one
    (none)          the defaults of `QuotaSpec`

What there may be is enforced by the state machine: a command that would make more is refused as a whole, and
says which limit it met; one that makes less, or changes what is there, passes. So a limit that is lowered
below what there is takes nothing away. How fast it may change is enforced where changes are proposed: by the
publisher of the cluster's endpoints, which waits, and by the API, which refuses.
"""

from collections.abc import Iterable, Mapping

import msgspec

from discovery.core.commands import Operation, PublishEndpoints, Put, Write
from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, Endpoint, EndpointKey, ResourceKey, pack
from discovery.core.specs import NamespaceQuota, QuotaSpec
from discovery.core.tables import Table, Tables
from discovery.core.usage import Measure, Place, Usage
from federation.kernel.errors import IsthmusError, LimitExceededError

DEFAULT_QUOTA = "default"
# By so much a batch of endpoints that adds none may exceed the limit of bytes: rows grow as their agents count on.
BYTES_SLACK = 4 * 1024
# Kinds that say what a cluster sees of others: as many at most as there are others, services and drains.
_SEEN = frozenset({"Observation", "ExternalObservation", "DrainReport"})
_MEASURES: tuple[Measure, ...] = ("endpoints", "services", "resources", "bytes")


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one cluster, and the record that they are from."""

    source: str  # Such as "Quota/default"; "the built-in limits" where there is no record.
    spec: QuotaSpec

    def limit(self, place: Place) -> tuple[int, str]:
        """Return the limit of a place, and the field that sets it."""
        if not place.namespace:
            return _value(self.spec, place.measure), f"spec.{place.measure}"
        own = self.spec.namespaces.get(place.namespace)
        if own is not None:
            return _value(own, place.measure), f"spec.namespaces.{place.namespace}.{place.measure}"
        return _value(self.spec.namespace, place.measure), f"spec.namespace.{place.measure}"

    def check_growth(self, usage: Usage, cluster: str, *, slack_bytes: int) -> None:
        """Raise `LimitExceededError` where a draft's usage has grown past a limit of the cluster.

        What adds no rows, and at most `slack_bytes`, is not judged.
        """
        grown = {place: by for place, by in usage.changes() if by > 0 and place.cluster == cluster}
        adds_rows = any(place.measure in ("endpoints", "resources") for place in grown)
        for place, change in grown.items():
            if place.measure != "bytes" or adds_rows or change > slack_bytes:
                self._check(usage, place)

    def admit(
        self, standing: Table, usage: Usage, rows: Mapping[bytes, Endpoint], gone: Iterable[bytes]
    ) -> tuple[dict[bytes, Endpoint], list[tuple[EndpointKey, str]]]:
        """Return the rows without new ones that exceed this quota, and those with the reason.

        `usage` is that of the `standing` rows, of which those at `gone` go at the same time.
        """
        draft = Usage(usage)
        for key in gone:
            if (there := standing.get(key)) is not None:
                draft.note("endpoints", key, -1, -len(key) - len(there))
        kept: dict[bytes, Endpoint] = {}
        refused: list[tuple[EndpointKey, str]] = []
        for key, row in rows.items():
            if standing.get(key) is None:
                size = len(key) + len(pack(row))
                draft.note("endpoints", key, 1, size)
                try:
                    self.check_growth(draft, row.key.cluster, slack_bytes=0)
                except LimitExceededError as error:
                    draft.note("endpoints", key, -1, -size)
                    refused.append((row.key, error.message))
                    continue
            kept[key] = row
        return kept, refused

    def _check(self, usage: Usage, place: Place) -> None:
        there = usage.count(*place)
        limit, field = self.limit(place)
        if there > limit:
            inside = f" in namespace {place.namespace}" if place.namespace else ""
            raise LimitExceededError(
                f"cluster {place.cluster}: {there} {place.measure}{inside}, at most {limit} are allowed"
                f" by {self.source} {field}"
            )


def quota_of(tables: Tables, cluster: str) -> Quota:
    """Return the quota that is in force for a cluster."""
    for name in (cluster, DEFAULT_QUOTA):
        row = tables.resource(ResourceKey(FEDERATION_SCOPE, "Quota", "", name))
        if row is None:
            continue
        try:
            spec = decode_spec("Quota", row.spec, where=str(row.key))
        except IsthmusError:
            continue  # Written by a newer build: the next one holds, never none.
        assert isinstance(spec, QuotaSpec)
        return Quota(source=str(row.key), spec=spec)
    return BUILT_IN


def check_growth(tables: Tables, usage: Usage, body: Write | PublishEndpoints) -> None:
    """Raise `LimitExceededError` when what a command asks for grows past a quota that is in force in `tables`.

    `usage` is that of a draft, before anything else follows from the command: that is charged to nobody. Nor is a
    status: members write it. Nor what controllers see: who has no room must not be blind.
    """
    if isinstance(body, Write) and not any(map(_is_charged, body.operations)):
        return
    slack_bytes = BYTES_SLACK if isinstance(body, PublishEndpoints) else 0
    for cluster in {place.cluster: None for place, by in usage.changes() if by > 0 and place.cluster}:
        quota_of(tables, cluster).check_growth(usage, cluster, slack_bytes=slack_bytes)


def _is_charged(operation: Operation) -> bool:
    return (
        isinstance(operation, Put)
        and operation.key.kind not in _SEEN
        and (operation.spec is not None or operation.labels is not None)
    )


def shares(usage: Usage, cluster: str, quota: Quota) -> Mapping[Measure, tuple[int, int]]:
    """Return how much of each measure a cluster has, and may have."""
    return {
        measure: (usage.count(measure, cluster), quota.limit(Place(measure, cluster))[0])
        for measure in _MEASURES
    }


def _value(limits: QuotaSpec | NamespaceQuota, measure: Measure) -> int:
    match measure:
        case "endpoints":
            return limits.endpoints
        case "services":
            return limits.services
        case "resources":
            return limits.resources
        case "bytes":
            return limits.bytes


BUILT_IN = Quota(source="the built-in limits", spec=QuotaSpec())

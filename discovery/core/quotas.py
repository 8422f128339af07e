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

from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, Endpoint, EndpointKey, ResourceKey, pack
from discovery.core.specs import NamespaceQuota, QuotaSpec
from discovery.core.tables import Table, Tables
from discovery.core.usage import Measure, Place, Usage
from federation.kernel.errors import IsthmusError, LimitExceededError

DEFAULT_QUOTA = "default"
# By so much a command that adds no rows may exceed the limit of bytes.
BYTES_SLACK = 4 * 1024
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

    def check_growth(self, usage: Usage, cluster: str) -> None:
        """Raise `LimitExceededError` where a draft's usage has grown past a limit of the cluster."""
        grown = {place: change for place, change in usage.changes() if change > 0}
        adds_rows = any(place.measure in ("endpoints", "resources") for place in grown)
        for place, change in grown.items():
            # A row that grows by a byte when its agent counts on must not be stuck at a limit.
            if place.measure == "bytes" and not adds_rows and change <= BYTES_SLACK:
                continue
            if place.cluster == cluster:
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
                    self.check_growth(draft, row.key.cluster)
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


def check_growth(tables: Tables, usage: Usage) -> None:
    """Raise `LimitExceededError` when a draft's usage grows past a quota that is in force in `tables`."""
    grown = [place for place, change in usage.changes() if change > 0 and place.cluster]
    for cluster in {place.cluster: None for place in grown}:
        quota_of(tables, cluster).check_growth(usage, cluster)


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

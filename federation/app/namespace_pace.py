"""How fast each namespace of a cluster may change, where its quota says so: what is beyond that waits, the others do not."""

from collections import Counter
from collections.abc import Iterable, Mapping

from discovery.core.declarations import Difference
from discovery.core.model import EndpointKey
from discovery.core.rates import Bucket
from discovery.core.room import Room
from discovery.core.specs import NamespaceQuota, QuotaSpec


class NamespacePace:
    """The rates of the namespaces of one cluster, from batch to batch; bounded by the namespaces that changed lately."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def begin(self, spec: QuotaSpec, room: Room | None, now_s: float) -> "Turn":
        """Begin a batch by the rates of `spec`, of what there is `room` for."""
        for name, bucket in list(self._buckets.items()):
            limits = limits_of(spec, name)
            if limits is None or not bucket.wait_s(limits.changes_burst, now_s):
                del self._buckets[name]  # It is full again, or may go as fast as the cluster.
            else:
                bucket.limit(per_second=limits.changes_per_second, burst=limits.changes_burst, now_s=now_s)
        left = {name: bucket.available(now_s) for name, bucket in self._buckets.items()}
        waits_s = {name: bucket.wait_s(1, now_s) for name, bucket in self._buckets.items()}
        return Turn(spec, room, left, waits_s)

    def took(self, batch: Difference, spec: QuotaSpec, now_s: float) -> None:
        """Count what goes."""
        if not _has_limits(spec):
            return
        keys: Iterable[EndpointKey] = (*(row.key for row in batch.put), *(key for key, _, _ in batch.remove))
        for name, count in Counter(key.namespace for key in keys).items():
            if (limits := limits_of(spec, name)) is not None:
                bucket = self._buckets.setdefault(
                    name,
                    Bucket(per_second=limits.changes_per_second, burst=limits.changes_burst, now_s=now_s),
                )
                bucket.take(count, now_s)


class Turn:
    """What one batch may take of each namespace, and of what there is room for."""

    def __init__(
        self, spec: QuotaSpec, room: Room | None, left: dict[str, int], waits_s: Mapping[str, float]
    ) -> None:
        self._spec = spec
        self._room = room
        self._has_limits = _has_limits(spec)
        self._left = left  # By namespace; one that is not in it has its burst.
        self._waits_s = waits_s
        self._held: set[str] = set()

    @property
    def held(self) -> bool:
        """True when something was left out by its pace."""
        return bool(self._held)

    @property
    def wait_s(self) -> float:
        """How long until one of the namespaces that were held may go on; 0 where they go on with the next batch."""
        return min((self._waits_s.get(name, 0.0) for name in self._held), default=0.0)

    def takes(self, key: bytes, ours: bytes | None, theirs: bytes | None) -> bool:
        """True when the row at `key` may go with this batch: `theirs` is what the catalog has there."""
        name = EndpointKey.decode(key).namespace if self._has_limits else ""
        limits = limits_of(self._spec, name) if self._has_limits else None
        left = 1 if limits is None else self._left.get(name, limits.changes_burst)
        if left <= 0:
            self._held.add(name)
            return False
        if self._room is not None and not self._room.takes(key, ours, theirs):
            return False
        if limits is not None:
            self._left[name] = left - 1
        return True


def _has_limits(spec: QuotaSpec) -> bool:
    """True where some namespace may have to wait; mostly none has."""
    return bool(spec.namespaces) or limits_of(spec, "") is not None


def limits_of(spec: QuotaSpec, namespace: str) -> NamespaceQuota | None:
    """Return the limits of a namespace; None where it may change as fast as the whole cluster. "": one that is not named."""
    own = spec.namespaces.get(namespace, spec.namespace)
    is_slower = own.changes_per_second < spec.changes_per_second or own.changes_burst < spec.changes_burst
    return own if is_slower else None

"""What the mirrors of each cluster may ask of a member: so many calls at once, and as fast as its Quota says.

A mirror is in other hands: it may ignore the rates that a publisher and an API keep to by themselves. So the
member that proposes for it counts, too. What is too much is refused before it happens, and costs the log nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from discovery.core.commands import Body, PublishEndpoints
from discovery.core.quotas import Quota
from discovery.core.rates import Bucket
from federation.kernel.errors import UnavailableError

CALLS_MAX = 256  # At once, of all mirrors.
CALLS_PER_CLUSTER_MAX = 64


class Fairness:
    """Counts the calls of each cluster; bounded by the clusters that have joined."""

    def __init__(self, quota: Callable[[str], Quota], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._quota = quota
        self._clock = clock
        self._running: dict[str, int] = {}
        self._changes: dict[str, Bucket] = {}
        self._writes: dict[str, Bucket] = {}

    @contextmanager
    def call(self, cluster: str) -> Iterator[None]:
        """Hold a place for one call of a cluster; raises `UnavailableError` when there is none."""
        if sum(self._running.values()) >= CALLS_MAX:
            raise UnavailableError(f"{CALLS_MAX} forwarded calls are running: use another member")
        if self._running.get(cluster, 0) >= CALLS_PER_CLUSTER_MAX:
            raise UnavailableError(
                f"{CALLS_PER_CLUSTER_MAX} forwarded calls of cluster {cluster} are running: wait for them"
            )
        self._running[cluster] = self._running.get(cluster, 0) + 1
        try:
            yield
        finally:
            self._running[cluster] -= 1
            if not self._running[cluster]:
                del self._running[cluster]

    def count(self, cluster: str, body: Body) -> None:
        """Count a proposal of a cluster; raises `UnavailableError` when it comes too soon."""
        quota, now_s = self._quota(cluster), self._clock()
        spec = quota.spec
        if isinstance(body, PublishEndpoints):
            buckets, count, field = self._changes, len(body.put) + len(body.remove), "changesPerSecond"
            per_second, burst = spec.changes_per_second, spec.changes_burst
        else:
            buckets, count, field = self._writes, 1, "writesPerSecond"
            per_second, burst = spec.writes_per_second, spec.writes_burst
        bucket = buckets.get(cluster)
        if bucket is None:
            bucket = buckets[cluster] = Bucket(per_second=per_second, burst=burst, now_s=now_s)
        bucket.limit(per_second=per_second, burst=burst, now_s=now_s)
        if wait_s := bucket.wait_s(count, now_s):
            raise UnavailableError(
                f"cluster {cluster} is faster than {per_second} by {quota.source} spec.{field}:"
                f" try again in {wait_s:.2f} s"
            )
        bucket.take(count, now_s)

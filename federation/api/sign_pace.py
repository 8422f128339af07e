"""How often one process may have certificates signed: each costs a record on disk for ever, and a signature."""

import time
from collections import OrderedDict
from collections.abc import Callable

from certs.core.spiffe import SpiffeId
from discovery.core.rates import Bucket
from federation.kernel.errors import LimitExceededError

# A process renews two leaves each 12 h, once more when it moves to another home, and after each start that lost them.
SIGNED_BURST = 60
SIGNED_EVERY_S = 10
CALLERS_REMEMBERED_MAX = 10_000


class SignPace:
    """Counts the certificates of each process; the one that asked longest ago is forgotten when there are too many."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[SpiffeId, Bucket] = OrderedDict()

    def count(self, caller: SpiffeId) -> None:
        """Count one certificate; raises `LimitExceededError` when `caller` asks too often."""
        # A bucket counts whole tokens in a second: its seconds are SIGNED_EVERY_S long here.
        now = self._clock() / SIGNED_EVERY_S
        bucket = self._buckets.pop(caller, None) or Bucket(per_second=1, burst=SIGNED_BURST, now_s=now)
        self._buckets[caller] = bucket
        if len(self._buckets) > CALLERS_REMEMBERED_MAX:
            self._buckets.popitem(last=False)
        if wait := bucket.wait_s(1, now):
            raise LimitExceededError(
                f"{caller} had {SIGNED_BURST} certificates signed in a short time: try again in"
                f" {wait * SIGNED_EVERY_S:.0f} s"
            )
        bucket.take(1, now)

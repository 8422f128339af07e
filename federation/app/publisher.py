"""Publishing: what the agents of a cluster declared to its controllers becomes global, in batches.

Only the holder of the cluster's publish lease proposes, and its fence goes with every batch, so that a
holder that was cut off cannot overwrite its successor. Batches are differences and idempotent.
"""

import asyncio
import contextlib
import random

import structlog

from discovery.core.commands import AcquireLease, PublishEndpoints
from discovery.core.publishing import publish_lease
from discovery.core.rates import Bucket
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.api.registry import ClusterRegistry
from federation.app.namespace_pace import NamespacePace
from federation.kernel.errors import IsthmusError, LimitExceededError, PreconditionError, UnavailableError

LEASE_TTL_MS = 15_000
_RETRY_MIN_S = 0.2
_RETRY_MAX_S = 2.0
LIMITED_RETRY_S = 2.0  # Each try is an entry of the log.
# A batch costs all members far more than one more row in it. So a cluster that always has something new collects it for a
# moment: its neighbours share the log with it. Who changes now and then waits for nothing.
BATCHES_PER_S = 50
BATCHES_BURST = 10
# What is held is looked at for each batch, and there may be much of it: everything else here has the loop for so many times as
# long in between.
HELD_PAUSE_SHARE = 4

_log = structlog.get_logger("publisher")


class HeldElsewhereError(UnavailableError):
    """Another controller of the cluster publishes."""


class Publisher:
    """Publishes one cluster's endpoints; without quorum it waits, and nothing of the cluster's own stops."""

    def __init__(
        self, registry: ClusterRegistry, *, holder: str, catalog: CatalogReader, proposer: Proposer
    ) -> None:
        self._registry = registry
        self._holder = holder
        self._catalog = catalog
        self._proposer = proposer
        self._fence: int | None = None
        self._rate: Bucket | None = None
        self._pace = NamespacePace()
        self._batches = Bucket(per_second=BATCHES_PER_S, burst=BATCHES_BURST, now_s=0.0)
        # By the loop's clock: when new endpoints that a limit kept out are tried again, and when what is held is looked at again.
        self._create_again_s = self._look_again_s = 0.0

    async def run(self) -> None:
        """Publish until cancelled, or until the cluster was removed."""
        pause = _RETRY_MIN_S
        while True:
            await self._woken()
            if self._registry.retired:
                return
            try:
                await self._publish()
                pause = _RETRY_MIN_S
            except HeldElsewhereError as error:
                # Its holder has the same to publish; what is left after that is for the next attempt.
                _log.debug("publishing_left_to_another", cluster=self._registry.cluster, reason=error.message)
                self._registry.dirty.set()
                await asyncio.sleep(_RETRY_MAX_S * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            except IsthmusError as error:
                _log.warning("publish_failed", cluster=self._registry.cluster, error=error.message)
                self._fence = None  # It may be ours no longer.
                self._registry.dirty.set()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, _RETRY_MAX_S)

    async def _woken(self) -> None:
        """Wait for news; while a limit stands against new endpoints, until they may be tried again at most."""
        registry = self._registry
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._create_again_s if registry.limited else None):
                await registry.dirty.wait()
        registry.dirty.clear()

    async def _publish(self) -> None:
        registry = self._registry
        clock = asyncio.get_running_loop().time
        while True:
            pause_s = max(self._batches.wait_s(1, clock()), self._look_again_s - clock())
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            if registry.limited and clock() >= self._create_again_s:
                registry.unlimit()  # Here, since a cluster that always has something to publish never gets out of this loop.
            version, began_s = registry.version, clock()
            turn = self._pace.begin(registry.quota.spec, registry.room(), clock())
            batch = registry.difference(turn)
            if batch.held:
                self._look_again_s = clock() + HELD_PAUSE_SHARE * (clock() - began_s)
            if not batch.put and not batch.remove:
                registry.published(version, self._catalog.revision, batch.refused, batch.held)
                if not turn.held:
                    return
                self._batches.take(1, clock())
                await self._rest(turn.wait_s)
                continue
            if wait_s := self._wait_s(len(batch.put) + len(batch.remove)):
                registry.delayed_s += wait_s
                await asyncio.sleep(wait_s)
                continue  # What changed again meanwhile goes once.
            self._pace.took(batch, registry.quota.spec, clock())
            if batch.whole:  # What fills more than one batch goes at once.
                self._batches.take(1, clock())
            fence = self._fence if self._fence is not None else await self._acquire()
            publish = PublishEndpoints(
                cluster=registry.cluster, fence=fence, put=batch.put, remove=batch.remove
            )
            try:
                outcome = await self._proposer.propose(publish)
            except LimitExceededError as error:
                # What is there already may change and go; what is new goes as far as there is room.
                if not registry.limit(error.message):
                    raise
                _log.warning("endpoints_limited", cluster=registry.cluster, reason=error.message)
                self._create_again_s = clock() + LIMITED_RETRY_S
                continue
            if batch.whole:
                # Now, not when nothing is left to do: of agents that never pause, nothing would ever be said.
                registry.published(version, outcome.revision, batch.refused, batch.held)

    async def _rest(self, wait_s: float) -> None:
        """Wait until a namespace may go on, or another one has news."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._registry.dirty.wait()
        self._registry.dirty.clear()
        self._registry.delayed_s += loop.time() - began_s

    def _wait_s(self, count: int) -> float:
        """How long a batch has to wait for the cluster's rate; 0 lets it go, and counts it."""
        spec, now_s = self._registry.quota.spec, asyncio.get_running_loop().time()
        if self._rate is None:
            self._rate = Bucket(per_second=spec.changes_per_second, burst=spec.changes_burst, now_s=now_s)
        self._rate.limit(per_second=spec.changes_per_second, burst=spec.changes_burst, now_s=now_s)
        wait_s = self._rate.wait_s(count, now_s)
        if not wait_s:
            self._rate.take(count, now_s)
        return wait_s

    async def _acquire(self) -> int:
        name = publish_lease(self._registry.cluster)
        outcome = await self._proposer.propose(
            AcquireLease(name=name, holder=self._holder, ttl_ms=LEASE_TTL_MS)
        )
        if outcome.lease is None:
            raise PreconditionError(f"lease {name}: the log gave no answer to its acquisition")
        if not outcome.lease.granted:
            raise HeldElsewhereError(f"lease {name} is held by {outcome.lease.holder}")
        self._fence = outcome.lease.fence
        _log.info("publishing", lease=name, fence=self._fence)
        return self._fence

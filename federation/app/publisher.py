"""Publishing: what the agents of a cluster declared to its controllers becomes global, in batches.

Only the holder of the cluster's publish lease proposes, and its fence goes with every batch, so that a
holder that was cut off cannot overwrite its successor. Batches are differences and idempotent.
"""

import asyncio
import random

import structlog

from discovery.core.catalog import Catalog
from discovery.core.commands import AcquireLease, PublishEndpoints
from discovery.core.publishing import publish_lease
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.kernel.errors import IsthmusError, PreconditionError, UnavailableError

LEASE_TTL_MS = 15_000
_RETRY_MIN_S = 0.2
_RETRY_MAX_S = 2.0

_log = structlog.get_logger("publisher")


class Publisher:
    """Publishes one cluster's endpoints; without quorum it waits, and nothing of the cluster's own stops."""

    def __init__(
        self, registry: ClusterRegistry, *, holder: str, catalog: Catalog, proposer: Proposer
    ) -> None:
        self._registry = registry
        self._holder = holder
        self._catalog = catalog
        self._proposer = proposer
        self._fence: int | None = None

    async def run(self) -> None:
        """Publish until cancelled."""
        pause = _RETRY_MIN_S
        while True:
            await self._registry.dirty.wait()
            self._registry.dirty.clear()
            try:
                await self._publish()
                pause = _RETRY_MIN_S
            except IsthmusError as error:
                _log.warning("publish_failed", cluster=self._registry.cluster, error=error.message)
                self._fence = None  # It may be ours no longer.
                self._registry.dirty.set()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, _RETRY_MAX_S)

    async def _publish(self) -> None:
        registry = self._registry
        while True:
            version = registry.version
            batch = registry.difference()
            for key, reason in batch.refused:
                _log.warning("endpoint_not_published", endpoint=str(key), reason=reason)
            if not batch.put and not batch.remove:
                registry.published(version, self._catalog.revision)
                return
            fence = self._fence if self._fence is not None else await self._acquire()
            await self._proposer.propose(
                PublishEndpoints(cluster=registry.cluster, fence=fence, put=batch.put, remove=batch.remove)
            )

    async def _acquire(self) -> int:
        name = publish_lease(self._registry.cluster)
        outcome = await self._proposer.propose(
            AcquireLease(name=name, holder=self._holder, ttl_ms=LEASE_TTL_MS)
        )
        if outcome.lease is None:
            raise PreconditionError(f"lease {name}: the log gave no answer to its acquisition")
        if not outcome.lease.granted:
            raise UnavailableError(f"lease {name} is held by {outcome.lease.holder}")
        self._fence = outcome.lease.fence
        return self._fence

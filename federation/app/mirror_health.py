"""What a mirror says of itself: to members that ask for an operator, and to whoever reads its metrics."""

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from certs.runtime.clock import utc_now
from federation.api.mirrors import MirrorHealth
from federation.app.metrics import agent_gauges

if TYPE_CHECKING:
    from federation.app.mirror import Mirror


def own_health(mirror: "Mirror") -> MirrorHealth:
    """Return how a mirror is now."""
    status = mirror.follower.status
    disk = shutil.disk_usage(Path(mirror.config.data_dir))
    return MirrorHealth(
        controller=mirror.name,
        version=version("isthmus"),
        unix_ms=int(utc_now().timestamp() * 1000),
        started_unix_ms=mirror.started_unix_ms,
        member=status.source,
        error="" if status.source else status.last_error,
        revision=status.revision,
        age_ms=status.age_ms,
        missing=tuple(mirror.missing),
        leaf_expires_ms=int(mirror.leaf.not_after.timestamp() * 1000),
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        followers=mirror.feed.subscribers,
        proxies=len(mirror.xds.status()),
    )


class MirrorCollector(Collector):
    """A mirror's figures, taken when somebody asks."""

    def __init__(self, mirror: "Mirror") -> None:
        self._mirror = mirror

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        mirror = self._mirror
        status = mirror.follower.status
        for name, text, value in (
            ("isthmus_replication_revision", "Catalog revision of the copy", status.revision),
            (
                "isthmus_replication_newest_revision",
                "Newest catalog revision that a controller named",
                status.newest_revision,
            ),
            ("isthmus_replication_connected", "1 while a controller is followed", int(bool(status.source))),
            (
                "isthmus_replication_followers",
                "Processes that follow the catalog here",
                mirror.feed.subscribers,
            ),
            ("isthmus_xds_proxies", "Proxies that are connected here", len(mirror.xds.status())),
            (
                "isthmus_identity_expiry_timestamp_seconds",
                "When the certificate of this process expires",
                mirror.leaf.not_after.timestamp(),
            ),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        if status.age_ms is not None:
            yield GaugeMetricFamily(
                "isthmus_replication_age_seconds",
                "Time since the copy was last known to be up to date",
                value=status.age_ms / 1_000,
            )
        yield agent_gauges(mirror.served.registries)

"""`isthmus dns`: answers DNS for its cluster from its own copy of the catalog.

    controllers --> Follower --> FollowedView --> CompiledZone --> DnsServer
                       |
                   disk copy, from which the process starts while no controller can be reached (F1)

It answers SERVFAIL only as long as it has never had a copy. Whom it may follow, and whom it believes,
it learns from the catalog itself; the directory of its enrollment is only the beginning.
"""

import asyncio
import ipaddress
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from certs.core import spiffe
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import ResourceKey
from discovery.runtime.dns_server import DnsServer
from discovery.runtime.dns_sockets import DnsCounters
from federation.agent.control import open_channel
from federation.agent.directory import preferred_controllers
from federation.agent.identity import IdentityKeeper, signer
from federation.api.directory import DIRECTORY_KINDS
from federation.app.config import DnsConfig
from federation.app.enrolled import Enrolled, enrolled
from federation.app.learning import learn_directory
from federation.app.process import run_until_signal
from federation.app.telemetry import Facts, MetricsEndpoint, set_up_logging
from federation.kernel.configfile import host_port
from federation.kernel.errors import InvalidInputError
from federation.replication.followed_view import FollowedView
from federation.replication.follower import Follower
from federation.replication.source import GrpcSource, Source
from federation.replication.state import FollowerState, Update

# RFC 1035 section 4.1.1, RFC 2136 section 2.2, RFC 6891 section 9.
RCODE_NAMES = {
    0: "NOERROR",
    1: "FORMERR",
    2: "SERVFAIL",
    3: "NXDOMAIN",
    4: "NOTIMP",
    5: "REFUSED",
}

_log = structlog.get_logger("dns")


async def run_dns(config: DnsConfig, token: str | None) -> None:
    """Run a DNS process until SIGTERM or SIGINT; it enrolls first, with `token`, if it never did.

    Raises an `IsthmusError` for what makes running impossible: no identity and no token, a port that is
    taken, a data directory in use.
    """
    set_up_logging(config.log)
    await run_until_signal(_run(config, token))


async def _run(config: DnsConfig, token: str | None) -> None:
    async with enrolled(Path(config.data_dir), token=token, purpose="dns", id_=config.id) as parts:
        await DnsProcess(config, parts).run()


class DnsProcess:
    """The parts of a DNS process, wired; `run` ends by cancellation or the first error."""

    def __init__(self, config: DnsConfig, parts: Enrolled) -> None:
        enrollment, directory, leaf, copy = parts
        self._cluster = enrollment.cluster
        self._directory = directory
        self._leaf = leaf
        self.follower = Follower(
            FollowerState(enrollment.cluster, history=enrollment.federation),
            sources=self._sources,
            on_change=self._changed,
            copy=copy,
        )
        self._view = FollowedView(self.follower.state)
        listen = [host_port(address, "listen") for address in config.listen]
        # Seconds since 1970 grow from one start to the next, as a zone's serial has to.
        self._zone = CompiledZone(addresses=_own_addresses(listen), serial=int(time.time()))
        self.server = DnsServer(listen, lambda: self._zone if self.follower.ready.is_set() else None)
        self.keeper = IdentityKeeper(
            leaf,
            spiffe.parse(enrollment.identity),
            cluster=enrollment.cluster,
            directory=directory,
            sign=signer(directory, enrollment.cluster, leaf),
        )
        registry = CollectorRegistry()
        registry.register(DnsCollector(self))
        self._metrics = MetricsEndpoint(config.metrics, registry, self.readiness) if config.metrics else None

    async def run(self) -> None:
        """Follow, answer, renew."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.server.run(), name="dns/server")
            tasks.create_task(self.follower.run(), name="dns/follower")
            tasks.create_task(self.keeper.run(), name="dns/identity")
            if self._metrics is not None:
                tasks.create_task(self._metrics.run(), name="dns/metrics")

    def readiness(self) -> tuple[bool, Facts]:
        """Return whether questions are answered, and from how old a copy."""
        status = self.follower.status
        missing = [
            reason
            for reason, true in (
                ("no copy of the catalog yet", not status.complete),
                ("not listening yet", not self.server.ready.is_set()),
            )
            if true
        ]
        return not missing, {
            "missing": missing,
            "controller": status.source,
            "revision": status.revision,
            "ageMs": status.age_ms,
            "error": status.last_error if not status.source else "",
        }

    def _sources(self) -> Sequence[Source]:
        return [
            GrpcSource(one.name, partial(open_channel, one, self._leaf, self._directory))
            for one in preferred_controllers(self._directory.current, self._cluster)
        ]

    def _changed(self, update: Update) -> None:
        services = self._view.take(update)
        self._zone.update(self._view.view, services)
        if any(
            change.table == "resources" and ResourceKey.decode(change.key).kind in DIRECTORY_KINDS
            for change in update.changes
        ):
            learn_directory(self._directory, self._view.tables)


class DnsCollector(Collector):
    """The process's figures, taken when somebody asks."""

    def __init__(self, process: DnsProcess) -> None:
        self._process = process

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from _dns_metrics(self._process.server.counters())
        status = self._process.follower.status
        yield _gauge("isthmus_replication_revision", "Catalog revision of the copy", status.revision)
        yield _gauge(
            "isthmus_replication_newest_revision",
            "Newest catalog revision that a controller named",
            status.newest_revision,
        )
        yield _gauge(
            "isthmus_replication_connected", "1 while a controller is followed", int(bool(status.source))
        )
        if status.age_ms is not None:
            yield _gauge(
                "isthmus_replication_age_seconds",
                "Time since the copy was last known to be up to date",
                status.age_ms / 1_000,
            )
        yield _gauge(
            "isthmus_identity_expiry_timestamp_seconds",
            "When the certificate of this process expires",
            self._process.keeper.leaf.not_after.timestamp(),
        )


def _dns_metrics(counters: DnsCounters) -> Iterator[Metric]:
    replies = CounterMetricFamily("isthmus_dns_replies", "Replies sent", labels=("transport", "rcode"))
    for transport, by_rcode in (("udp", counters.udp_replies), ("tcp", counters.tcp_replies)):
        for rcode, count in enumerate(by_rcode):
            if count or rcode in RCODE_NAMES:
                replies.add_metric((transport, RCODE_NAMES.get(rcode, str(rcode))), count)
    yield replies
    yield CounterMetricFamily("isthmus_dns_dropped", "Packets without a reply", value=counters.dropped)
    yield CounterMetricFamily(
        "isthmus_dns_tcp_connections", "TCP connections accepted", value=counters.tcp_connections_accepted
    )
    yield CounterMetricFamily(
        "isthmus_dns_tcp_evictions",
        "TCP connections closed to make room for newer ones",
        value=counters.tcp_connections_evicted,
    )
    yield _gauge("isthmus_dns_tcp_connections_open", "TCP connections open", counters.tcp_connections_open)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _own_addresses(listen: Iterable[tuple[str, int]]) -> list[str]:
    """Return the addresses that others can ask us by: not the wildcards."""
    hosts = dict.fromkeys(host for host, _ in listen)
    try:
        return [host for host in hosts if not ipaddress.ip_address(host).is_unspecified]
    except ValueError as error:
        raise InvalidInputError(f"listen: {error}: expected IP addresses") from error

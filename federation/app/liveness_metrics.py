"""What the federation holds of each cluster, and what this controller sees of the others, as figures."""

from collections.abc import Iterator
from typing import get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from discovery.core.catalog import Catalog
from discovery.core.opinion import Sight
from discovery.core.specs import ClusterState
from discovery.core.verdicts import read_verdicts
from federation.api.directory import resources
from federation.api.lifecycle import drains
from federation.app.external_checker import ExternalChecker
from federation.app.observer import Observer

CHECKED: tuple[Sight, ...] = ("heard", "lost", "unknown")
STATES: tuple[ClusterState, ...] = get_args(ClusterState)


class LivenessCollector(Collector):
    """Reads the catalog, the observer and the checker; nothing is counted here."""

    def __init__(self, catalog: Catalog, observer: Observer, checker: ExternalChecker) -> None:
        self._checker = checker
        self._catalog = catalog
        self._observer = observer

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        tables = self._catalog.tables
        verdicts = read_verdicts(tables)
        state = GaugeMetricFamily(
            "isthmus_cluster_state", "1 for the state that a cluster is in", labels=("cluster", "state")
        )
        flips = CounterMetricFamily(
            "isthmus_cluster_state_changes", "Changes of a cluster's state", labels=("cluster",)
        )
        for row, _ in resources(tables, "Cluster"):
            verdict = verdicts.get(row.key.name)
            held = "ok" if verdict is None else verdict.spec.state
            for each in STATES:
                state.add_metric((row.key.name, each), int(held == each))
            flips.add_metric((row.key.name,), 0 if verdict is None else verdict.status.flips)
        yield state
        yield flips
        yield from self._shares()
        yield from self._seen()
        yield self._checked()

    def _checked(self) -> Metric:
        opinions = [one for mind in self._checker.opinions.values() for one in mind.values()]
        addresses = GaugeMetricFamily(
            "isthmus_external_addresses", "Addresses of external services, as seen here", labels=("state",)
        )
        for sight in CHECKED:
            addresses.add_metric((sight,), sum(one.sight == sight for one in opinions))
        return addresses

    def _shares(self) -> Iterator[Metric]:
        tables = self._catalog.tables
        handed_over = drains(tables)
        share = GaugeMetricFamily(
            "isthmus_cluster_share_percent",
            "How much a cluster gets of the traffic that it would have",
            labels=("cluster",),
        )
        given_up = GaugeMetricFamily(
            "isthmus_cluster_drain_rolled_back",
            "1 while the last drain of a cluster was given up",
            labels=("cluster",),
        )
        for row, _ in resources(tables, "Cluster"):
            drain = handed_over.get(row.key.name)
            share.add_metric((row.key.name,), 100 if drain is None else drain.share_percent)
            given_up.add_metric((row.key.name,), int(drain is not None and bool(drain.rolled_back)))
        yield share
        yield given_up

    def _seen(self) -> Iterator[Metric]:
        missed = GaugeMetricFamily(
            "isthmus_observer_missed",
            "1 for a plane of a cluster that this one misses",
            labels=("cluster", "plane"),
        )
        for cluster, mind in sorted(self._observer.minds.items()):
            for plane, opinion in (("control", mind.control), ("data", mind.data)):
                missed.add_metric((cluster, plane), int(opinion.sight == "lost"))
        yield missed
        told = GaugeMetricFamily(
            "isthmus_observer_gateways",
            "Gateways of this cluster that have a say on the data path to another",
            labels=("cluster",),
        )
        for cluster in sorted(self._observer.minds):
            told.add_metric((cluster,), len(self._observer.told_of(cluster)))
        yield told
        suspended = GaugeMetricFamily(
            "isthmus_observer_suspended",
            "1 while so many are missed in a plane that the fault must be this cluster's own",
            labels=("plane",),
        )
        for plane, is_suspended in zip(("control", "data"), self._observer.suspended, strict=True):
            suspended.add_metric((plane,), int(is_suspended))
        yield suspended

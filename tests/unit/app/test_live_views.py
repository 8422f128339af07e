"""Which clusters' proxies a controller configures: those that are joined now, not all that ever were."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from discovery.core.commands import RemoveCluster, SweepRemoved
from federation.app.live_views import LiveViews
from federation.app.traces import Tracer
from federation.replication.feed import Feed
from gateways.core.wire import CLUSTER
from gateways.runtime.compiled import CompiledSource
from gateways.runtime.xds_client import node_of
from gateways.runtime.xds_service import XdsService
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import Log, founded, put_cluster
from tests.unit.gateways.builders import sidecar

WAIT_S = 30.0


class Aborted(Exception):  # noqa: N818 - what gRPC does, not an error of ours
    """The service refused the call."""


class Call:
    """One proxy's stream, as the service sees it."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.status: tuple[grpc.StatusCode, str] | None = None

    async def requests(self) -> AsyncIterator[Any]:
        yield DeltaDiscoveryRequest(node=node_of(sidecar(self.cluster)), type_url=CLUSTER)
        await asyncio.Event().wait()

    async def write(self, _message: object) -> None:
        """The proxy takes everything."""

    async def abort(self, status: grpc.StatusCode, text: str) -> None:
        self.status = status, text
        raise Aborted

    def peer(self) -> str:
        return "test"


class Served:
    """The xDS part of a controller of alpha."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.feed = Feed(log.catalog, unix_ms=lambda: 0)
        self.source = CompiledSource()
        self.views = LiveViews(self.feed, self.source, Tracer(clock=lambda: 0.0, unix_ms=lambda: 0))
        self.xds = XdsService(self.source, peer_of=_peer)
        log.catalog.on_change(self.feed.changed)
        self.learn()

    def learn(self) -> None:
        """Do what a controller does when the catalog's clusters changed."""
        self.views.want(row.key.name for row in self.log.catalog.tables.list_resources("", "Cluster"))

    async def has(self, *clusters: str) -> None:
        await eventually_async(
            lambda: {name for name in ("alpha", "beta", "delta") if self.views.served(name)} == set(clusters),
            timeout_s=WAIT_S,
            message=f"views of {clusters}",
        )

    async def connect(self, call: Call) -> None:
        with pytest.raises(Aborted):
            await self.xds._delta(call.requests(), call)  # type: ignore[arg-type]  # what it needs of a context


def _peer(call: object) -> str:
    assert isinstance(call, Call)
    return f"spiffe://alpha.test/isthmus/{call.cluster}/agent/a1"


async def test_the_proxies_of_a_removed_cluster_are_sent_away_and_its_view_ends() -> None:
    served = Served(founded())
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(served.views.run())]
        await served.has("alpha", "beta", "delta")
        ours, theirs, late = Call("alpha"), Call("delta"), Call("delta")
        running.append(tasks.create_task(served.connect(ours)))
        tasks.create_task(served.connect(theirs))
        await eventually_async(lambda: len(served.xds.status()) == 2, timeout_s=WAIT_S)
        followed = served.feed.subscribers

        assert (
            served.log.send("alpha", RemoveCluster(cluster="delta", removed_by="admin", forced=True)).code
            == 0
        )
        served.learn()
        await served.has("alpha", "beta")
        await eventually_async(lambda: theirs.status is not None, timeout_s=WAIT_S)
        assert theirs.status == (
            grpc.StatusCode.UNAVAILABLE,
            "cluster delta has left: no configuration is made for it",
        )
        assert [one.cluster for one in served.xds.status()] == ["alpha"]
        assert served.feed.subscribers == followed - 1

        await served.connect(late)
        assert late.status is not None
        assert late.status[0] is grpc.StatusCode.UNAVAILABLE
        for task in running:
            task.cancel()


async def test_a_cluster_that_joins_under_the_name_of_a_removed_one_is_served() -> None:
    served = Served(founded())
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(served.views.run())
        await served.has("alpha", "beta", "delta")
        assert (
            served.log.send("alpha", RemoveCluster(cluster="delta", removed_by="admin", forced=True)).code
            == 0
        )
        served.learn()
        await served.has("alpha", "beta")
        assert served.log.send("alpha", SweepRemoved(cluster="delta", rows_max=100)).code == 0
        served.log.accept("alpha", put_cluster("delta", role="remote", home="alpha", epoch=2))
        served.learn()
        await served.has("alpha", "beta", "delta")
        running.cancel()

"""A controller's replication service, served for real, for tests of what follows it."""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import grpc

from certs.core.bundle import TrustBundle
from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.grpc_security import VerifyingInterceptor, client_channel, server_credentials
from certs.runtime.identity import LeafIdentity
from federation.app.traces import Tracer
from federation.replication.feed import Feed
from federation.replication.messages import FollowAnswer, FollowRequest
from federation.replication.service import ReplicationService
from federation.replication.source import GrpcSource
from tests.support.pki import TestDomain, bundles_of
from tests.unit.replication.catalog import SourceCatalog, cluster, endpoint, token

HOST = "127.107.1.1"


class World:
    """Two trust domains, one catalog at revision 2, and whom nobody federated with."""

    def __init__(self, directory: Path) -> None:
        self.alpha = TestDomain("alpha.example", directory)
        self.beta = TestDomain("beta.example", directory)
        self.mallory = TestDomain("mallory.example", directory)
        self.bundles = bundles_of(self.alpha, self.beta)
        self.catalog = SourceCatalog()
        self.catalog.commit(
            [
                cluster("alpha"),
                cluster("beta"),
                cluster("delta", home="alpha"),
                token("secret"),
                endpoint("a"),
            ]
        )

    def domain(self, name: str) -> TestDomain:
        return self.beta if name == "beta" else self.alpha


class Recorded(Feed):
    """A feed that also keeps what it sent."""

    def __init__(self, feed: Feed, sent: list[FollowAnswer]) -> None:
        self._feed, self._sent = feed, sent

    async def subscribe(
        self, cluster: str, request: FollowRequest, *, name: str = ""
    ) -> AsyncGenerator[FollowAnswer]:
        async with contextlib.aclosing(self._feed.subscribe(cluster, request, name=name)) as answers:
            async for answer in answers:
                self._sent.append(answer)
                yield answer


class Controller:
    """One controller of the world's catalog; `sent` is all that it answered."""

    def __init__(self, world: World, of_cluster: str, id_: str = "c1") -> None:
        self.world = world
        self.domain = world.domain(of_cluster)
        self.identity = self.domain.controller(of_cluster, id_)
        self.address = f"{HOST}:0"
        self.feed = Feed(world.catalog, unix_ms=lambda: 0)
        world.catalog.listeners.append(self.feed.changed)
        self.tracer = Tracer(clock=time.monotonic, unix_ms=lambda: 0)
        world.catalog.listeners.append(self.tracer.committed)
        self.sent: list[FollowAnswer] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Controller"]:
        verifier = Verifier(lambda: self.world.bundles, clock=utc_now)
        server = grpc.aio.server(interceptors=[VerifyingInterceptor(verifier)])
        service = ReplicationService(
            Recorded(self.feed, self.sent), tables=lambda: self.world.catalog.tables, tracer=self.tracer
        )
        server.add_generic_rpc_handlers([service.handler()])
        credentials = server_credentials(self.identity, lambda: self.world.bundles)
        # A second start takes the port of the first one.
        self.address = f"{HOST}:{server.add_secure_port(self.address, credentials)}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)

    def source(self, identity: LeafIdentity, bundle: TrustBundle | None = None) -> GrpcSource:
        return GrpcSource(
            self.identity.spiffe_id.path,
            lambda: client_channel(
                self.address,
                identity,
                bundle or self.domain.bundle,
                server=self.identity.spiffe_id,
                options=(("grpc.use_local_subchannel_pool", 1),),
            ),
        )

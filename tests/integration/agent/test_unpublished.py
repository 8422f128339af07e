"""An agent is told what of its endpoints may not be published: agent, Control service, registry and publisher, wired."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import msgspec

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.grpc_security import VerifyingInterceptor, server_credentials
from discovery.core.model import Change, Endpoint
from federation.agent.directory import DirectoryStore
from federation.agent.registration import Registrar
from federation.agent.status import endpoints_of
from federation.api.admission import agent_key
from federation.api.audit import AuditTrail
from federation.api.control import ControlService
from federation.api.messages import Directory, TrafficReport, WatchedDrain
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.app.publisher import Publisher
from tests.integration.agent.fake_controller import FakeController, directory_of
from tests.support.loopback import LoopbackBlock
from tests.support.pki import TestDomain
from tests.support.wait import eventually_async
from tests.unit.api.logs import CatalogLog
from tests.unit.discovery.builders import endpoint, founded, put, put_cluster

WAIT_S = 60.0
IDENTITY = "spiffe://alpha.test/ns/shop/sa/orders"


class World:
    """The log of one controller of alpha, and what it serves agents."""

    def __init__(self) -> None:
        self.log = founded()
        self.log.accept(
            "alpha",
            put(
                agent_key("alpha", "agent", "a1"),
                {"role": "agent", "namespace": "shop", "serviceAccount": "orders"},
            ),
        )
        self.registry = ClusterRegistry(
            "alpha", catalog=self.log.catalog, lease_ms=15_000, clock=lambda: 0.0, changed=lambda *_: None
        )
        self.log.catalog.on_change(self._changed)
        self.publisher = Publisher(
            self.registry,
            holder="alpha-c1",
            catalog=self.log.catalog,
            proposer=Proposer(CatalogLog(self.log), cluster="alpha"),
        )

    def _changed(self, _revision: int, changes: tuple[Change, ...]) -> None:
        mine = tuple(change for change in changes if change.table == "endpoints")
        if mine:
            self.registry.absorb(mine)
        else:
            self.registry.rules_changed()
            self.registry.judge()

    def ranges(self, *found: str) -> None:
        """An operator changes the addresses that alpha's endpoints may have."""
        self.log.accept("alpha", put_cluster("alpha", ranges=list(found)))

    def service(self) -> ControlService:
        async def no_directories() -> AsyncIterator[Directory]:
            await asyncio.Event().wait()
            yield  # type: ignore[misc] # never reached: the agent has its directory

        return ControlService(
            name="alpha-c1",
            catalog=self.log.catalog,
            signer=None,  # type: ignore[arg-type] # nobody renews here
            registry={"alpha": self.registry}.get,
            directories=no_directories,
            health=None,  # type: ignore[arg-type] # nobody asks here
            trace=None,  # type: ignore[arg-type] # nobody asks here
            audit=AuditTrail(),
            drains=NothingIsDrained(),
        )


class NothingIsDrained:
    async def watched(self) -> AsyncIterator[tuple[WatchedDrain, ...]]:
        yield ()

    def take(self, cluster: str, report: TrafficReport) -> None:
        raise AssertionError(f"{cluster} reports {report}, and nobody asked")


@asynccontextmanager
async def serving(world: World, named: FakeController) -> AsyncIterator[None]:
    """Serve Control where the directory says that `named` does."""
    verifier = Verifier(named.bundles, clock=utc_now)
    server = grpc.aio.server(
        interceptors=[VerifyingInterceptor(verifier)], options=[("grpc.so_reuseport", 0)]
    )
    server.add_generic_rpc_handlers((world.service().handler(),))
    assert server.add_secure_port(named.named.spec.control, server_credentials(named.identity, named.bundles))
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


def row(name: str, address: str) -> Endpoint:
    found = endpoint("alpha", name, agent="a1", address=address, identity=IDENTITY, ready=False)
    return msgspec.structs.replace(found, incarnation=0, sequence=0)


async def test_what_the_ranges_of_now_do_not_allow_stays_local_says_why_and_goes_on_when_they_do(
    tmp_path, store_of: Callable[[Directory], DirectoryStore], loopback: Callable[[], LoopbackBlock]
) -> None:
    domain, world = TestDomain("alpha.test", tmp_path / "pki2"), World()
    inside, outside = row("inside", "10.1.0.1"), row("outside", "10.2.0.1")
    named = FakeController(domain, "alpha", loopback().host(1))
    agent = Registrar(
        [inside, outside],
        incarnation=1000,
        cluster="alpha",
        identity=domain.agent("alpha", "a1"),
        directory=store_of(directory_of(named)),
    )

    def levels() -> tuple[str, str]:
        return agent.level(inside.key), agent.level(outside.key)

    async def reach(*expected: str) -> None:
        await eventually_async(
            lambda: levels() == expected, timeout_s=WAIT_S, message=lambda: f"{levels()} is {expected}"
        )

    async with serving(world, named), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(agent.run())]
        agent.set_ready({inside.key: True, outside.key: True})
        await reach("local", "local")
        # Between the agent's word and the log, the rules change.
        world.ranges("10.1.0.0/16")
        running.append(tasks.create_task(world.publisher.run()))
        await reach("global", "local")
        told = {one.endpoint: one.refusals for one in endpoints_of(agent, {})}
        assert told["shop/orders/inside"] == ()
        (why,) = told["shop/orders/outside"]
        assert why.startswith("alpha-c1: not global: ")
        assert "10.2.0.1 is outside the cluster's ranges" in why
        assert len(world.registry.unpublished) == 1
        # The agent says nothing new, and hears of it all the same.
        world.ranges("10.1.0.0/16", "10.2.0.0/16")
        await reach("global", "global")
        assert [one.refusals for one in endpoints_of(agent, {})] == [(), ()]
        assert len(world.registry.unpublished) == 0
        # Nor does it when what the log has already is outside.
        world.ranges("10.2.0.0/16")
        await reach("local", "global")
        told = {one.endpoint: one.refusals for one in endpoints_of(agent, {})}
        (why,) = told["shop/orders/inside"]
        assert why.startswith("alpha-c1: not global: callers are not sent there: ")
        assert "10.1.0.1 is outside the cluster's ranges 10.2.0.0/16" in why
        world.ranges()
        await reach("global", "global")
        assert [one.refusals for one in endpoints_of(agent, {})] == [(), ()]
        for task in running:
            task.cancel()

"""A remote cluster's processes while it moves: whom they know, and how each changes what it shows, at its own time."""

import asyncio
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING

from msgspec.structs import replace

from certs.core.spiffe import SpiffeId
from discovery.core.catalog import Catalog
from discovery.core.ownership import cluster_key
from discovery.core.tables import Tables
from federation.agent.directory import signing_controllers
from federation.api.admission import Signer
from federation.api.messages import Directory
from federation.kernel.errors import IsthmusError, NotAllowedError, UnavailableError
from tests.simulation.federation.agents import FixedDirectory, SimAgent

if TYPE_CHECKING:
    from tests.simulation.federation.controllers import SimController

REMOTE = "epsilon"
TRY_AGAIN_S = 0.5


class MovingDirectory(FixedDirectory):
    """What one process knows of the controllers and, newer with each step of a move, of where the remote cluster is."""

    def __init__(self, directory: Directory) -> None:
        super().__init__(directory)
        self._changed = asyncio.Event()

    async def newer_than(self, revision: int) -> Directory:
        """Wait for a newer one."""
        while self.current.revision <= revision:
            await self._changed.wait()
        return self.current

    def offer(self, directory: Directory) -> bool:
        """Take it if it is newer."""
        if directory.revision <= self.current.revision:
            return False
        self.current = directory
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    def learn(self, tables: Tables) -> None:
        """Take what the catalog says of the remote cluster; the controllers stay as they are."""
        row, spec = tables.resource(cluster_key(REMOTE)), tables.cluster(REMOTE)
        if row is None or spec is None:
            return
        self.offer(
            replace(
                self.current,
                revision=row.revision,
                homes={REMOTE: spec.home},
                next_homes=dict([(REMOTE, spec.homes[1])] if len(spec.homes) > 1 else []),
                trust_domains={REMOTE: spec.shown_trust_domain},
            )
        )


def check_signs(catalog: Catalog, trust_domain: str, caller: SpiffeId) -> None:
    """Raise what a controller answers to who wants his identity in its trust domain."""
    spec = catalog.tables.cluster(REMOTE)
    if caller.trust_domain == trust_domain:
        if spec is None or trust_domain not in spec.trust_domains:
            raise NotAllowedError(f"{REMOTE} has left {trust_domain}")
        return
    authority = SimpleNamespace(trust_domain=trust_domain)
    signer = Signer(catalog=catalog, authority=authority, now_ms=lambda: catalog.now_ms)  # type: ignore[arg-type]
    signer._after_move(caller, spec)


class Keeper:
    """Changes the two identities of one agent, its own and its workload's, as `federation.agent.identity` does."""

    def __init__(self, agent: SimAgent, controllers: dict[str, "SimController"], rng: random.Random) -> None:
        self._agent = agent
        self._controllers = controllers
        self._rng = rng

    async def run(self) -> None:
        """Change both, each when it gets to it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep(is_own=True), name="own-identity")
            tasks.create_task(self._keep(is_own=False), name="workload-identity")

    async def _keep(self, *, is_own: bool) -> None:
        agent, directory = self._agent, self._agent.directory
        while True:
            known = directory.current
            shown = agent.identity.trust_domain if is_own else agent.shown
            wanted = known.trust_domains.get(agent.cluster, shown)
            if wanted == shown:
                await directory.newer_than(known.revision)
                continue
            await asyncio.sleep(self._rng.expovariate(1 / TRY_AGAIN_S))
            for controller in signing_controllers(known, agent.cluster, wanted):
                try:
                    await self._ask(controller.name, wanted)
                except IsthmusError:
                    continue
                agent.show(wanted, is_own=is_own)
                break

    async def _ask(self, name: str, wanted: str) -> None:
        agent, net = self._agent, self._agent.process.net
        stream = await net.dial(agent.process, name)
        net.hang_up(stream)
        controller = self._controllers[name]
        check_signs(controller.catalog, wanted, agent.identity)
        await asyncio.sleep(net.delay_s(controller.process, agent.process))
        if not net.both_ways(agent.process, controller.process):
            raise UnavailableError(f"{name} does not answer")

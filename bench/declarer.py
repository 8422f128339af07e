"""An agent without workloads of its own, which declares endpoints when it is told to.

It enrolls by a join token and speaks Control/Register to the controller of its cluster, as any agent does;
a probe or a poll would only blur the moment at which a declaration is sent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from certs.runtime.identity import LeafIdentity
from chaos.lab import topology
from chaos.lab.federation import Lab
from chaos.lab.processes import LabError
from discovery.core.model import Endpoint, EndpointKey, EndpointPort
from federation.agent.config import INBOUND_PORT_FIRST
from federation.agent.control import RegisterCall, open_channel, receive, register, send
from federation.agent.directory import DirectoryStore, own_controllers
from federation.agent.enrollment import IDENTITY_FOLDER, Enrollment, ensure_enrolled
from federation.api.messages import AgentHeartbeat, AgentHello, Declare, DeclareAck, DeclareRefused, Welcome

NAME = "bench"
GLOBAL_TIMEOUT_S = 30.0


class Declarer:
    """One registration stream; see `declaring`."""

    def __init__(self, call: RegisterCall, enrollment: Enrollment, incarnation: int, address: str) -> None:
        self._call = call
        self._enrollment = enrollment
        self._incarnation = incarnation
        self._address = address
        self._sequence = 0
        self._number = 0
        self._global_number = 0
        self._progress = asyncio.Event()
        self._writing = asyncio.Lock()  # gRPC takes one write at a time.

    def endpoint(self, service: str, *, ready: bool) -> Endpoint:
        """Return the row of a new state of `service`: its proxy is that of the cluster's first agent."""
        self._sequence += 1
        port = EndpointPort(name="http", service_port=topology.SERVICE_PORT, listen_port=INBOUND_PORT_FIRST)
        return Endpoint(
            key=self.key(service),
            address=self._address,
            ports=(port,),
            identity=self._enrollment.workload_identity,
            ready=ready,
            region=self._enrollment.cluster_spec.region,
            agent=NAME,
            incarnation=self._incarnation,
            sequence=self._sequence,
        )

    def key(self, service: str) -> EndpointKey:
        """Return the key of our one endpoint of `service`."""
        return EndpointKey(topology.NAMESPACE, service, self._enrollment.cluster, f"{service}-{NAME}")

    async def put(self, *endpoints: Endpoint) -> int:
        """Declare rows; returns the message's number as soon as gRPC has taken it."""
        return await self._declare(put=endpoints)

    async def remove(self, *services: str) -> int:
        """Withdraw the endpoints of services."""
        self._sequence += 1
        return await self._declare(
            remove=[(self.key(service), self._incarnation, self._sequence) for service in services]
        )

    async def held(self, number: int) -> None:
        """Wait until the log's quorum holds everything up to message `number`; raises LabError."""
        try:
            async with asyncio.timeout(GLOBAL_TIMEOUT_S):
                while self._global_number < number:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError as error:
            raise LabError(f"declaration {number} is not global after {GLOBAL_TIMEOUT_S:g} s") from error

    async def hear(self) -> None:
        """Take acknowledgements until cancelled; a refusal ends the measurement."""
        while True:
            match await receive(self._call):
                case DeclareAck(number=number, level="global"):
                    self._global_number = max(self._global_number, number)
                    self._progress.set()
                case DeclareRefused(key=key, message=message):
                    raise LabError(f"endpoint {key} was refused: {message}")

    async def beat(self, pause_s: float) -> None:
        """Keep the lease until cancelled."""
        while True:
            await asyncio.sleep(pause_s)
            async with self._writing:
                await send(self._call, AgentHeartbeat())

    async def begin(self) -> None:
        """Say that nothing else is declared: rows of an earlier stream end."""
        await self.held(await self._declare(complete=True))

    async def _declare(
        self,
        *,
        put: Sequence[Endpoint] = (),
        remove: Sequence[tuple[EndpointKey, int, int]] = (),
        complete: bool = False,
    ) -> int:
        async with self._writing:
            self._number += 1
            message = Declare(number=self._number, put=tuple(put), remove=tuple(remove), complete=complete)
            await send(self._call, message)
            return self._number


@asynccontextmanager
async def declaring(lab: Lab, cluster: str) -> AsyncIterator[Declarer]:
    """Yield a declarer of `cluster`, enrolled at its controller and with an open stream to it."""
    plan = lab.clusters[cluster]
    data_dir = lab.data_dir(cluster, NAME)
    enrollment = await _enrolled(lab, cluster, data_dir)
    identity = LeafIdentity.load(data_dir / IDENTITY_FOLDER)
    directory = DirectoryStore.open(data_dir)
    controller = own_controllers(directory.current, cluster)[0]
    incarnation = time.time_ns() // 1_000_000
    async with open_channel(controller, identity, directory) as channel:
        call = register(channel)
        await send(call, AgentHello(incarnation=incarnation))
        welcome = await receive(call)
        if not isinstance(welcome, Welcome):
            raise LabError(f"expected a welcome, the controller sent {type(welcome).__name__}")
        declarer = Declarer(call, enrollment, incarnation, plan.agents[0].address)
        async with asyncio.TaskGroup() as tasks:
            running = (
                tasks.create_task(declarer.hear(), name="declarer/hear"),
                tasks.create_task(declarer.beat(welcome.lease_ms / 3000), name="declarer/beat"),
            )
            await declarer.begin()
            yield declarer
            for task in running:
                task.cancel()


async def _enrolled(lab: Lab, cluster: str, data_dir: Path) -> Enrollment:
    data_dir.mkdir(parents=True, exist_ok=True)
    token = None
    if not (data_dir / IDENTITY_FOLDER).exists():
        token = await asyncio.to_thread(lab.create_token, lab.clusters[cluster], cluster, "agent")
    return await ensure_enrolled(token, "agent", NAME, data_dir)

"""A process that stands in for a gateway or an agent with one workload: it registers, and gateways answer health.

    python -m tests.integration.liveness.stand_in PURPOSE ID ADDRESS DATA_DIR TOKEN

No Envoy runs: what is observed of a cluster is whether its gateways answer, not what they pass on. They look at the
gateways of other clusters as real ones do.
"""

import asyncio
import sys
import time
from pathlib import Path

from certs.runtime.identity import LeafIdentity
from certs.runtime.tls import server_context
from discovery.core.model import GATEWAY_SERVICE, SYSTEM_NAMESPACE, Endpoint, EndpointKey, EndpointPort
from federation.agent.control import RegisterCall, open_channel, receive, register, send
from federation.agent.directory import DirectoryStore, own_controllers
from federation.agent.enrollment import IDENTITY_FOLDER, Enrollment, ensure_enrolled
from federation.agent.gateway_watch import GatewayWatch, sightings
from federation.api.messages import AgentHeartbeat, AgentHello, Declare, NamedController, ProbeTargets
from federation.kernel.errors import IsthmusError
from gateways.runtime.together import run_together

GATEWAY_PORT = 15_443
HEARTBEAT_S = 0.5
RETRY_S = 0.2
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def endpoint_of(enrollment: Enrollment, name: str, address: str) -> Endpoint:
    """What is registered: a gateway, or an instance of `orders` in namespace `shop`."""
    cluster = enrollment.cluster
    if enrollment.purpose == "gateway":
        key = EndpointKey(SYSTEM_NAMESPACE, GATEWAY_SERVICE, cluster, name)
        port = EndpointPort(name="tls", service_port=GATEWAY_PORT, listen_port=GATEWAY_PORT, protocol="tcp")
        identity, agent = enrollment.identity, f"gateway.{name}"
    else:
        key = EndpointKey("shop", "orders", cluster, name)
        port = EndpointPort(name="http", service_port=8080, listen_port=15_006)
        identity, agent = f"spiffe://{enrollment.cluster_spec.trust_domain}/ns/shop/sa/shop", name
    return Endpoint(
        key=key,
        address=address,
        ports=(port,),
        identity=identity,
        ready=True,
        agent=agent,
        incarnation=int(time.time() * 1000),
        sequence=1,
    )


async def stay_registered(
    endpoint: Endpoint,
    controller: NamedController,
    leaf: LeafIdentity,
    directory: DirectoryStore,
    watch: GatewayWatch,
) -> None:
    while True:
        try:
            async with open_channel(controller, leaf, directory) as channel:
                call = register(channel)
                await send(call, AgentHello(incarnation=endpoint.incarnation))
                await receive(call)
                await send(call, Declare(number=1, put=(endpoint,), complete=True))
                await run_together(hear(call, controller.name, watch), tell(call, watch))
        except IsthmusError as error:
            print(f"not registered: {error.message}", flush=True)
            await asyncio.sleep(RETRY_S)


async def hear(call: RegisterCall, controller: str, watch: GatewayWatch) -> None:
    while True:
        message = await receive(call)
        if isinstance(message, ProbeTargets):
            watch.aim(controller, message)


async def tell(call: RegisterCall, watch: GatewayWatch) -> None:
    said: dict[str, bool] = {}
    while True:
        news, said = sightings(said, watch.seen())
        await send(call, AgentHeartbeat() if news is None else news)
        await asyncio.sleep(HEARTBEAT_S)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
    except (EOFError, OSError):
        writer.transport.abort()


async def main(purpose: str, name: str, address: str, data_dir: Path, token: str) -> None:
    enrollment = await ensure_enrolled(token, purpose, name, data_dir)
    directory = DirectoryStore.open(data_dir)
    leaf = LeafIdentity.load(data_dir / IDENTITY_FOLDER)
    if purpose == "gateway":
        context = server_context(leaf, directory.bundles(), client="optional")
        await asyncio.start_server(answer, address, GATEWAY_PORT, ssl=context)
    (controller,) = own_controllers(directory.current, enrollment.cluster)
    watch = GatewayWatch(directory, clock=time.monotonic)
    endpoint = endpoint_of(enrollment, name, address)
    await run_together(stay_registered(endpoint, controller, leaf, directory, watch), watch.run())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), sys.argv[5]))

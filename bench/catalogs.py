"""Fills the log of a founded federation with endpoints, by the commands that its publishers use."""

from pathlib import Path

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from discovery.core.catalog import Catalog
from discovery.core.commands import AcquireLease, PublishEndpoints
from discovery.core.model import Endpoint, EndpointKey, EndpointPort
from discovery.core.publishing import publish_lease
from federation.agent.directory import DirectoryStore
from federation.agent.folder_lock import hold_folder
from federation.api.proposer import Proposer
from federation.app.config import ControllerConfig
from federation.app.credentials import Credentials
from federation.app.founding import running
from federation.app.raft import make_engine, run_engine

ENDPOINTS_PER_SERVICE = 10
ENDPOINTS_PER_COMMAND = 100
_TIMEOUT_MS = 20_000


async def fill(config: ControllerConfig, count: int, *, address: str) -> None:
    """Publish `count` endpoints of the controller's own cluster, all at `address`. The controller is not running."""
    data_dir = Path(config.data_dir)
    with hold_folder(data_dir):
        credentials = Credentials.open(config)
        try:
            store = DirectoryStore.open(data_dir)
            engine = make_engine(
                config,
                machine=Catalog(),
                directory=store,
                leaf=credentials.leaf,
                verifier=Verifier(store.bundles, clock=utc_now),
            )
            async with running(run_engine(engine)):
                await engine.ready.wait()
                proposer = Proposer(engine, cluster=config.cluster.name)
                await proposer.barrier(timeout_ms=_TIMEOUT_MS)
                await _publish(proposer, config, endpoints(config.cluster.name, count, address=address))
        finally:
            credentials.close()


def endpoints(cluster: str, count: int, *, address: str) -> list[Endpoint]:
    """Return endpoints of made-up services, ten for each."""
    return [
        Endpoint(
            key=EndpointKey("shop", f"service-{number // ENDPOINTS_PER_SERVICE}", cluster, f"e-{number}"),
            address=address,
            ports=(EndpointPort(name="http", service_port=8080, listen_port=15_006),),
            identity=f"spiffe://{cluster}.example/ns/shop/sa/shop",
            ready=True,
            region="eu-west",
            agent=f"agent-{number // 100}",
            incarnation=1,
            sequence=1,
        )
        for number in range(count)
    ]


async def _publish(proposer: Proposer, config: ControllerConfig, rows: list[Endpoint]) -> None:
    cluster = config.cluster.name
    lease = AcquireLease(name=publish_lease(cluster), holder=f"{cluster}-{config.id}", ttl_ms=1_000)
    outcome = await proposer.propose(lease)
    assert outcome.lease is not None, "a lease was asked for"
    for first in range(0, len(rows), ENDPOINTS_PER_COMMAND):
        batch = tuple(rows[first : first + ENDPOINTS_PER_COMMAND])
        await proposer.propose(PublishEndpoints(cluster=cluster, fence=outcome.lease.fence, put=batch))

"""`isthmus init`: the first controller of a new federation.

Keys first, then the directory on disk, then the first commit: Federation, Cluster, TrustDomain and
Controller, all or none. What was cut short is finished by running the command again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from discovery.core.catalog import Catalog
from discovery.core.commands import Put, Tick
from discovery.core.model import ResourceKey
from discovery.core.specs import ClusterSpec, ControllerSpec, FederationSpec, TrustDomainSpec
from federation.agent.directory import DirectoryStore, save_directory
from federation.agent.folder_lock import hold_folder
from federation.api.messages import Directory, NamedController
from federation.api.proposer import Proposer
from federation.app.config import ClusterSection, ControllerConfig
from federation.app.context import write_context
from federation.app.credentials import Credentials
from federation.app.raft import make_engine, run_engine
from federation.kernel.errors import AlreadyExistsError, NotFoundError, cause_of
from federation.kernel.names import check_label
from federation.kernel.versions import PROTOCOL_VERSION

_COMMIT_TIMEOUT_MS = 20_000


class Founded(msgspec.Struct, frozen=True, kw_only=True):
    """What `isthmus init` made."""

    federation: str
    context: Path
    root_export: Path | None


def cluster_spec_of(section: ClusterSection) -> ClusterSpec:
    """The catalog's description of a configured cluster."""
    return ClusterSpec(
        role=section.role,  # type: ignore[arg-type]  # checked by ClusterSection
        trust_domain=section.trust_domain,
        region=section.region,
        zone=section.zone,
        network=section.network,
        home=section.home,
        ranges=section.ranges,
    )


def controller_of(config: ControllerConfig, credentials: Credentials) -> NamedController:
    """The catalog's description of a configured controller."""
    return named_controller(config, str(credentials.spiffe_id))


def named_controller(config: ControllerConfig, identity: str) -> NamedController:
    """The same of a controller that has no credentials yet."""
    witness = config.cluster.role == "witness"
    return NamedController(
        name=f"{config.cluster.name}-{config.id}",
        spec=ControllerSpec(
            cluster=config.cluster.name,
            role="witness" if witness else "member",
            identity=identity,
            raft=config.listen.raft,
            control="" if witness else config.listen.control,
            api="" if witness else config.listen.api,
            protocol=PROTOCOL_VERSION,
        ),
    )


async def found(
    config: ControllerConfig, *, name: str, root_export: Path | None, export_passphrase: bytes
) -> Founded:
    """Found federation `name` with this controller as its first member.

    Raises AlreadyExistsError if the directory belongs to a federation, InvalidInputError for a bad name.
    """
    check_label(name, "name")
    data_dir = Path(config.data_dir)
    with hold_folder(data_dir):
        credentials = Credentials.create(config)
        try:
            store = _directory(config, credentials, name)
            await _first_commit(config, credentials, store)
            if root_export is not None:
                credentials.root.export(root_export, export_passphrase)
            context = write_context(config, credentials)
        finally:
            credentials.close()
    return Founded(federation=store.current.federation, context=context, root_export=root_export)


def _directory(config: ControllerConfig, credentials: Credentials, name: str) -> DirectoryStore:
    data_dir = Path(config.data_dir)
    try:
        store = DirectoryStore.open(data_dir)
    except NotFoundError:
        directory = Directory(
            revision=0,
            federation=f"{name}-{secrets.token_hex(4)}",
            controllers=(controller_of(config, credentials),),
            bundles={config.cluster.trust_domain: (credentials.root.bundle().pem().decode(),)},
            homes={},
        )
        save_directory(data_dir, directory)
        return DirectoryStore.open(data_dir)
    if store.current.revision or len(store.current.controllers) > 1:
        raise AlreadyExistsError(f"{data_dir} belongs to federation {store.current.federation} already")
    return store


async def _first_commit(config: ControllerConfig, credentials: Credentials, store: DirectoryStore) -> None:
    catalog = Catalog()
    engine = make_engine(
        config,
        machine=catalog,
        directory=store,
        leaf=credentials.leaf,
        verifier=Verifier(store.bundles, clock=utc_now),
        founding=True,
    )
    async with running(run_engine(engine)):
        await engine.ready.wait()
        proposer = Proposer(engine, cluster=config.cluster.name)
        await proposer.barrier(timeout_ms=_COMMIT_TIMEOUT_MS)
        if catalog.tables.resources.get(ResourceKey("", "Federation", "", "federation").encode()) is None:
            # Federation time begins here: else what is written first would be of the year 1970.
            await proposer.propose(Tick(now_ms=int(utc_now().timestamp() * 1000)))
            await proposer.write(*_founding_records(config, credentials, store.current))


def _founding_records(
    config: ControllerConfig, credentials: Credentials, directory: Directory
) -> tuple[Put, ...]:
    controller = controller_of(config, credentials)
    records = (
        ("Federation", "federation", FederationSpec(id=directory.federation)),
        ("Cluster", config.cluster.name, cluster_spec_of(config.cluster)),
        (
            "TrustDomain",
            config.cluster.trust_domain,
            TrustDomainSpec(roots=(credentials.root.bundle().pem().decode(),)),
        ),
        ("Controller", controller.name, controller.spec),
    )
    return tuple(
        Put(key=ResourceKey("", kind, "", name), spec=msgspec.json.encode(spec), expected_revision=0)
        for kind, name, spec in records
    )


@asynccontextmanager
async def running(component: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run a component for as long as the block takes; its failure ends the block with its own error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(component, name="component")
            yield
            task.cancel()
    except ExceptionGroup as group:  # Not `except*`: before Python 3.11.4 it wraps what is raised in it.
        raise cause_of(group) from None

"""The consensus engine of one controller: addresses, certificates and timing as the catalog has them."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from certs.runtime.keystore import sync_directory, usable
from certs.runtime.tls import client_context, server_context
from consensus.core.contract import MemberAddress, StateMachine
from consensus.core.timing import Timing
from consensus.runtime.embedded import EmbeddedEngine
from consensus.runtime.snapshots import snapshot_path
from federation.agent.directory import DirectoryStore
from federation.api.messages import Directory, NamedController
from federation.app.config import ControllerConfig
from federation.kernel.errors import PreconditionError, UnavailableError
from federation.kernel.units import duration_ms

RAFT_DIRECTORY = "raft"


class RaftSecurity:
    """Mutual TLS between members: each connection is judged by the newest bundles."""

    def __init__(self, leaf: LeafIdentity, directory: DirectoryStore, verifier: Verifier) -> None:
        self._leaf = leaf
        self._directory = directory
        self._verifier = verifier

    def server_context(self) -> ssl.SSLContext:
        """A context for accepted connections."""
        return server_context(self._leaf, self._directory.bundles(), client="required")

    def client_context(self) -> ssl.SSLContext:
        """A context for dialled connections."""
        return client_context(self._leaf, self._directory.bundles())

    def verify(self, peer_chain_der: Sequence[bytes]) -> str:
        """Return the peer's SPIFFE ID; raises BadIdentityError."""
        return str(self._verifier.verify(peer_chain_der, purpose="client"))


def member_address(controller: NamedController) -> MemberAddress:
    """A controller as consensus knows it: members are named by their cluster, one for each."""
    return MemberAddress(
        id=controller.spec.cluster, address=controller.spec.raft, identity=controller.spec.identity
    )


def set_log_aside(data_dir: Path) -> Path | None:
    """Rename the log of a controller that does not run, so that it begins with an empty one; None if it has none."""
    directory = data_dir / RAFT_DIRECTORY
    if not directory.exists():
        return None
    aside = directory.with_name(f"{RAFT_DIRECTORY}.before-{int(utc_now().timestamp())}")
    with usable(directory):
        directory.rename(aside)
        sync_directory(data_dir)
    return aside


def snapshot_unix_ms(config: ControllerConfig) -> int | None:
    """When the newest snapshot of the log was written or installed, None while there is none."""
    try:
        return snapshot_path(Path(config.data_dir) / RAFT_DIRECTORY).stat().st_mtime_ns // 1_000_000
    except OSError:
        return None


def members_of(directory: Directory) -> tuple[MemberAddress, ...]:
    """Every controller that votes or may come to vote: all but those that an operator removed."""
    return tuple(
        member_address(controller)
        for controller in directory.controllers
        if controller.spec.raft and directory.standings.get(controller.spec.cluster) != "removed"
    )


def log_name(directory: Directory) -> str:
    """Name the log: members of another federation, or of another incarnation of this one, are refused."""
    return f"{directory.federation}@{directory.incarnation}"


async def run_engine(engine: EmbeddedEngine) -> None:
    """Run the engine until cancelled.

    Raises PreconditionError for what only a person can change, a port that is taken or a failing disk:
    `UnavailableError` would ask to try again.
    """
    try:
        await engine.run()
    except UnavailableError as error:
        raise PreconditionError(f"raft: {error.message}") from error


def make_engine(
    config: ControllerConfig,
    *,
    machine: StateMachine,
    directory: DirectoryStore,
    leaf: LeafIdentity,
    verifier: Verifier,
    founding: bool = False,
) -> EmbeddedEngine:
    """Return the engine of this controller; one that joins starts from the members that it was told of."""
    members = members_of(directory.current)
    controllers = directory.current.controllers
    me = next(
        member_address(one)
        for one in controllers
        if one.spec.cluster == config.cluster.name and one.spec.raft
    )
    bootstrap = (me,) if founding else tuple(member for member in members if member.id != me.id)
    return EmbeddedEngine(
        me,
        directory=Path(config.data_dir) / RAFT_DIRECTORY,
        machine=machine,
        bootstrap=bootstrap or (me,),
        security=RaftSecurity(leaf, directory, verifier),
        timing=Timing(round_trip_ms=duration_ms(config.raft.round_trip)),
        federation=log_name(directory.current),
    )

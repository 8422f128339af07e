"""`isthmus backup restore` and `isthmus member recover`: a new log from a backup, or from one survivor.

Both are done while no member runs. The catalog becomes a new incarnation (discovery/core/refounding.py)
with this controller as its only member; the others join again, each with an empty log.
"""

import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from certs.runtime.clock import utc_now
from certs.runtime.keystore import sync_directory, usable
from consensus.core.contract import MemberAddress
from consensus.runtime.offline import begin_log, read_log
from discovery.core.catalog import Catalog
from discovery.core.refounding import Refounding, refound
from discovery.core.snapshots import State, decode_snapshot, encode_snapshot
from federation.agent.directory import save_directory
from federation.agent.folder_lock import hold_folder
from federation.api.directory import build_directory
from federation.api.messages import Directory
from federation.app.backup_file import BackupReader, Manifest, open_backup
from federation.app.config import ControllerConfig
from federation.app.context import write_context
from federation.app.credentials import Credentials
from federation.app.founding import controller_of
from federation.app.raft import RAFT_DIRECTORY, member_address, set_log_aside
from federation.kernel.configfile import host_port
from federation.kernel.errors import NotFoundError, PreconditionError

PROBE_TIMEOUT_S = 2.0
_PREPARED_DIRECTORY = f"{RAFT_DIRECTORY}.founded"

T = TypeVar("T")


class Restored(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What became of it."""

    federation: str
    incarnation: int
    revision: int
    tokens_dropped: int
    others: tuple[str, ...]  # Clusters whose controllers have to join again.
    context: Path
    set_aside: Path | None = None  # Where the log of before lies.
    uncertain: int = 0  # Entries of the survivor that may never have been acknowledged.


def inspect_backup(path: Path, key: bytes | None) -> Manifest:
    """Read all of a backup and return what it says of itself; raises CorruptError with the place of damage."""
    with open_backup(path) as file:
        reader = BackupReader(file, name=str(path), key=key)
        decode_snapshot(reader.chunks())
        return reader.manifest


def restore_backup(config: ControllerConfig, path: Path, key: bytes | None) -> Restored:
    """Found this controller's log anew from a backup.

    Raises AlreadyExistsError when the data directory holds a log, PreconditionError when a member of the
    federation still answers or the backup is of another trust domain.
    """
    _check_operable(config)
    with open_backup(path) as file:
        reader = BackupReader(file, name=str(path), key=key)
        state = decode_snapshot(reader.chunks())
    data_dir = Path(config.data_dir)
    with hold_folder(data_dir):
        directory = data_dir / RAFT_DIRECTORY
        if directory.exists():
            raise PreconditionError(
                f"{directory} holds a log, which would be lost: to replace it by the backup, move it away first"
            )
        return _found_anew(config, state, term=reader.manifest.term)


def survey(config: ControllerConfig) -> str:
    """Say how far this stopped controller's log goes, to compare it with that of other survivors."""
    _check_operable(config)
    data_dir = Path(config.data_dir)
    with hold_folder(data_dir):
        end = read_log(data_dir / RAFT_DIRECTORY, Catalog())
    return f"its log ends in term {end.last_term} at entry {end.index}"


def recover(config: ControllerConfig) -> Restored:
    """Go on from this controller's own log alone, as the only member.

    What other members acknowledged and this one never got is lost. Raises NotFoundError where there is no
    log, PreconditionError when another member answers.
    """
    _check_operable(config)
    data_dir = Path(config.data_dir)
    with hold_folder(data_dir):
        catalog = Catalog()
        end = read_log(data_dir / RAFT_DIRECTORY, catalog)
        restored = _found_anew(config, catalog.state(), term=end.term)
    return msgspec.structs.replace(restored, uncertain=end.index - end.commit_index)


def _found_anew(config: ControllerConfig, state: State, *, term: int) -> Restored:
    """Put a new log in the place of the old one, which is set aside.

    What is cut short is done again by the same command: until the last step the old log has its name.
    """
    data_dir = Path(config.data_dir)
    credentials = Credentials.open(config)
    try:
        before = build_directory(state.tables)
        _check_ours(config, credentials, before)
        _check_silent(_addresses(before))
        me = controller_of(config, credentials)
        founded = refound(
            state, unix_us=int(utc_now().timestamp() * 1_000_000), controller=me.name, spec=me.spec
        )
        prepared = data_dir / _PREPARED_DIRECTORY
        with usable(prepared):
            if prepared.exists():
                shutil.rmtree(prepared)
        begin_log(
            prepared,
            encode_snapshot(founded.state),
            index=founded.revision,
            term=term + 1,
            voters=(member_address(me),),
        )
        directory = build_directory(founded.state.tables)
        # First: no log may run under the name of another incarnation.
        save_directory(data_dir, directory)
        aside = set_log_aside(data_dir)
        with usable(prepared):
            prepared.rename(data_dir / RAFT_DIRECTORY)
            sync_directory(data_dir)
        context = write_context(config, credentials)
    finally:
        credentials.close()
    return msgspec.structs.replace(_restored(config, founded, directory, context), set_aside=aside)


def _restored(config: ControllerConfig, founded: Refounding, directory: Directory, context: Path) -> Restored:
    wanted = (one.spec.cluster for one in directory.controllers)
    others = {name for name in wanted if directory.standings.get(name) != "removed"} - {config.cluster.name}
    return Restored(
        federation=directory.federation,
        incarnation=founded.incarnation,
        revision=founded.revision,
        tokens_dropped=founded.tokens_dropped,
        others=tuple(sorted(others)),
        context=context,
    )


def _check_operable(config: ControllerConfig) -> None:
    if config.cluster.role == "witness":
        raise PreconditionError(
            f"{config.cluster.name} is a witness, which nobody could operate alone: do this on a primary's controller."
            " If the witness has the newest log, put its raft directory in place of the primary's"
        )


def _check_ours(config: ControllerConfig, credentials: Credentials, directory: Directory) -> None:
    """The catalog must know this controller, by the root that this data directory holds."""
    name = f"{config.cluster.name}-{config.id}"
    if all(one.name != name for one in directory.controllers):
        known = ", ".join(one.name for one in directory.controllers)
        raise NotFoundError(f"the catalog knows no controller {name}: expected one of {known}")
    ours = credentials.root.bundle().pem().decode()
    if ours not in directory.bundles.get(config.cluster.trust_domain, ()):
        raise PreconditionError(
            f"the root in {config.data_dir} is not that of {config.cluster.trust_domain} in the catalog:"
            " put the exported root of this trust domain there"
        )


def _addresses(directory: Directory) -> tuple[MemberAddress, ...]:
    """All members, this one's own address included: another process may serve it."""
    return tuple(member_address(one) for one in directory.controllers if one.spec.raft)


def _check_silent(members: Iterable[MemberAddress]) -> None:
    """Raise PreconditionError if anybody listens where a member would."""
    for member in members:
        host, port = host_port(member.address, f"controller of {member.id}: raft")
        try:
            with socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S):
                raise PreconditionError(
                    f"member {member.id} answers at {member.address}: this federation runs;"
                    " stop every member before its log is founded anew"
                )
        except OSError:
            continue

"""A controller whose cluster was removed is told so, ends, and does not start again.

It gets the log no longer, and nobody believes its certificates, so it asks: the controllers that it knew, over their
HTTPS port, whom it knows by their roots. It asks only while it hears no leader. The epoch of its join tells it apart from
a cluster that took its name later: so a snapshot that is restored, or a second machine of that name, is told as well.

Its exit status is 3, not found, after which systemd does not start it again.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec
import structlog

from consensus.core.contract import Status
from discovery.core.catalog import Catalog
from federation.agent.directory import DirectoryStore
from federation.agent.state_file import read_state, write_state
from federation.api.client import ApiClient
from federation.api.removals import Removal, read_removal
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import IsthmusError, NotFoundError

EPOCH_FILE = "epoch.json"
REMOVED_FILE = "removed.json"
ASK_EVERY_S = 5.0
ASK_TIMEOUT_S = 3.0
# Several elections: a removed member hears nobody any more, and one that is merely cut off may ask in vain.
SILENT_MS = 5_000

_log = structlog.get_logger("removed")


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """Of the join by which this controller's cluster belongs to the federation."""

    epoch: int


def save_epoch(data_dir: Path, epoch: int) -> None:
    """Remember the epoch of a join."""
    write_state(data_dir / EPOCH_FILE, "isthmus epoch", Epoch(epoch=epoch))


def read_epoch(data_dir: Path) -> int:
    """Return the epoch of the join; 1 for a founder, and for whoever joined before there were epochs."""
    try:
        return read_state(data_dir / EPOCH_FILE, "isthmus epoch", Epoch).epoch
    except NotFoundError:
        return 1


def check_not_removed(data_dir: Path, cluster: str) -> None:
    """Raise NotFoundError for a data directory whose controller was told that its cluster was removed."""
    try:
        removal = read_state(data_dir / REMOVED_FILE, "isthmus removal", Removal)
    except NotFoundError:
        return
    raise NotFoundError(_text(cluster, removal))


class RemovalWatch:
    """Asks whether this cluster was removed while no leader is heard; `run` raises when it was."""

    def __init__(
        self,
        cluster: str,
        data_dir: Path,
        *,
        catalog: Catalog,
        directory: DirectoryStore,
        status: Callable[[], Status],
    ) -> None:
        self._cluster = cluster
        self._data_dir = data_dir
        self._catalog = catalog
        self._directory = directory
        self._status = status
        self._epoch = read_epoch(data_dir)

    async def run(self) -> None:
        """Ask now and then until cancelled; raises NotFoundError when the cluster was removed."""
        while True:
            removal = await self.look()
            if removal is not None:
                write_state(self._data_dir / REMOVED_FILE, "isthmus removal", removal)
                _log.error("cluster_was_removed", cluster=self._cluster, by=removal.removed_by)
                raise NotFoundError(_text(self._cluster, removal))
            await asyncio.sleep(ASK_EVERY_S)

    async def look(self) -> Removal | None:
        """Return by which removal this cluster belongs to the federation no longer; None as far as anybody knows."""
        removal = self._own_copy()
        if removal is None and not self._hears_leader():
            removal = await asyncio.to_thread(self.ask)
        # Its name may have been another one's before it joined.
        return None if removal is None or removal.epoch < self._epoch else removal

    def _own_copy(self) -> Removal | None:
        try:
            return read_removal(self._catalog.tables, self._cluster)
        except NotFoundError:
            return None

    def ask(self) -> Removal | None:
        """Return what the first of the other controllers that answers remembers; None: nothing, or nobody answers."""
        for controller in self._directory.current.controllers:
            if controller.spec.cluster == self._cluster or not controller.spec.api:
                continue
            client = ApiClient.of_stranger(
                controller.spec.api, cluster=controller.spec.cluster, bundles=self._directory.bundles
            )
            try:
                answer = client.call(
                    "GET", f"/v1/removed/{quote(self._cluster, safe='')}", timeout_s=ASK_TIMEOUT_S
                )
                return msgspec.json.decode(answer, type=Removal)
            except NotFoundError:
                return None
            except (IsthmusError, *MALFORMED) as error:
                _log.debug("not_answered", controller=controller.name, reason=str(error))
        return None

    def _hears_leader(self) -> bool:
        status = self._status()
        contact_ms = status.last_leader_contact_ms_ago
        return status.role == "leader" or (contact_ms is not None and contact_ms < SILENT_MS)


def _text(cluster: str, removal: Removal) -> str:
    return (
        f"cluster {cluster} was removed from the federation by {removal.removed_by}, at epoch {removal.epoch}:"
        " this controller must not run any more; to join again, take a new token and an empty data directory"
    )

"""Keeps on disk what the agents of the served clusters said and the catalog does not have yet.

A controller that starts again believes it until the agent has declared its list, or its lease has ended (F2, F4).
It is written behind: what an agent said in the last FLUSH_EVERY_S is lost with the process, and said again by its agent.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import structlog

from discovery.core.declarations import Withdrawn
from discovery.core.model import Endpoint, EndpointKey, unpack_endpoint
from discovery.core.tables import Tables
from federation.api.registry import ClusterRegistry
from federation.replication.local_journal import Entry, LocalJournal

# Most of what is said is global by then, and costs no write.
FLUSH_EVERY_S = 0.2
# What is looked at in one go, on the event loop: a few milliseconds.
KEYS_PER_FLUSH_MAX = 2_000
# After a failed write. Everything else goes on meanwhile: a full disk costs only this memory.
RETRY_S = 5.0

_log = structlog.get_logger("remembering")


class LocalMemory:
    """What a controller's journal holds of the served clusters; `run` ends only by cancellation."""

    def __init__(
        self,
        journal: LocalJournal,
        *,
        tables: Callable[[], Tables],
        registries: Mapping[str, ClusterRegistry],
    ) -> None:
        self._journal = journal
        self._tables = tables
        self._registries = registries
        self._held = journal.load()
        self._recalled: dict[str, list[Entry]] = {}
        for key, entry in self._held.items():
            self._recalled.setdefault(EndpointKey.decode(key).cluster, []).append(entry)
        # Rows that may differ from what the journal holds of them; at most all rows of the served clusters.
        self._touched = dict.fromkeys(self._held)
        self.failing = False  # The newest write failed.
        self._something = asyncio.Event()
        if self._held:
            self._something.set()

    def recall(self, cluster: str) -> tuple[list[Endpoint], list[Withdrawn]]:
        """Return what was held of a cluster when this process began."""
        entries = self._recalled.pop(cluster, [])
        rows = [unpack_endpoint(entry) for entry in entries if isinstance(entry, bytes)]
        withdrawn = [entry for entry in entries if isinstance(entry, Withdrawn)]
        self.touched([row.key.encode() for row in rows])
        self.touched([one.key.encode() for one in withdrawn])
        return rows, withdrawn

    def touched(self, keys: Iterable[bytes]) -> None:
        """Rows of a served cluster changed, here or in the catalog."""
        self._touched.update(dict.fromkeys(keys))
        if self._touched:
            self._something.set()

    def leave(self, cluster: str) -> None:
        """A cluster was removed: another one that comes under its name has nothing of this."""
        self._recalled.pop(cluster, None)
        self.touched([key for key in self._held if EndpointKey.decode(key).cluster == cluster])

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._something.wait()
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self._flush()
                self.failing = False
            except OSError as error:
                if not self.failing:
                    _log.error("declarations_not_kept", reason=str(error))
                self.failing = True
                self._something.set()  # The next attempt writes everything anew.
                await asyncio.sleep(RETRY_S)

    async def _flush(self) -> None:
        news = self._news()
        if news:
            self._held.update((key, entry) for key, entry in news.items() if entry is not None)
            for key in [key for key, entry in news.items() if entry is None]:
                del self._held[key]
        if self._journal.wants_rewrite and (news or self._held or self.failing):
            await asyncio.to_thread(self._journal.rewrite, dict(self._held))
        elif news:
            await asyncio.to_thread(self._journal.append, news)

    def _news(self) -> dict[bytes, Entry | None]:
        """Return what became of the rows that were touched, where that is not what the journal holds."""
        keys = list(islice(self._touched, KEYS_PER_FLUSH_MAX))
        for key in keys:
            del self._touched[key]
        if not self._touched:
            self._something.clear()
        theirs = self._tables().endpoints
        news: dict[bytes, Entry | None] = {}
        for key in keys:
            registry = self._registries.get(EndpointKey.decode(key).cluster)
            entry = None if registry is None else registry.unsettled(key, theirs.get(key))
            if entry != self._held.get(key):
                news[key] = entry
        return news

"""Rows that silence ended, not a word of their agents here: what a local table remembers of them. Pure."""

from typing import NamedTuple

from federation.kernel.limits import ENDPOINTS_PER_CLUSTER_MAX

SILENCED_MAX = ENDPOINTS_PER_CLUSTER_MAX
GONE = (-1, -1)

_Version = tuple[int, int]


class _Silenced(NamedTuple):
    agent: str
    known_until: _Version  # Of its agent, then.
    version: _Version  # That the catalog may still have of it; once the catalog has lost it, GONE.
    taken_back: bool  # By the word of its agent, which a journal remembered.


class SilencedRows:
    """A row that the catalog shows again after it had lost it is told by a controller that hears its agent.

    A memory says nothing any more once the agent itself has said more than until then.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, _Silenced] = {}

    def add(
        self, key: bytes, agent: str, known_until: _Version, version: _Version, *, taken_back: bool = False
    ) -> None:
        """Remember that silence ended a row; the oldest such memory goes when there are too many."""
        if key not in self._rows and len(self._rows) >= SILENCED_MAX:
            del self._rows[next(iter(self._rows))]
        self._rows[key] = _Silenced(agent, known_until, version, taken_back)

    def forget(self, key: bytes) -> None:
        """The row is back, or its agent has spoken of it."""
        self._rows.pop(key, None)

    def catalog_lost(self, key: bytes) -> None:
        """The catalog has the row no longer."""
        if (silenced := self._rows.get(key)) is not None:
            self._rows[key] = silenced._replace(version=GONE)

    def gone_until(self, key: bytes, agent: str, known_until: _Version) -> _Version:
        """Return the newest version of a row that is over, for one that the table has not.

        `known_until` is how far the word of its `agent` reaches now.
        """
        silenced = self._rows.get(key)
        if silenced is not None and silenced[:2] == (agent, known_until):
            return silenced.version
        return known_until

    def taken_back_until(self, key: bytes, agent: str, known_until: _Version) -> _Version:
        """As `gone_until`, by the word of the agent alone: what only silence ended is not taken back."""
        silenced = self._rows.get(key)
        if silenced is None or silenced[:2] != (agent, known_until):
            return known_until
        return silenced.version if silenced.taken_back else GONE

"""The catalog as a mirror has it: the copy of its follower, with the history of what came since."""

from collections.abc import Sequence

from discovery.core.history import History
from discovery.core.model import Change
from discovery.core.tables import Tables
from federation.replication.state import FollowerState, Update


class MirrorCatalog:
    """Reads like a member's catalog; `take` every update of the follower, in order. Lives on the event loop."""

    def __init__(self, state: FollowerState) -> None:
        self._state = state
        self._history = History(complete_after=0)

    @property
    def tables(self) -> Tables:
        """The newest tables of the copy."""
        return self._state.tables

    @property
    def revision(self) -> int:
        """Their revision."""
        return self._state.tables.revision

    def history(self, after_revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """Changes after a revision, in order; raises `CompactedError` when they are gone."""
        return self._history.after(after_revision)

    def kept_history(self) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """All changes that are remembered, oldest first."""
        return self._history.kept()

    def take(self, update: Update) -> None:
        """Remember what an update changed; after a new list nothing before it is known any more."""
        if update.listed:
            self._history = History(complete_after=update.revision)
        elif update.changes:
            self._history.record(update.revision, tuple(update.changes))

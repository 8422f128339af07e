"""A cluster's view of what a follower holds: its own endpoints as `own` has them, the rest global."""

from discovery.core.model import ServiceKey
from discovery.core.overlay import Overlay
from discovery.core.tables import Tables
from discovery.core.views import ViewIndex
from federation.replication.state import FollowerState, Update


class FollowedView:
    """Keeps `view` in step with a `FollowerState`; give it every update, in order."""

    def __init__(self, state: FollowerState) -> None:
        self.view = ViewIndex(state.cluster)
        self._state = state
        self._overlay = Overlay(state.cluster)
        self._begun = False

    @property
    def tables(self) -> Tables:
        """The tables that the view is computed from."""
        return self._overlay.tables

    def take(self, update: Update) -> frozenset[ServiceKey]:
        """Go on by one update; returns the services whose view changed."""
        if not self._begun:
            self._begun = True
            self._overlay.reset(self._state.tables, self._state.own)
            return self.view.reset(self._overlay.tables)
        changes = (
            *self._overlay.follow(update.revision, update.changes),
            *self._overlay.declare(update.own),
        )
        return self.view.update(self._overlay.tables, changes)

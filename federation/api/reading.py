"""What the parts of a controller read of the catalog, whether it is a member's own or a mirror's copy."""

from collections.abc import Sequence
from typing import Protocol

from discovery.core.model import Change
from discovery.core.tables import Tables


class CatalogReader(Protocol):
    """The catalog as of now. A later call may return a later state, never an earlier one."""

    @property
    def tables(self) -> Tables:
        """The newest tables."""

    @property
    def revision(self) -> int:
        """Their revision."""

    def history(self, after_revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """Changes after a revision, in order; raises `CompactedError` when they are gone."""

    def kept_history(self) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """All changes that are remembered, oldest first."""

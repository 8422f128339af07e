"""What a controller knows of each agent of its cluster."""

import enum

from discovery.core.canary import Doubt
from discovery.core.model import Endpoint
from federation.kernel.errors import StaleRevisionError

NOTHING_TOLD = (-1, -1)


class Phase(enum.Enum):
    """Where an agent is in the diagram of `local`."""

    UNHEARD = "unheard"
    LIVE = "live"
    LOST = "lost"
    ENDED = "ended"


class Agent:
    """One agent: its rows, and how far its own word reaches."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        # Up to here we know what it has and what it has not: its newest list, and what came after it.
        self.known_until = NOTHING_TOLD
        self.newest_incarnation = -1  # Of its rows, whichever way they came.
        self.rows: set[bytes] = set()
        self.listing: dict[bytes, Endpoint] | None = None  # A list that is not complete yet.
        self.listing_refused: set[bytes] = set()  # Of that list.
        self.listing_incarnation = -1
        # What it has by its own word, and this controller refused: of these rows the catalog may know more.
        self.refused: set[bytes] = set()
        self.doubt: Doubt | None = None  # About its newest list.
        self.heard_by: set[str] = set()  # Other controllers of the cluster that hear it now.

    @property
    def heard(self) -> bool:
        """True while any controller of the cluster hears it, as far as is known here."""
        return self.phase is Phase.LIVE or bool(self.heard_by)

    @property
    def told(self) -> bool:
        """True when its own word has come since this process began: to this or another controller."""
        return self.known_until != NOTHING_TOLD

    @property
    def replaceable(self) -> bool:
        """True when nothing is lost by forgetting it."""
        return not self.rows and not self.heard and self.listing is None

    def check_incarnation(self, name: str, incarnation: int) -> None:
        """Raise `StaleRevisionError` when a later start of this agent has been heard of."""
        listing = -1 if self.listing is None else self.listing_incarnation
        newest = max(self.known_until[0], self.newest_incarnation, listing)
        if incarnation < newest:
            raise StaleRevisionError(
                f"agent {name} has started again: incarnation {incarnation} is older than {newest}"
            )

"""The sync canary: a source that comes back with much less than it had is not believed at once (invariant F2).

    list --much is missing--> doubted --a pause--> ripe --the same is missing again--> removed
                                 |                  |
                                 +---- a list that has it again, or an operator's word ----+

A source that restarts may list what it has seen so far, and call that complete: an informer that never
synced, a folder that was wiped, a machine restored from an old image. So a list that leaves out more than half
of what the same source had, and more than a few rows, removes nothing. After a pause the source is asked for
its list again; what is missing then, too, is gone. Withdrawals that name their rows are not doubted.
"""

from collections.abc import Collection
from collections.abc import Set as AbstractSet

import msgspec

# As many rows, or fewer, go at once: a machine with some services that was set up anew.
BELIEVED_ROWS = 10


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """What a source left out of its list, and still stands."""

    missing: frozenset[bytes]
    ripe: bool = False  # The pause is over: the next list that leaves out no more is believed.


def without(doubt: Doubt | None, keys: AbstractSet[bytes]) -> Doubt | None:
    """Return a doubt after its source has spoken of some rows by name."""
    if doubt is None:
        return None
    left = doubt.missing - keys
    return Doubt(missing=left, ripe=doubt.ripe) if left else None


def is_doubtful(missing: int, had: int) -> bool:
    """True when too much is missing at once."""
    return missing > BELIEVED_ROWS and 2 * missing > had


def weigh(doubt: Doubt | None, missing: AbstractSet[bytes], had: Collection[bytes]) -> Doubt | None:
    """Return the doubt about a list that leaves out `missing` of what its source had; None: believe it."""
    if not is_doubtful(len(missing), len(had)):
        return None
    if doubt is not None and missing <= doubt.missing:
        return None if doubt.ripe else Doubt(missing=frozenset(missing))
    return Doubt(missing=frozenset(missing))

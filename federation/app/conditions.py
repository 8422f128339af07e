"""Writes the conditions of the policies of this controller's cluster, and of the remotes whose home it is.

What to write is decided by `discovery.core.conditions`. Without quorum nothing is written and nothing is lost:
what concerned a policy meanwhile is written afterwards.
"""

import asyncio

import structlog

from discovery.core.catalog import Catalog
from discovery.core.conditions import Conditions
from discovery.core.model import Change
from federation.api.proposer import Proposer
from federation.kernel.errors import IsthmusError, NotFoundError

# What changed in between is looked at once: a service whose endpoints come and go costs no more than this.
EVERY_S = 1.0
# Some tens of microseconds for each endpoint of a service: the event loop must not stand still for long.
SERVICES_PER_SLICE = 20
PUTS_PER_TURN_MAX = 100

_log = structlog.get_logger("conditions")


class ConditionsKeeper:
    """Follows the catalog; call `changed` and `reset` on the loop on which `run` is."""

    def __init__(self, cluster: str, *, catalog: Catalog, proposer: Proposer) -> None:
        self._conditions = Conditions(cluster)
        self._catalog = catalog
        self._proposer = proposer

    def changed(self, changes: tuple[Change, ...]) -> None:
        """Take what the catalog applied."""
        self._conditions.follow(self._catalog.tables, changes)

    def reset(self) -> None:
        """A snapshot replaced everything."""
        self._conditions.reset(self._catalog.tables)

    async def run(self) -> None:
        """Look and write until cancelled."""
        self.reset()
        while True:
            await asyncio.sleep(EVERY_S)
            while self._conditions.services_due:
                self._conditions.look(SERVICES_PER_SLICE)
                await asyncio.sleep(0)
            await self._write()

    async def _write(self) -> None:
        puts = self._conditions.writes(self._catalog.now_ms, PUTS_PER_TURN_MAX)
        for position, put in enumerate(puts):
            try:
                await self._proposer.write(put)
            except NotFoundError:
                continue  # Deleted meanwhile.
            except IsthmusError as error:
                self._conditions.again(left.key for left in puts[position:])
                _log.info("conditions_postponed", reason=error.message)
                return

"""Bugs that moves between homes could have. The rules must notice every one."""

from discovery.core import rehoming
from discovery.core.catalog import Catalog
from discovery.core.commands import Command, Outcome
from discovery.core.model import Change
from federation.app.rehoming import RehomeDesk


class AsksNoCallers(RehomeDesk):
    """Processes change as soon as a move has begun."""

    async def _callers_know(self, cluster: str, since_ms: int) -> bool:
        return True


class EndsTooSoon(Catalog):
    """Whoever says that all have changed is believed."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        real = rehoming.endpoints_of
        rehoming.endpoints_of = lambda _tables, _cluster: iter(())
        try:
            return super()._execute(index, command)
        finally:
            rehoming.endpoints_of = real

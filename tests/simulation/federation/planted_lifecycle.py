"""Bugs that drains and removals could have. The rules must notice every one."""

from discovery.core import catalog as catalog_module
from discovery.core import ownership
from discovery.core.catalog import Catalog
from discovery.core.commands import Command, Outcome, SweepRemoved
from discovery.core.draft import Draft
from discovery.core.drains import step
from discovery.core.model import Change, EndpointKey
from discovery.core.specs import DrainSpec
from federation.app.draining import DrainDesk


class AsksNobody(DrainDesk):
    """Whether others serve what the cluster serves is not looked at."""

    async def _check_capacity(self, cluster: str, percent_min: int) -> None:
        pass

    async def _next(self, cluster: str, drain: DrainSpec) -> DrainSpec:
        return step(drain, now_ms=self._catalog.now_ms)


class IgnoresReports(Catalog):
    """What callers see fail ends no drain."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        real = catalog_module.settle_drains
        catalog_module.settle_drains = lambda _draft, _operations: None  # type: ignore[assignment]
        try:
            return super()._execute(index, command)
        finally:
            catalog_module.settle_drains = real


class KeepsLeases(Catalog):
    """A lease outlives the cluster that held it, and so does its fence."""

    def _commit(self, draft: Draft, changes: tuple[Change, ...], command: Command) -> None:
        leases = dict(self._leases)
        super()._commit(draft, changes, command)
        self._leases = leases


class SweepsTooMuch(Catalog):
    """A batch takes the neighbour's row as well."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        outcome, changes = super()._execute(index, command)
        if not isinstance(command.body, SweepRemoved) or not changes:
            return outcome, changes
        others = (
            key for key in self._tables.endpoints if EndpointKey.decode(key).cluster != command.body.cluster
        )
        more = tuple(Change("endpoints", key, None) for key in list(others)[:1])
        self._tables = self._tables.with_changes(more, index)
        return outcome, (*changes, *more)


class TakesAnyEpoch(Catalog):
    """A name that was a removed cluster's is free for whoever comes with it."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        real = ownership._check_epoch
        ownership._check_epoch = lambda _draft, _name, _spec: None
        try:
            return super()._execute(index, command)
        finally:
            ownership._check_epoch = real

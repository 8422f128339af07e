"""Bugs in what is held of addresses outside of all clusters; see `planted`."""

from discovery.core import external, liveness
from discovery.core.catalog import Catalog
from discovery.core.commands import Command, Outcome
from discovery.core.model import Change


class BelievesOneChecker(Catalog):
    """What one checker misses is lost."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        real = external.state_of
        external.state_of = lambda missed_by, voters: "unhealthy" if missed_by & voters else "ok"
        try:
            return super()._execute(index, command)
        finally:
            external.state_of = real


class BelievesTheBlind(Catalog):
    """Who misses everybody is believed like anybody else."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        real = liveness.Electorate.counts
        liveness.Electorate.counts = lambda _self, _observer: True  # type: ignore[method-assign]
        try:
            return super()._execute(index, command)
        finally:
            liveness.Electorate.counts = real  # type: ignore[method-assign]


class ForgetsTheReturn(Catalog):
    """Only what is newly missed is looked at: what has returned stays lost."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        real = external._after

        def after(known, address, missed_by, voters, **times):  # type: ignore[no-untyped-def]
            stays = known is not None and known.state == "unhealthy"
            return known if stays else real(known, address, missed_by, voters, **times)

        external._after = after
        try:
            return super()._execute(index, command)
        finally:
            external._after = real

"""Bugs that a federation could have. The rules must notice every one.

They are subclasses in the place of the product's classes; the product has no switch for any of them.
"""

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from discovery.core import liveness
from discovery.core.catalog import Catalog
from discovery.core.commands import Command, Outcome, PublishEndpoints, Write
from discovery.core.leases import Lease
from discovery.core.local import LocalTable
from discovery.core.model import Change, Endpoint, EndpointKey, pack
from discovery.core.publishing import publish_lease
from federation.api.registry import ClusterRegistry
from federation.replication.messages import Delta, FollowAnswer, LocalRows
from federation.replication.state import FollowerState, Update
from tests.simulation.federation import lifecycle_rules, move_rules, placement, rules
from tests.simulation.federation.parts import Parts
from tests.simulation.federation.plan import Plan
from tests.simulation.federation.planted_lifecycle import (
    AsksNobody,
    IgnoresReports,
    KeepsLeases,
    SweepsTooMuch,
    TakesAnyEpoch,
)
from tests.simulation.federation.planted_moves import AsksNoCallers, EndsTooSoon
from tests.simulation.federation.planted_outside import BelievesOneChecker, BelievesTheBlind, ForgetsTheReturn
from tests.simulation.federation.planted_placement import ComparesOnce


class TakesAnyFence(Catalog):
    """Whoever published once may publish for ever."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        body = command.body
        if not isinstance(body, PublishEndpoints):
            return super()._execute(index, command)
        name = publish_lease(body.cluster)
        real = self._leases.get(name)
        self._leases[name] = Lease(holder="anybody", fence=body.fence, expires_ms=0)
        try:
            return super()._execute(index, command)
        finally:
            if real is None:
                del self._leases[name]
            else:
                self._leases[name] = real


class TakesForeignRows(Catalog):
    """A proposer is believed to speak for whomever it writes about."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        match command.body:
            case PublishEndpoints(cluster=cluster):
                command = replace(command, proposer=cluster)
            case Write(operations=(first, *_)) if getattr(first, "key", None) and first.key.scope:  # type: ignore[union-attr]
                command = replace(command, proposer=first.key.scope)  # type: ignore[union-attr]
        return super()._execute(index, command)


class TakesOlderRows(Catalog):
    """What was published last wins, whatever its version."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        outcome, changes = super()._execute(index, command)
        body = command.body
        if not isinstance(body, PublishEndpoints) or outcome.code:
            return outcome, changes
        rows = [Change("endpoints", row.key.encode(), pack(row)) for row in body.put]
        later = tuple(row for row in rows if self._tables.endpoints.get(row.key) != row.value)
        if later:
            self._tables = self._tables.with_changes(later, index)
        return outcome, (*changes, *later)


class BelievesOneObserver(Catalog):
    """Whoever misses a cluster first has found it dead."""

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        real = liveness._is_quorum
        liveness._is_quorum = lambda lost_by, _voters: bool(lost_by)
        try:
            return super()._execute(index, command)
        finally:
            liveness._is_quorum = real


class BelievesTheEmptyList(LocalTable):
    """An agent that starts has nothing, until it has said otherwise."""

    def hello(self, agent: str, incarnation: int) -> None:
        super().hello(agent, incarnation)
        for key in sorted(self._agents[agent].rows):
            self._rows = self._rows.set([(key, None)])
            self._unpublished[key] = None
        self._agents[agent].rows.clear()


class TakesTheCatalogsWord(LocalTable):
    """A row of the catalog replaces the agent's own, whichever is newer."""

    def _adopt(self, row: Endpoint, edits: dict[bytes, bytes | None]) -> None:
        there = self._row(row.key.encode(), edits)
        if there is not None and there.agent == row.agent:
            edits[row.key.encode()] = pack(row)
            return
        super()._adopt(row, edits)


class GivesUpEverybody(ClusterRegistry):
    """A controller that hears nobody takes all of them for dead."""

    def _all_silent(self, now_s: float) -> bool:
        return False


class EndsLeasesOfTheLiving(ClusterRegistry):
    """A stream that was replaced ends the agent's lease as if it had been the last one."""

    def close(self, agent: str, session: object) -> None:
        super().close(agent, session)
        self._ends_s[agent] = 0.0
        self._table.agent_lost(agent)


class AcknowledgesTooMuch(ClusterRegistry):
    """What was declared while a batch was under way counts as published with it."""

    def published(
        self,
        version: int,
        revision: int,
        refused: Iterable[tuple[EndpointKey, str]] = (),
        held: frozenset[str] = frozenset(),
    ) -> None:
        super().published(self.version, revision, refused, held)


class BelievesTheFirstPart(FollowerState):
    """Each part of a local list is taken for all of it."""

    def apply(self, answer: FollowAnswer) -> Update:
        if isinstance(answer, LocalRows) and not answer.first and answer.complete:
            self._list = None if self._list is None else type(self._list)()
        return super().apply(answer)


class MergesOlderRows(FollowerState):
    """Without a controller of its own it takes whatever the others say of its own endpoints."""

    def _merged_into_own(self, changes: Iterable[Change]) -> Iterator[Change]:
        yield from changes


class BelievesWhoKnowsLess(FollowerState):
    """Whatever a controller of its own lists is the newest."""

    def _own_changed(self, said: tuple[Change, ...]) -> Update:
        self._set_own(said)
        return Update(revision=self.revision, own=said if self.complete else ())


class LosesADelta(FollowerState):
    """Each seventh revision is counted and not applied."""

    def apply(self, answer: FollowAnswer) -> Update:
        if isinstance(answer, Delta) and answer.revision % 7 == 0:
            answer = replace(answer, changes=())
        return super().apply(answer)


def every_plan(_plan: Plan) -> bool:
    """Most bugs show whatever a seed means."""
    return True


def with_moves(plan: Plan) -> bool:
    """A cluster moves between two homes."""
    return plan.remote


def with_late_moves(plan: Plan) -> bool:
    """A cluster moves, its first home has one controller, and all are far apart: endpoints are late."""
    return plan.remote and not plan.second and plan.delay_ms > 50


def with_services_of_one(plan: Plan) -> bool:
    """Some service is one cluster's alone, each of which can be drained."""
    return not plan.exports_all and not plan.remote


class Bug(Struct, frozen=True, kw_only=True):
    """A planted bug, the seeds within which it must show, and as what."""

    parts: Parts
    rules: tuple[str, ...]
    seeds: int = 20
    first: int = 0  # The seed to begin with: a rare one is found sooner.
    fits: Callable[[Plan], bool] = (
        every_plan  # Only seeds that mean such a plan are run: others seldom notice it.
    )


BUGS: dict[str, Bug] = {
    "publishes without the fence": Bug(
        parts=Parts(catalog=TakesAnyFence), rules=(rules.FENCE, lifecycle_rules.RETURN), seeds=40, first=14
    ),
    "applies a foreign row": Bug(parts=Parts(catalog=TakesForeignRows), rules=(rules.OWNER,)),
    "lets an older row win": Bug(
        parts=Parts(catalog=TakesOlderRows), rules=(rules.NEWER,), seeds=60, first=21
    ),
    "finds a cluster dead by one observer": Bug(
        parts=Parts(catalog=BelievesOneObserver), rules=(rules.VERDICT,)
    ),
    "accepts an empty list before it is complete": Bug(
        parts=Parts(local=BelievesTheEmptyList),
        rules=(rules.REASON, rules.HELD, rules.CONVERGED),
        first=3,
    ),
    "takes the catalog's word against the agent's": Bug(
        parts=Parts(local=TakesTheCatalogsWord), rules=(rules.NEWER, rules.HELD)
    ),
    "gives up everybody": Bug(parts=Parts(registry=GivesUpEverybody), rules=(rules.PRESERVED,), first=2),
    "ends leases of the living": Bug(
        parts=Parts(registry=EndsLeasesOfTheLiving), rules=(rules.REASON, rules.HELD)
    ),
    "acknowledges what it has not published": Bug(
        parts=Parts(registry=AcknowledgesTooMuch), rules=(rules.GLOBAL,), seeds=40
    ),
    "believes a part of a list": Bug(
        parts=Parts(follower=BelievesTheFirstPart), rules=(rules.REASON, rules.HELD)
    ),
    "merges older rows": Bug(
        parts=Parts(follower=MergesOlderRows), rules=(rules.NEWER, rules.REASON), seeds=60, first=79
    ),
    "believes a controller that knows less": Bug(
        parts=Parts(follower=BelievesWhoKnowsLess), rules=(rules.NEWER,), seeds=1, first=70367
    ),
    "hands over what a cluster alone serves": Bug(
        parts=Parts(desk=AsksNobody), rules=(lifecycle_rules.ALONE,), first=6, fits=with_services_of_one
    ),
    "ignores what callers report": Bug(parts=Parts(catalog=IgnoresReports), rules=(lifecycle_rules.FAILING,)),
    "keeps the leases of a removed cluster": Bug(
        parts=Parts(catalog=KeepsLeases), rules=(lifecycle_rules.RETURN,), first=31
    ),
    "sweeps the rows of a neighbour": Bug(
        parts=Parts(catalog=SweepsTooMuch), rules=(lifecycle_rules.REMOVAL,)
    ),
    "takes any epoch": Bug(parts=Parts(catalog=TakesAnyEpoch), rules=(lifecycle_rules.EPOCH,), first=4),
    "holds an address lost by one checker": Bug(
        parts=Parts(catalog=BelievesOneChecker), rules=(rules.OUTSIDE,)
    ),
    "believes a checker that has lost its network": Bug(
        parts=Parts(catalog=BelievesTheBlind), rules=(rules.OUTSIDE,)
    ),
    "forgets that an address has returned": Bug(
        parts=Parts(catalog=ForgetsTheReturn), rules=(rules.OUTSIDE,)
    ),
    "lets processes change before callers know": Bug(
        parts=Parts(moves=AsksNoCallers), rules=(move_rules.KNOWN,), first=20, fits=with_moves
    ),
    "ends a move while endpoints are late": Bug(
        parts=Parts(catalog=EndsTooSoon),
        rules=(move_rules.ACCEPTED,),
        seeds=60,
        first=130,
        fits=with_late_moves,
    ),
    "compares its controllers only when it chooses": Bug(
        parts=Parts(following=ComparesOnce), rules=(placement.FOLLOWS,), first=9
    ),
    "loses a change": Bug(parts=Parts(follower=LosesADelta), rules=(rules.COPY,)),
}

"""The calls /v1/explain and /v1/whatif: why a service is as a caller sees it, and what losing clusters would do."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import msgspec
from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.death_forecast import foresee_dead
from discovery.core.specs import ClusterSpec, ControllerSpec, MemberSpec
from discovery.core.tables import Tables
from discovery.core.view import Service
from discovery.core.views import ViewIndex
from federation.api.caller import caller_identity, require_operator
from federation.api.directory import cluster_spec, resources
from federation.api.health import Facts
from federation.api.operations import parse_service_name
from federation.api.reading import CatalogReader
from federation.api.rest import json_response
from federation.kernel.errors import InvalidInputError, PreconditionError, UnavailableError
from gateways.core.compile import ViewCompiler
from gateways.core.explain import explain, parse_caller, withdrawn_of
from gateways.core.whatif import (
    ClusterLoss,
    QuorumLoss,
    ServiceLoss,
    lose_clusters,
    lose_quorum,
    lose_service,
    worst_first,
)

# Some tens of microseconds for each; the event loop must not stand still for longer than a few milliseconds.
SERVICES_PER_SLICE = 50
# For one question, over all callers: some seconds of work, in slices.
SERVICES_LOOKED_AT_MAX = 100_000
# The worst are listed, the others counted.
LOSSES_LISTED_MAX = 5_000
LOST_CLUSTERS_MAX = 100


class Served(NamedTuple):
    """What a controller keeps for one cluster."""

    view: ViewIndex
    compiler: ViewCompiler


class ServedViews(Protocol):
    """The views that a controller keeps; `federation.app.live_views` has them."""

    def served(self, cluster: str) -> Served | None:
        """Return those of a cluster, or None while they are not ready."""
        ...


class WhatIf(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What losing clusters would do."""

    lost: tuple[str, ...]
    revision: int
    quorum: QuorumLoss
    clusters: tuple[ClusterLoss, ...]
    services: tuple[ServiceLoss, ...]  # The worst first, at most `LOSSES_LISTED_MAX`.
    counts: dict[str, int]  # Of all that were looked at, by outcome.
    complete: bool  # False: there are more than `SERVICES_LOOKED_AT_MAX`.


class Understanding:
    """Handlers of these paths of one controller, for operators of its cluster."""

    def __init__(
        self,
        *,
        cluster: str,
        catalog: CatalogReader,
        verifier: Verifier,
        views: ServedViews,
        facts: Callable[[], Awaitable[Facts]],
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._verifier = verifier
        self._views = views
        self._facts = facts

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [web.get("/v1/explain", self._explain), web.get("/v1/whatif", self._what_if)]

    async def _explain(self, request: web.Request) -> web.Response:
        self._authorize(request)
        caller = parse_caller(request.query.get("from", ""))
        self._check_sees(caller.cluster)
        key = parse_service_name(request.query.get("name", ""))
        served = self._served(caller.cluster)
        gone = withdrawn_of(self._catalog.kept_history(), served.view.tables, key)
        return json_response(explain(served.view, served.compiler, caller, key, gone))

    async def _what_if(self, request: web.Request) -> web.Response:
        self._authorize(request)
        tables = self._catalog.tables
        clusters = {
            row.key.name: spec for row, spec in resources(tables, "Cluster") if isinstance(spec, ClusterSpec)
        }
        lost = self._read_lost(request.query.get("lose", ""))
        facts = await self._facts()
        callers = {
            name: self._served(name)
            for name, spec in clusters.items()
            if name not in lost and spec.role != "witness"
        }
        view = self._served(self._cluster).view
        gateways = {name: view.gateways(name) for name in clusters}
        dead = foresee_dead(
            clusters,
            controlled=_controlled(tables),
            edged=[name for name, found in gateways.items() if found],
            lost=lost,
            blind=_without_member(tables),
        )
        losses = await _foresee(callers, lost, dead)
        heard = [voter for voter in facts.voters if facts.is_heard(voter)]
        return json_response(
            WhatIf(
                lost=tuple(sorted(lost)),
                revision=tables.revision,
                quorum=lose_quorum(facts.voters, heard, lost),
                clusters=lose_clusters(clusters, gateways, lost, dead),
                services=tuple(losses.worst),
                counts=losses.counts,
                complete=losses.complete,
            )
        )

    def _read_lost(self, text: str) -> frozenset[str]:
        names = [name for name in text.split(",") if name]
        if not 1 <= len(names) <= LOST_CLUSTERS_MAX:
            raise InvalidInputError(
                f"lose: {text[:200]!r} names {len(names)} clusters, expected 1 to {LOST_CLUSTERS_MAX}"
            )
        for name in names:
            cluster_spec(self._catalog.tables, name)
        return frozenset(names)

    def _check_sees(self, cluster: str) -> None:
        if cluster_spec(self._catalog.tables, cluster).role == "witness":
            raise PreconditionError(f"cluster {cluster} is a witness: nobody calls services from it")

    def _served(self, cluster: str) -> Served:
        served = self._views.served(cluster)
        if served is None or cluster not in served.view.policies.clusters:
            raise UnavailableError(f"this controller's view of cluster {cluster} is not ready yet: ask again")
        return served

    def _authorize(self, request: web.Request) -> str:
        identity = caller_identity(request, self._verifier)
        return require_operator(identity, self._catalog.tables, cluster=self._cluster)


class Losses:
    """The worst losses and the counts of all, in bounded memory."""

    def __init__(self) -> None:
        self.worst: list[ServiceLoss] = []
        self.counts: dict[str, int] = {}
        self.complete = True

    def add(self, losses: Iterable[ServiceLoss]) -> None:
        """Count them, and keep them if they are among the worst."""
        for loss in losses:
            self.counts[loss.outcome] = self.counts.get(loss.outcome, 0) + 1
            self.worst.append(loss)
        if len(self.worst) > 2 * LOSSES_LISTED_MAX:
            self.trim()

    def trim(self) -> None:
        """Sort what is kept, and drop what is not listed."""
        self.worst.sort(key=worst_first)
        del self.worst[LOSSES_LISTED_MAX:]


async def _foresee(callers: dict[str, Served], lost: frozenset[str], dead: frozenset[str]) -> Losses:
    """Look at every service that a caller sees of a lost cluster, letting others run now and then."""
    losses = Losses()
    for number, (caller, service, then) in enumerate(_affected(callers, lost, dead), start=1):
        if number > SERVICES_LOOKED_AT_MAX:
            losses.complete = False
            break
        losses.add(lose_service(service, then, caller, lost))
        if number % SERVICES_PER_SLICE == 0:
            await asyncio.sleep(0)
    losses.trim()
    return losses


def _affected(
    callers: dict[str, Served], lost: frozenset[str], dead: frozenset[str]
) -> Iterator[tuple[str, Service, Service | None]]:
    """Yield, for each caller, the services that it sees of a lost cluster, now and then. Views may change meanwhile."""
    for caller, served in sorted(callers.items()):
        keys = {key for cluster in lost for key in served.view.owned_by(cluster)}
        for key in sorted(keys):
            service = served.view.service(key)
            if service is not None:
                yield caller, service, served.view.service_without(key, dead)


def _controlled(tables: Tables) -> frozenset[str]:
    """The clusters with a controller that others can ask whether it lives."""
    return frozenset(
        spec.cluster
        for _, spec in resources(tables, "Controller")
        if isinstance(spec, ControllerSpec) and spec.control
    )


def _without_member(tables: Tables) -> frozenset[str]:
    """The clusters whose member was removed: they observe nobody."""
    return frozenset(
        row.key.name
        for row, spec in resources(tables, "Member")
        if isinstance(spec, MemberSpec) and spec.standing == "removed"
    )

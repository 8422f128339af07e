"""What a controller answers on its ports: its parts, put together for each kind of caller."""

from typing import TYPE_CHECKING

from aiohttp import web

from certs.core.certificate import spki_pin
from federation.api.accounts import Accounts
from federation.api.admission import Admission, Signer
from federation.api.control import ControlService
from federation.api.lifecycle import ClusterOperations
from federation.api.member_operations import MemberOperations
from federation.api.operations import Operations, raft_standing
from federation.api.rehomings import RehomeOperations
from federation.api.rest import ResourceApi
from federation.api.tokens import TokenReply, TokenRequest, create_token
from federation.api.tracing import Tracing
from federation.api.understanding import Understanding
from federation.app.federation_time import reached_ms
from federation.app.mirror_desk import MirrorDesk
from federation.app.proxies import describe_proxies
from federation.app.rehoming import RehomeDesk
from federation.app.removing import RemovalDesk

if TYPE_CHECKING:
    from federation.app.controller import Controller


def control_service(controller: "Controller") -> ControlService:
    """Return what agents, DNS processes and other controllers call, but for the catalog and configuration."""
    return ControlService(
        name=controller.name,
        catalog=controller.catalog,
        signer=Signer(
            catalog=controller.catalog,
            authority=controller.credentials.authority,
            now_ms=lambda: controller.catalog.now_ms,
        ),
        registry=controller.registries.get,
        directories=controller.directory.follow,
        health=controller.health.own,
        audit=controller.audit,
        trace=controller.traces.answer,
        eyes=controller.eyes,
        drains=controller.drain_watch,
    )


def api_routes(controller: "Controller") -> tuple[web.RouteDef, ...]:
    """Return everything that the HTTPS port answers."""
    return (
        *_resource_api(controller).routes(),
        *_operations(controller).routes(),
        *_member_operations(controller).routes(),
        *_understanding(controller).routes(),
        *_tracing(controller).routes(),
        *_accounts(controller).routes(),
        *_cluster_operations(controller).routes(),
        *_rehome_operations(controller).routes(),
    )


def _resource_api(controller: "Controller") -> ResourceApi:
    return ResourceApi(
        cluster=controller.cluster,
        catalog=controller.catalog,
        proposer=controller.proposer,
        watches=controller.watches,
        verifier=controller.verifier,
    )


def _operations(controller: "Controller") -> Operations:
    async def create(request: TokenRequest) -> TokenReply:
        now_ms = await reached_ms(lambda: controller.catalog.now_ms)
        return await create_token(
            request,
            tables=controller.catalog.tables,  # Of now: before a first tick they may be those of an earlier run.
            now_ms=now_ms,
            proposer=controller.proposer,
            cluster=controller.cluster,
            pin=spki_pin(controller.credentials.root.certificate_der),
        )

    return Operations(
        id=controller.config.id,
        cluster=controller.cluster,
        catalog=controller.catalog,
        admission=Admission(
            cluster=controller.cluster,
            catalog=controller.catalog,
            proposer=controller.proposer,
            authority=controller.credentials.authority,
            voters=lambda: controller.engine.status().members,
            now_ms=lambda: controller.catalog.now_ms,
        ),
        verifier=controller.verifier,
        views=controller.views,
        proxies=lambda: describe_proxies(controller.xds),
        standing=lambda: raft_standing(controller.engine.status()),
        barrier=controller.proposer.barrier,
        create_token=create,
    )


def _understanding(controller: "Controller") -> Understanding:
    return Understanding(
        cluster=controller.cluster,
        catalog=controller.catalog,
        verifier=controller.verifier,
        views=controller.views,
        facts=controller.health.gather,
    )


def _accounts(controller: "Controller") -> Accounts:
    return Accounts(
        cluster=controller.cluster,
        catalog=controller.catalog,
        verifier=controller.verifier,
        registries=lambda: controller.registries,
    )


def _tracing(controller: "Controller") -> Tracing:
    return Tracing(
        cluster=controller.cluster,
        catalog=controller.catalog,
        verifier=controller.verifier,
        gather=controller.traces.gather,
    )


def _cluster_operations(controller: "Controller") -> ClusterOperations:
    return ClusterOperations(
        cluster=controller.cluster,
        catalog=controller.catalog,
        verifier=controller.verifier,
        drains=controller.drains,
        removals=RemovalDesk(
            cluster=controller.cluster,
            proposer=controller.proposer,
            catalog=controller.catalog,
            status=controller.engine.status,
            change_member=controller.members.change,
        ),
    )


def rehome_desk(controller: "Controller") -> RehomeDesk:
    """Return what moves remote clusters to and from this one."""
    return RehomeDesk(
        cluster=controller.cluster,
        proposer=controller.proposer,
        catalog=controller.catalog,
        registries=controller.registries,
        trace=controller.traces.gather,
    )


def _rehome_operations(controller: "Controller") -> RehomeOperations:
    return RehomeOperations(
        cluster=controller.cluster,
        catalog=controller.catalog,
        verifier=controller.verifier,
        rehomings=controller.rehomings,
    )


def _member_operations(controller: "Controller") -> MemberOperations:
    return MemberOperations(
        cluster=controller.cluster,
        catalog=controller.catalog,
        verifier=controller.verifier,
        facts=controller.health.gather,
        mirrors=MirrorDesk(
            controller.cluster, leaf=controller.credentials.leaf, directory=controller.directory
        ).gather,
        backup=controller.backups.serve,
        change_member=controller.members.change,
    )

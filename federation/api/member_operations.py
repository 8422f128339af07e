"""The calls under /v1 on the federation's members: how they are, who votes, a backup of what they hold."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.catalog import Catalog
from federation.api.caller import caller_identity, require_operator
from federation.api.doctor import Finding, examine, problems
from federation.api.external import examine_external
from federation.api.health import Facts, MemberHealth
from federation.api.liveness import examine_clusters
from federation.api.mirrors import MirrorFound, examine_mirrors, mirror_object
from federation.api.rest import json_response

_log = structlog.get_logger("api")


class MemberOperations:
    """Handlers of these paths of one controller, for operators of its cluster."""

    def __init__(
        self,
        *,
        cluster: str,
        catalog: Catalog,
        verifier: Verifier,
        facts: Callable[[], Awaitable[Facts]],
        mirrors: Callable[[], Awaitable[Sequence[MirrorFound]]],
        backup: Callable[[web.Request, str], Awaitable[web.StreamResponse]],
        change_member: Callable[[str, str], Awaitable[str]],
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._verifier = verifier
        self._facts = facts
        self._mirrors = mirrors
        self._backup = backup
        self._change_member = change_member

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [
            web.get("/v1/doctor", self._doctor),
            web.get("/v1/backup", self._take_backup),
            web.post("/v1/members/{id}/{action}", self._members),
        ]

    async def _doctor(self, request: web.Request) -> web.Response:
        self._authorize(request)
        async with asyncio.TaskGroup() as tasks:  # Whoever is away costs two seconds, not two for each.
            asked = tasks.create_task(self._ask_mirrors(), name="doctor/mirrors")
            facts = await self._facts()
        mirrors = asked.result()
        of_mirrors = examine_mirrors(mirrors, asked=facts.asked)
        others = examine_external(self._catalog.tables, (*examine(facts), *of_mirrors))
        findings = examine_clusters(self._catalog.tables, others)
        return json_response(
            {
                "healthy": not problems(findings),
                "findings": [_finding_object(finding) for finding in findings],
                "members": [_member_object(facts, member) for member in facts.members],
                "mirrors": [mirror_object(one, revision=self._catalog.revision) for one in mirrors],
            }
        )

    async def _ask_mirrors(self) -> Sequence[MirrorFound]:
        return await self._mirrors()

    async def _take_backup(self, request: web.Request) -> web.StreamResponse:
        return await self._backup(request, self._authorize(request))

    async def _members(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        member, action = request.match_info["id"], request.match_info["action"]
        message = await self._change_member(action, member)
        _log.info("member_changed", operator=operator, action=action, member=member)
        return json_response({"message": message})

    def _authorize(self, request: web.Request) -> str:
        identity = caller_identity(request, self._verifier)
        return require_operator(identity, self._catalog.tables, cluster=self._cluster)


def _finding_object(finding: Finding) -> dict[str, object]:
    return {
        "check": finding.check,
        "level": finding.level,
        "subject": finding.subject,
        "message": finding.message,
        "next": finding.next_step,
    }


def _member_object(facts: Facts, member: MemberHealth) -> dict[str, object]:
    health, peer, leader = member.health, facts.peer(member.id), facts.leader
    leads = leader.cluster == member.id if leader is not None else member.id == facts.leader_id
    lag = None
    if leader is not None:
        lag = 0 if leads else None if peer is None else max(0, leader.last_index - peer.match_index)
    return {
        "id": member.id,
        "controller": member.controller,
        "address": member.raft,
        "votes": member.id in facts.voters,
        "standing": member.standing,
        "leader": leads,
        "role": "leader" if leads else None if health is None else health.role,
        "answers": facts.is_heard(member.id),
        "lastContactMsAgo": 0 if leads else None if peer is None else peer.last_contact_ms_ago,
        "lagEntries": lag,
        "revision": None if health is None else health.revision,
        "incarnation": None if health is None else health.incarnation,
        "directory": None if health is None else health.directory,
        "startedUnixMs": None if health is None else health.started_unix_ms,
        "version": None if health is None else health.version,
        "clockOffsetMs": None if health is None else member.clock_offset_ms,
        "error": member.error,
    }

"""Looks at a laboratory for the view. It only reads, waits little, and never raises: a view must disturb nothing."""

import http.client
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, time
from typing import Protocol

import msgspec
from msgspec import Struct

from chaos.lab.federation import Lab
from chaos.lab.processes import LabError, LabProcess
from chaos.lab.topology import METRICS_PORT, NAMESPACE, ClusterPlan
from chaos.load.records import LoadStatus
from chaos.view.facts import ClusterFacts, ControllerAnswer, EndpointCount, Facts, count_endpoints
from federation.api.client import ApiClient
from federation.app.context import open_context
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import IsthmusError

_READY_TIMEOUT_S = 0.5
_ENDPOINTS_TIMEOUT_S = 1.0
_ENDPOINTS_EVERY_S = 5.0  # Also without a new revision.
_MISSES_MAX = 2  # A controller of a busy machine may be late once: it counts as mute after that many.
_FILE_BYTES_MAX = 64 * 1024
_ANSWER_BYTES_MAX = 64 * 1024

# Whatever a dying process, a removed network or a half-written file may raise.
_EXPECTED = (OSError, http.client.HTTPException, LabError, IsthmusError, *MALFORMED)


class Source(Protocol):
    """What a collector asks; neither method raises, and each returns within some seconds."""

    def facts(self) -> Facts:
        """Look at clusters, controllers and endpoints."""
        ...

    def loads(self, scenario: str, callers: Sequence[str]) -> tuple[LoadStatus, ...]:
        """Read what the loads of a scenario write of themselves."""
        ...


class _Readiness(Struct):
    """What is read of `/readyz`."""

    leader: str | None = None
    revision: int = 0


class _Endpoint(Struct):
    """What is read of an endpoint."""

    service: str
    cluster: str
    ready: bool


class LabSource:
    """The facts of one laboratory."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._answers: dict[str, ControllerAnswer] = {}  # The last of each controller.
        self._misses: dict[str, int] = {}
        self._clients: dict[str, ApiClient] = {}
        self._endpoints: tuple[EndpointCount, ...] = ()
        self._endpoints_at_s = 0.0
        self._endpoints_revision = -1
        self._endpoints_due = 0.0

    def facts(self) -> Facts:
        """Look once. A controller is asked in its own network, and only while its process runs."""
        clusters = tuple(self._cluster(plan) for plan in self._lab.clusters.values())
        facts = Facts(clusters=clusters)
        self._refresh_endpoints(facts)
        return msgspec.structs.replace(facts, endpoints=self._endpoints, endpoints_at_s=self._endpoints_at_s)

    def loads(self, scenario: str, callers: Sequence[str]) -> tuple[LoadStatus, ...]:
        """Read the live files of a scenario; a caller without one has no load (yet)."""
        found = []
        for caller in callers:
            with suppress(*_EXPECTED):
                found.append(_read_load(self._lab.directory / f"{scenario}.{caller}.live.json"))
        return tuple(found)

    def _cluster(self, plan: ClusterPlan) -> ClusterFacts:
        names = planned_processes(plan)
        processes = [self._lab.processes.get(f"{plan.name}/{name}") for name in names]
        states = [_state(process) for process in processes]
        running = "controller" in names and states[names.index("controller")] != ""
        stopped = running and states[names.index("controller")] == "T"
        return ClusterFacts(
            name=plan.name,
            role=plan.role,
            region=plan.region,
            planned=len(names),
            running=sum(state != "" for state in states),
            stopped=states.count("T"),
            controller_planned="controller" in names,
            controller_running=running,
            controller=self._controller(plan, asked=running and not stopped),
        )

    def _controller(self, plan: ClusterPlan, *, asked: bool) -> ControllerAnswer | None:
        answer = None
        if asked:
            with suppress(*_EXPECTED), self._lab.place.inside(plan.name):
                answer = _ask_readiness(plan.controller)
        self._misses[plan.name] = 0 if answer else self._misses.get(plan.name, 0) + 1
        if answer:
            self._answers[plan.name] = answer
        elif not asked or self._misses[plan.name] >= _MISSES_MAX:
            self._answers.pop(plan.name, None)
        return self._answers.get(plan.name)

    def _refresh_endpoints(self, facts: Facts) -> None:
        """Ask one controller for the endpoints when there is a new revision, or after a while."""
        news = facts.revision != self._endpoints_revision or monotonic() >= self._endpoints_due
        answering = [one.name for one in facts.clusters if one.controller]
        if not answering or not news:
            return
        cluster = facts.leader if facts.leader in answering else answering[0]
        try:
            rows = self._ask_endpoints(cluster)
        except _EXPECTED:
            self._clients.pop(cluster, None)
            return
        self._endpoints = count_endpoints([(one.service, one.cluster, one.ready) for one in rows])
        self._endpoints_at_s = time()
        self._endpoints_revision = facts.revision
        self._endpoints_due = monotonic() + _ENDPOINTS_EVERY_S

    def _ask_endpoints(self, cluster: str) -> list[_Endpoint]:
        client = self._clients.get(cluster)
        if client is None:
            context = open_context(self._lab.data_dir(cluster, "controller") / "operator")
            client = self._clients[cluster] = ApiClient.of_operator(
                context.file.api, cluster=cluster, identity=context.identity, bundles=context.bundles
            )
        with self._lab.place.inside(cluster):
            path = f"/v1/endpoints?namespace={NAMESPACE}"
            answer = client.call("GET", path, timeout_s=_ENDPOINTS_TIMEOUT_S)
        return msgspec.json.decode(answer, type=list[_Endpoint])


def planned_processes(plan: ClusterPlan) -> list[str]:
    """The processes of a cluster while all is well."""
    names = [name for name in ("controller", "gateway", "dns") if getattr(plan, name)]
    for agent in plan.agents:
        names += [agent.name, *sorted({workload.app for workload in agent.workloads})]
    return names


def _state(process: LabProcess | None) -> str:
    """Return "R" for a process that runs, "T" for one that is stopped, "" for none."""
    if process is None:
        return ""
    try:
        if not process.running():
            return ""
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, LabError):
        return ""  # Collected while we looked.
    return "T" if state in "Tt" else "R"


def _ask_readiness(host: str) -> ControllerAnswer:
    """Return what a controller says of itself, ready or not."""
    connection = http.client.HTTPConnection(host, METRICS_PORT, timeout=_READY_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = msgspec.json.decode(connection.getresponse().read(_ANSWER_BYTES_MAX), type=_Readiness)
    finally:
        connection.close()
    return ControllerAnswer(leader=answer.leader or "", revision=answer.revision)


def _read_load(path: Path) -> LoadStatus:
    with path.open("rb") as file:
        return msgspec.json.decode(file.read(_FILE_BYTES_MAX), type=LoadStatus)

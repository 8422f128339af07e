"""One federation of real processes: founded, joined and enrolled by the command that operators use."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from chaos.lab import asking, configs, recovery, topology
from chaos.lab.envoys import envoy_stats
from chaos.lab.guardian import Guardian, environment_of
from chaos.lab.places import Loopback, Place
from chaos.lab.processes import LabError, LabProcess, wait_until
from chaos.lab.tools import SYSTEM_TOOLS, UNPACKED_TOOLS
from chaos.lab.topology import AgentPlan, ClusterPlan, Workload

COMMAND_TIMEOUT_S = 90.0
_COMMANDS_AT_ONCE = 4
READY_TIMEOUT_S = 90.0
_RECOVERY_POLL_S = 0.2  # What recovers needs this machine's few cores.

Say = Callable[[str], None]


class _Enrolling(NamedTuple):
    """A process that enters its cluster by a token."""

    cluster: ClusterPlan
    kind: str
    name: str
    config: str
    group: str = ""


class Lab:
    """The processes of a topology, by name: `alpha/controller`, `alpha/gateway`, `alpha/dns`, `alpha/alpha-1`, ..."""

    def __init__(
        self, clusters: tuple[ClusterPlan, ...], directory: Path, say: Say, *, place: Place | None = None
    ) -> None:
        self.clusters = {cluster.name: cluster for cluster in clusters}
        self.directory = directory.absolute()
        self.place: Place = place or Loopback()
        self.processes: dict[str, LabProcess] = {}
        self.resting: set[str] = set()  # Those of them that are not meant to run now.
        self._say = say
        # The command that captures looks for its programs on PATH; a checkout may have them unpacked only.
        folders = (os.environ.get("PATH", os.defpath), *SYSTEM_TOOLS, str(UNPACKED_TOOLS))
        self._environment = {**environment_of(self.directory), "PATH": os.pathsep.join(folders)}
        self._guardian = Guardian(self.directory)

    def __enter__(self) -> Self:
        """Nothing runs yet but the guardian."""
        self._guardian.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Kill everything, also a process whose start was interrupted before it had a name here."""
        self._guardian.close()
        for process in self.processes.values():
            process.kill()  # Collects what the guardian killed.

    # -- building ----------------------------------------------------------------------------------

    def build(self) -> None:
        """Found the federation, join every cluster, enroll every process, wait until all of it serves."""
        first, *others = self.clusters.values()
        self._say(f"founding the federation in cluster {first.name}")
        self.isthmus("init", "--config", self._write(first, "controller"), "--name", "demo", at=first)
        self._start_controller(first)
        for cluster in others:
            self._say(f"cluster {cluster.name} joins as {cluster.role}")
            self._join(first, cluster)
        self._wait_for_members()
        with ThreadPoolExecutor(max_workers=_COMMANDS_AT_ONCE) as pool:
            for _ in pool.map(self._apply_policies, self.serving()):
                pass  # Raises what a command raised.
            self._say("enrolling gateways, agents and dns processes")
            enrolling = [one for cluster in self.serving() for one in self._enrolling(cluster)]
            tokens = pool.map(self._create_token_for, enrolling)
            for cluster in self.serving():
                for agent in cluster.agents:
                    self.start_apps(cluster, agent)
            for one, token in zip(
                enrolling, tokens, strict=True
            ):  # Each starts as soon as its token is there.
                self.start(one.cluster, one.name, one.kind, "run", "--config", one.config, "--token", token)
        self.wait_serving()
        for cluster in self.serving():
            if cluster.capture:
                configs_of = (f"--config={self.write_agent(cluster, agent)}" for agent in cluster.agents)
                self.isthmus("capture", "apply", *configs_of, at=cluster)

    def _enrolling(self, cluster: ClusterPlan) -> list[_Enrolling]:
        parts = [_Enrolling(cluster, kind, kind, self._write(cluster, kind)) for kind in ("gateway", "dns")]
        agents = [
            _Enrolling(cluster, "agent", agent.name, self.write_agent(cluster, agent), agent.group)
            for agent in cluster.agents
        ]
        return parts + agents

    def _create_token_for(self, one: _Enrolling) -> str:
        return self.create_token(one.cluster, one.cluster.name, one.kind, group=one.group)

    def serving(self) -> list[ClusterPlan]:
        """The clusters that run services."""
        return [cluster for cluster in self.clusters.values() if cluster.serves]

    def _join(self, first: ClusterPlan, cluster: ClusterPlan) -> None:
        token = self.create_token(first, cluster.name, "cluster")
        kind = "controller" if cluster.controller else "cluster"
        self.isthmus("cluster", "join", "--config", self._write(cluster, kind), "--token", token, at=cluster)
        if cluster.controller:
            self._start_controller(cluster)

    def _start_controller(self, cluster: ClusterPlan) -> None:
        config = self.directory / cluster.name / "controller.toml"
        self.start(cluster, "controller", "controller", "run", "--config", str(config))
        self.wait_controller(cluster)

    def _wait_for_members(self) -> None:
        wanted = sorted(cluster.name for cluster in self.clusters.values() if cluster.controller)
        first = next(iter(self.clusters.values()))
        wait_until(
            lambda: sorted(self.status(first)["raft"]["members"]) == wanted,
            f"{', '.join(wanted)} are members",
            READY_TIMEOUT_S,
        )

    def _apply_policies(self, cluster: ClusterPlan) -> None:
        domains = tuple(sorted({one.trust_domain for one in self.serving()}))
        path = self.directory / cluster.name / "policies.yaml"
        path.write_text(configs.manifests(cluster, domains))
        self.isthmus("apply", "-f", str(path), at=self.clusters[cluster.home or cluster.name])

    def enroll_agent(self, cluster: ClusterPlan, agent: AgentPlan) -> None:
        """Start an agent for the first time."""
        config = self.write_agent(cluster, agent)
        token = self.create_token(cluster, cluster.name, "agent")
        self.start(cluster, agent.name, "agent", "run", "--config", config, "--token", token)

    def start_apps(self, cluster: ClusterPlan, agent: AgentPlan) -> None:
        """Start the applications behind an agent."""
        for workload in agent.workloads:
            command = self.app_command(cluster, agent, workload)
            self.run(f"{cluster.name}/{workload.app}", cluster.name, command, user=agent.user)

    def app_command(self, cluster: ClusterPlan, agent: AgentPlan, workload: Workload) -> list[str]:
        """The command that serves one workload; it calls on by plain names where its calls are captured."""
        outbound = [] if cluster.capture else [f"--outbound={agent.address}:{topology.OUTBOUND_PORT}"]
        return [
            sys.executable,
            "-m",
            "chaos.shop.app",
            f"--service={workload.service}",
            f"--cluster={cluster.name}",
            f"--instance={agent.name}",
            f"--listen={agent.address}:{workload.port}",
            *outbound,
        ]

    # -- processes ---------------------------------------------------------------------------------

    def start(self, cluster: ClusterPlan, name: str, *arguments: str) -> LabProcess:
        """Start `isthmus ARGUMENTS` in a cluster, as CLUSTER/NAME."""
        return self.run(f"{cluster.name}/{name}", cluster.name, [*_ISTHMUS, *arguments])

    def run(self, name: str, cluster: str, command: list[str], *, user: int = 0) -> LabProcess:
        """Start a command in the network of a cluster, under `name`; as another user if one is given (needs root)."""
        placed = self.place.command(cluster, [*_as_user(user), *command])
        log_path = self.directory / f"{name}.log"
        process = LabProcess(name, placed, log_path, environment=self._environment)
        self.processes[name] = process
        process.start()
        return process

    def of_cluster(self, cluster: str) -> list[LabProcess]:
        """Every process of a cluster."""
        return [process for name, process in self.processes.items() if name.startswith(f"{cluster}/")]

    def controllers(self) -> list[LabProcess]:
        """Every controller."""
        return [process for name, process in self.processes.items() if name.endswith("/controller")]

    def data_dir(self, cluster: str, name: str) -> Path:
        """The data directory of a process."""
        return self.directory / cluster / f"{name}.data"

    # -- asking ------------------------------------------------------------------------------------

    def isthmus(self, *arguments: str, at: ClusterPlan) -> str:
        """Run the operator's command in a cluster, as its operator; raises LabError with what it said."""
        status, output, problem = self.ask_isthmus(*arguments, at=at)
        if status:
            raise LabError(f"isthmus {' '.join(arguments[:2])} exited {status}: {problem.strip()}")
        return output

    def ask_isthmus(self, *arguments: str, at: ClusterPlan) -> tuple[int, str, str]:
        """Run the operator's command and return its exit status, output and error output."""
        context = self.data_dir(at.name, "controller") / "operator"
        done = subprocess.run(
            self.place.command(at.name, [*_ISTHMUS, *arguments]),
            env={**self._environment, "ISTHMUS_CONTEXT": str(context)},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def create_token(self, issuer: ClusterPlan, cluster: str, purpose: str, *, group: str = "") -> str:
        """Create a join token at `issuer`, or at its home where it has no controller; of a WorkloadGroup if given."""
        home = self.clusters[issuer.home or issuer.name]
        account = ("--workload-group", group) if group else ("--service-account", topology.SERVICE_ACCOUNT)
        extra = ("--namespace", topology.NAMESPACE, *account) if purpose == "agent" else ()
        arguments = ("token", "create", "--purpose", purpose, "--cluster", cluster, *extra)
        return self.isthmus(*arguments, at=home).strip()

    def status(self, cluster: ClusterPlan) -> dict[str, Any]:
        """Return `isthmus status` of the controller of `cluster`."""
        answer: dict[str, Any] = json.loads(self.isthmus("status", "-o", "json", at=cluster))
        return answer

    def call(
        self, caller: str, service: str, *, path: str = "/", address: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """Call a service from a cluster: through its first agent's sidecar, or the one at `address`."""
        with self.place.inside(caller):
            return asking.call(address or self.clusters[caller].agents[0].address, service, path=path)

    def wait_controller(self, cluster: ClusterPlan) -> None:
        """Wait until a controller says that it is ready."""
        process = self.processes[f"{cluster.name}/controller"]

        def ready() -> bool:
            if not process.running():
                raise LabError(f"{process.name} ended:\n{process.tail()}")
            with self.place.inside(cluster.name):
                return asking.ready(cluster.controller)

        wait_until(ready, f"{process.name} is ready, see {process.log_path}", READY_TIMEOUT_S)

    def wait_serving(self) -> None:
        """Wait until every cluster reaches every service."""
        services = sorted({service for cluster in self.serving() for service in cluster.services})
        for caller in self.serving():
            for service in services:
                wait_until(
                    partial(self._answers, caller.name, service),
                    f"{service} answers in cluster {caller.name}",
                    READY_TIMEOUT_S,
                )

    def _answers(self, caller: str, service: str) -> bool:
        return self.call(caller, service)[0] == 200

    def wait_healthy(self) -> None:
        """Wait until no sidecar thinks any endpoint or gateway dead: a recovered one is used as before only then."""
        wait_until(
            lambda: not any(recovery.thought_dead(self)),
            "every sidecar finds every endpoint healthy",
            READY_TIMEOUT_S,
        )

    def leader(self) -> str:
        """The cluster of the log's leader as a majority of the controllers that run says, "" if there is none."""
        return recovery.leader_of(recovery.facts_of(self))

    def recovered(self) -> bool:
        """True when nothing is missing: see `chaos.lab.recovery`."""
        return not recovery.missing(self)

    def wait_recovered(self) -> None:
        """Wait until everything runs, serves, and is known as in the beginning; raises LabError saying what is not."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while missing := recovery.missing(self):
            if time.monotonic() > deadline:
                raise LabError(f"not recovered within {READY_TIMEOUT_S:g} s: {missing}")
            time.sleep(_RECOVERY_POLL_S)

    def gateway_connections(self, cluster: str, service: str) -> int:
        """How many connections for `service` the gateway of `cluster` has let through to its endpoints."""
        sni = f"outbound_.{topology.SERVICE_PORT}_._.{service}.{topology.NAMESPACE}.svc.clusterset.local"
        stats = envoy_stats(self.data_dir(cluster, "gateway"), sni)
        return sum(value for name, value in stats.items() if name.endswith("upstream_cx_total"))

    # -- files -------------------------------------------------------------------------------------

    def _write(self, cluster: ClusterPlan, kind: str) -> str:
        data_dir = self.data_dir(cluster.name, kind)
        if kind == "cluster":
            return self._write_file(cluster, kind, configs.cluster_section(cluster))
        return self._write_file(cluster, kind, _CONFIGS[kind](cluster, data_dir))

    def write_agent(self, cluster: ClusterPlan, agent: AgentPlan) -> str:
        """Write an agent's configuration and return its path."""
        text = configs.agent_config(agent, self.data_dir(cluster.name, agent.name))
        return self._write_file(cluster, agent.name, text)

    def _write_file(self, cluster: ClusterPlan, name: str, text: str) -> str:
        path = self.directory / cluster.name / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)


_CONFIGS: dict[str, Callable[[ClusterPlan, Path], str]] = {
    "controller": configs.controller_config,
    "gateway": configs.gateway_config,
    "dns": configs.dns_config,
}
_ISTHMUS = (sys.executable, "-m", "federation.cli.main")


def _as_user(number: int) -> list[str]:
    """What turns a command into one of another user, who may still read and write the laboratory's files."""
    if not number:
        return []
    capability = "+dac_override"
    return [
        "setpriv",
        f"--reuid={number}",
        f"--regid={number}",
        "--clear-groups",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
        "--",
    ]


def now_s() -> float:
    """Wall clock, by which fault times are joined with the request log."""
    return time.time()

"""Controllers of one cluster that do not reach each other any more: nothing flaps before, meanwhile and after.

Every controller, and the agents of each cluster, have a network of their own. Packets vanish without a word. Needs root.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.integration.controller.installation import ISTHMUS, WAIT_S, Caller, Installation
from tests.integration.mirror.agent_process import STATUS_FILE
from tests.integration.mirror.cluster import Agent, Mirror, join_remote, listed, seen
from tests.support.networks import Star, star_of_networks
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually
from tests.support.walkthrough import REPOSITORY

pytestmark = pytest.mark.timeout(280)

NETWORKS = ("alpha", "beside", "beta", "edge", "hosts", "far")
ADDRESSES = {name: f"10.214.9.{number}" for number, name in enumerate(NETWORKS, start=1)}
AGENTS = {
    "a-1": "hosts",
    "a-2": "hosts",
    "gone": "hosts",
    "late": "hosts",
    "e-1": "far",
    "e-2": "far",
}  # And their networks.
OF_ALPHA, OF_EDGE = {"a-1", "a-2", "gone"}, {"e-1", "e-2"}
AGENT_MODULE = "tests.integration.mirror.agent_process"


class World:
    """Primaries alpha and beta, alpha's remote edge, and a mirror in alpha and in edge."""

    def __init__(self, folder: Path, star: Star, processes: ProcessSet) -> None:
        self._folder, self._star, self._processes = folder, star, processes
        self.alpha = Installation(folder / "alpha", ADDRESSES["alpha"])
        self.beta = Installation(folder / "beta", ADDRESSES["beta"], cluster="beta")
        self.mirrors: dict[str, Mirror] = {}
        self.running: dict[str, Process] = {}

    # -- making ------------------------------------------------------------------------------------

    def found(self) -> None:
        with self._star.networks["alpha"].inside():
            self.alpha.found()
        self.run_member("alpha", self.alpha)
        token = self._folder / "beta.token"
        token.write_text(self.token("cluster", "beta"))
        join = (*ISTHMUS, "cluster", "join", "--config", self.beta.config_path, "--token-file", token)
        joining = self._start("beta-join", "beta", join)
        assert joining.wait(timeout_s=WAIT_S) == 0, joining.log()
        self.run_member("beta", self.beta)
        with self._star.networks["alpha"].inside():
            join_remote(self, "edge")  # type: ignore[arg-type]  # asks only for tokens and the member

    def mirror(self, cluster: str, network: str) -> None:
        """Start a mirror of a cluster."""
        mirror = Mirror(self._folder / network, ADDRESSES[network], "m1", self.alpha, self._processes)
        command = (*ISTHMUS, "controller", "run", "--config", mirror.config_path)
        self._start(network, network, (*command, "--token", self.token("controller", cluster)))
        self.mirrors[network] = mirror

    def give_lease(self, cluster: str, holder: str) -> None:
        """Let `holder` publish for a cluster."""
        module = (ISTHMUS[0], "-m", "tests.integration.mirror.bystanders")
        token = self.token("controller", "alpha")
        giving = self._start("giving", "alpha", (*module, token, self._folder / "giving", cluster, holder))
        assert giving.wait(timeout_s=WAIT_S) == 0, giving.log()

    def enroll(self, name: str, cluster: str) -> None:
        agent = Agent(self._folder / name, name, cluster, self._address(name))
        token = self.token("agent", cluster, namespace="shop", serviceAccount="shop")
        with self._star.networks[AGENTS[name]].inside():
            asyncio.run(agent.enroll(token))

    def register(self, name: str, cluster: str) -> None:
        """Let an enrolled agent run."""
        arguments = (self._folder / name, cluster, name, self._address(name))
        self._start(name, AGENTS[name], (ISTHMUS[0], "-m", AGENT_MODULE, *arguments))

    def cut(self, *between: tuple[Sequence[str], Sequence[str]]) -> None:
        """From now on networks of the left do not reach those of the right, nor these those; all others do."""
        ways = [pair for left, right in between for one in product(left, right) for pair in (one, one[::-1])]
        self._star.cut(ways)

    # -- looking -----------------------------------------------------------------------------------

    def at(self, network: str) -> Caller:
        """Return alpha's operator at the controller in a network; call it within `inside` of that."""
        if network in self.mirrors:
            return self.mirrors[network].operator()
        return self.alpha.operator()

    def seen(self, network: str, cluster: str) -> set[str]:
        """Whom callers in a cluster are told of by the controller in a network."""
        with self._star.networks[network].inside():
            addresses = seen(self.at(network), cluster)
        return {name for name in AGENTS if self._address(name) in addresses}

    def published(self, cluster: str) -> set[str]:
        with self._star.networks["alpha"].inside():
            return listed(self.alpha.operator(), cluster)

    def controllers(self) -> set[str]:
        """Those that everybody knows."""
        with self._star.networks["alpha"].inside():
            clusters = self.alpha.operator().ok("GET", "/v1/status")["clusters"]
        return {name for cluster in clusters for name in cluster["controllers"]}

    def follows(self, network: str) -> str:
        """Whom a mirror follows."""
        with self._star.networks[network].inside():
            return str(self.mirrors[network].readiness()[1]["member"])

    def connected(self, agent: str) -> set[str]:
        path = self._folder / agent / STATUS_FILE
        return set(path.read_text().split()) if path.exists() else set()

    def live(self, network: str) -> int:
        """How many agents a mirror's own cluster has by what it hears itself."""
        with self._star.networks[network].inside():
            text = Installation.plain(self.mirrors[network], "/metrics")[1].decode()  # type: ignore[arg-type]  # asks only for the host
        lines = [
            line
            for line in text.splitlines()
            if line.startswith("isthmus_agents{") and 'phase="live"' in line
        ]
        return sum(int(float(line.split()[-1])) for line in lines)

    def journal(self) -> bytes:
        """What alpha's member keeps of what agents told it alone."""
        path = self.alpha.data_dir / "declared" / "declared.journal"
        return path.read_bytes() if path.exists() else b""

    def history(self) -> list[tuple[str, str]]:
        """What the log saw of the service's endpoints, oldest first: which one, and what became of it."""
        with self._star.networks["alpha"].inside():
            events: list[dict[str, Any]] = self.alpha.operator().ok("GET", "/v1/history?name=orders.shop")[
                "events"
            ]
        return [(one["object"].rpartition("/")[2], one["what"]) for one in reversed(events)]

    def ready(self, controller: Any, network: str) -> bool:
        self.running[network].check_running()
        with self._star.networks[network].inside():
            return Installation.plain(controller, "/readyz")[0] == 200

    def until(self, condition: Any, message: str) -> None:
        eventually(
            condition, timeout_s=WAIT_S, interval_s=0.1, message=lambda: f"{message}\n{self.describe()}"
        )

    def describe(self) -> str:
        return "\n".join(f"{name}:\n{process.log()}" for name, process in self.running.items())

    def token(self, purpose: str, cluster: str, **more: str) -> str:
        with self._star.networks["alpha"].inside():
            wanted = {"purpose": purpose, "cluster": cluster, **more}
            return str(self.alpha.operator().ok("POST", "/v1/tokens", wanted)["token"])

    @property
    def member(self) -> Installation:
        return self.alpha

    def run_member(self, network: str, member: Installation) -> None:
        self._start(network, network, (*ISTHMUS, "controller", "run", "--config", member.config_path))
        self.until(lambda: self.ready(member, network), f"{network} is ready")

    def _start(self, name: str, network: str, command: Sequence[str | Path]) -> Process:
        inside = self._star.networks[network].command(command)
        self.running[name] = self._processes.start(name, inside, cwd=REPOSITORY)
        return self.running[name]

    def _address(self, agent: str) -> str:
        return f"10.214.9.{100 + list(AGENTS).index(agent)}"


@pytest.fixture
def world(tmp_path: Path, processes: ProcessSet) -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with star_of_networks(ADDRESSES) as star:
        world = World(tmp_path, star, processes)
        world.found()
        world.mirror("alpha", "beside")
        world.mirror("edge", "edge")
        for network, mirror in world.mirrors.items():
            world.until(
                lambda one=mirror, at=network: world.ready(one, at), f"the mirror in {network} is ready"
            )
        # Agents take with them whom they may register with.
        world.until(lambda: {"alpha-m1", "edge-m1"} <= world.controllers(), "both are announced")
        for name in AGENTS:
            world.enroll(name, "edge" if name in OF_EDGE else "alpha")
        world.give_lease("alpha", "alpha-m1")
        yield world


def test_a_controller_that_is_cut_off_makes_nothing_flap_and_a_remote_cluster_goes_on_by_a_foreign_one(
    world: World,
) -> None:
    for name in sorted(OF_ALPHA):
        world.register(name, "alpha")
    world.register("e-1", "edge")
    world.until(lambda: world.published("alpha") == OF_ALPHA, "alpha's endpoints are global")
    world.until(lambda: world.published("edge") == {"e-1"}, "edge's endpoint is global")
    for name in OF_ALPHA:
        world.until(lambda name=name: world.connected(name) == {"alpha-c1", "alpha-m1"}, f"{name} has both")
    world.until(lambda: world.connected("e-1") == {"alpha-c1", "alpha-m1", "edge-m1"}, "e-1 has its home too")

    everybody = [name for name in NETWORKS if name != "beside"]
    world.cut((["beside"], everybody), (["edge", "far"], ["alpha"]))
    # The mirror of alpha, which published for it, hears nobody; a lease passes for an agent that everybody else hears no more.
    world.until(lambda: world.live("beside") == 0, "the mirror that is cut off has lost all agents")
    world.running["gone"].kill()
    world.until(
        lambda: world.published("alpha") == {"a-1", "a-2"}, "who is not heard goes, by the next publisher"
    )
    assert "publish/alpha" in world.running["alpha"].log_path.read_text()
    assert world.seen("beside", "alpha") == OF_ALPHA
    assert world.seen("alpha", "alpha") == {"a-1", "a-2"}
    # Edge's mirror goes on by a controller of another cluster, and registers and resolves.
    world.until(lambda: world.follows("edge") == "beta-c1", "edge's mirror follows a foreign member")
    world.register("e-2", "edge")
    world.until(lambda: world.seen("edge", "edge") == OF_EDGE, "edge resolves what it registered")
    world.until(lambda: world.connected("e-1") == {"edge-m1"}, "e-1 has its mirror alone")
    assert "e-1" in world.seen("alpha", "edge")

    world.cut()
    world.until(lambda: world.follows("edge") == world.follows("beside") == "alpha-c1", "both are back")
    for name in ("a-1", "a-2"):
        world.until(lambda name=name: world.connected(name) == {"alpha-c1", "alpha-m1"}, f"{name} has both")
    for name in OF_EDGE:
        world.until(
            lambda name=name: world.connected(name) == {"alpha-c1", "alpha-m1", "edge-m1"}, f"{name} has all"
        )
    world.until(lambda: world.published("edge") == OF_EDGE, "what edge registered meanwhile is global")
    world.until(lambda: world.seen("beside", "alpha") == {"a-1", "a-2"}, "the mirror knows who is gone")
    for network, cluster in product(("alpha", "beside", "edge"), ("alpha", "edge")):
        expected = {"a-1", "a-2"} if cluster == "alpha" else OF_EDGE
        world.until(
            lambda at=network, of=cluster, them=expected: world.seen(at, of) == them,
            f"{network} sees all of {cluster}",
        )
    happened = [event for event in world.history() if event[1] != "changed"]
    created = [(name, "created") for name in OF_ALPHA | OF_EDGE]
    assert sorted(happened) == sorted([*created, ("gone", "removed")])

    a_member_without_a_majority_starts_again_with_what_it_was_told(world)


def a_member_without_a_majority_starts_again_with_what_it_was_told(world: World) -> None:
    world.running["beta"].kill()
    world.register("late", "alpha")
    world.until(lambda: world.seen("alpha", "alpha") == {"a-1", "a-2", "late"}, "what is local is served")
    world.until(lambda: b"late" in world.journal(), "and kept")
    # Nobody is left who could say it again.
    for name in ("a-1", "a-2", "late", "beside", "edge", "alpha"):
        world.running[name].kill()
    world.run_member("alpha", world.alpha)
    assert world.seen("alpha", "alpha") == {"a-1", "a-2", "late"}
    assert world.published("alpha") == {"a-1", "a-2"}

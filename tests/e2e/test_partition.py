"""Cluster alpha is cut off from the rest for 20 s: each side goes on and grows alone, then they become one again.

In network namespaces, so that frames vanish without a word, as on a broken link. Needs root.
"""

import os
import threading
from collections.abc import Iterator
from typing import Any, Self

import msgspec
import pytest

from chaos.lab.federation import Lab, now_s
from chaos.lab.namespaces import Namespaces
from chaos.lab.topology import routed_topology
from chaos.load.dns_watch import ask_dns
from chaos.load.records import Result
from chaos.scenarios.late_agent import prepare_late_agent, start_late_agent
from chaos.scenarios.stage import Stage
from federation.cli.output import EXIT_UNAVAILABLE
from federation.cli.session import Session
from tests.support.tools import tool
from tests.support.wait import eventually

PARTITION_S = 20.0
WAIT_S = 60.0
RATE_PER_S = 50.0
SIDES = ("alpha", "beta")
NEW_SERVICES = {"alpha": "invoices", "beta": "returns"}
# What has an instance on the side of alpha, and on the other.
SERVICES_OF_ALPHA = ("frontend", "catalogue")
SERVICES_OF_THE_REST = ("frontend", "catalogue", "orders", "payments")

POLICY = """
apiVersion: federation.isthmus.dev/v1alpha1
kind: ExportPolicy
metadata: {{name: made-in-{cluster}, namespace: shop, cluster: {cluster}}}
spec: {{services: [nothing]}}
"""

pytestmark = pytest.mark.timeout(240)


class Write(msgspec.Struct, frozen=True):
    status: int
    problem: str


class Seen(msgspec.Struct, kw_only=True):
    """What was observed; by cluster."""

    loads: dict[str, Result] = {}
    crossing: tuple[int, str] = (200, "")  # alpha calling, and asking DNS for, what is new on the other side.
    new_called: dict[str, str] = {}  # The instance that answered for the side's new service.
    writes: dict[str, Write] = {}
    raft: dict[str, dict[str, Any]] = {}
    before: dict[str, set[str]] = {}
    always: dict[str, set[str]] = {}  # Endpoints that every look found, from the cut to the end.
    after: dict[str, set[str]] = {}


class EndpointWatch:
    """Looks at the endpoints in a controller's catalog again and again, and keeps those that never vanished."""

    def __init__(self, lab: Lab, cluster: str) -> None:
        self._lab = lab
        self._cluster = cluster
        self._session = Session(str(lab.data_dir(cluster, "controller") / "operator"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks = 0
        self.always = self.look()

    def look(self) -> set[str]:
        with self._lab.place.inside(self._cluster):
            rows = self._session.get("/v1/endpoints")
        return {f"{row['cluster']}/{row['service']}/{row['name']}" for row in rows}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self.always &= self.look()
            self.looks += 1


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    clusters = routed_topology("10.77")
    directory = tmp_path_factory.mktemp("lab")
    with (
        Namespaces(clusters, ip=tool("ip"), nft=tool("nft")) as networks,
        Lab(clusters, directory, print, place=networks) as lab,
    ):
        lab.build()
        for side in SIDES:
            prepare_late_agent(lab, side)
        yield partition(lab, networks)


def partition(lab: Lab, networks: Namespaces) -> Seen:
    seen = Seen()
    with (
        EndpointWatch(lab, "alpha") as at_alpha,
        EndpointWatch(lab, "beta") as at_beta,
        side(lab, "alpha", ["alpha"], SERVICES_OF_ALPHA) as load_of_alpha,
        side(lab, "rest", ["beta", "gamma", "delta"], SERVICES_OF_THE_REST) as load_of_the_rest,
    ):
        watches = {"alpha": at_alpha, "beta": at_beta}
        loads = {"alpha": load_of_alpha, "rest": load_of_the_rest}
        seen.before = {cluster: watch.look() for cluster, watch in watches.items()}
        cut_s = load_of_alpha.event("alpha is cut off")
        networks.cut_off("alpha")
        grow_apart(lab, seen)
        eventually(lambda: now_s() > cut_s + PARTITION_S, timeout_s=2 * PARTITION_S, message="the time is up")
        healed_s = load_of_alpha.event("healed")
        networks.heal()
        wait_for_one_federation(lab)
        united_s = load_of_the_rest.event("each side calls the other's new service")
        wait_for_equal_endpoints(watches)
        seen.loads = {
            name: load.finish(fault_s=cut_s, restarted_s=healed_s, recovered_s=united_s)
            for name, load in loads.items()
        }
    seen.after = {cluster: watch.look() for cluster, watch in watches.items()}
    seen.always = {cluster: watch.always for cluster, watch in watches.items()}
    assert all(watch.looks > PARTITION_S for watch in watches.values())
    print(msgspec.json.encode(seen.loads).decode())
    return seen


def side(lab: Lab, name: str, callers: list[str], services: tuple[str, ...]) -> Stage:
    return Stage(lab, name, callers, print, services=services, rate_per_s=RATE_PER_S, steady_s=1.0)


def grow_apart(lab: Lab, seen: Seen) -> None:
    """While cut off: a new service on each side, a call to it, a write on each side."""
    for cluster, service in NEW_SERVICES.items():
        start_late_agent(lab, cluster, service)
    for cluster, service in NEW_SERVICES.items():
        eventually(
            lambda cluster=cluster, service=service: lab.call(cluster, service)[0] == 200,
            timeout_s=WAIT_S,
            message=f"{service} answers in {cluster}, alone",
        )
        seen.new_called[cluster] = lab.call(cluster, service)[1]["instance"]
        eventually(
            lambda cluster=cluster, service=service: not ask_dns(lab, cluster, service),
            timeout_s=WAIT_S,
            message=f"{service} is resolved in {cluster}, alone",
        )
    theirs = NEW_SERVICES["beta"]
    seen.crossing = (lab.call("alpha", theirs)[0], ask_dns(lab, "alpha", theirs))
    for cluster in reversed(SIDES):
        seen.writes[cluster] = write(lab, cluster)
        seen.raft[cluster] = lab.status(lab.clusters[cluster])["raft"]


def write(lab: Lab, cluster: str) -> Write:
    manifest = lab.directory / f"made-in-{cluster}.yaml"
    manifest.write_text(POLICY.format(cluster=cluster))
    status, _, problem = lab.ask_isthmus("apply", "-f", str(manifest), at=lab.clusters[cluster])
    return Write(status, problem)


def wait_for_one_federation(lab: Lab) -> None:
    for service in NEW_SERVICES.values():
        for cluster in lab.clusters:
            eventually(
                lambda cluster=cluster, service=service: (
                    lab.call(cluster, service)[0] == 200 and not ask_dns(lab, cluster, service)
                ),
                timeout_s=WAIT_S,
                message=f"{service} is called and resolved in {cluster}",
            )


def wait_for_equal_endpoints(watches: dict[str, EndpointWatch]) -> None:
    eventually(
        lambda: watches["alpha"].look() == watches["beta"].look(),
        timeout_s=WAIT_S,
        message="both controllers hold the same endpoints",
    )


def test_no_request_within_a_side_fails(seen: Seen) -> None:
    assert {name: load.failed for name, load in seen.loads.items()} == {"alpha": 0, "rest": 0}
    assert all(load.valid for load in seen.loads.values())


@pytest.mark.parametrize("cluster", SIDES)
def test_a_service_registered_during_the_partition_is_called_on_its_side(seen: Seen, cluster: str) -> None:
    assert seen.new_called[cluster] == f"{cluster}-late"


def test_the_other_side_is_out_of_reach_meanwhile(seen: Seen) -> None:
    status, problem = seen.crossing
    assert status != 200
    assert problem.startswith("NXDOMAIN")


def test_the_majority_has_a_leader_and_writes(seen: Seen) -> None:
    assert seen.raft["beta"]["leader"] in ("beta", "gamma")
    assert seen.writes["beta"].status == 0, seen.writes["beta"].problem


def test_the_minority_refuses_writes_and_says_why(seen: Seen) -> None:
    refused = seen.writes["alpha"]
    assert refused.status == EXIT_UNAVAILABLE, refused.problem
    assert refused.problem.startswith("isthmus: ")
    assert "Traceback" not in refused.problem
    assert seen.raft["alpha"]["role"] != "leader"


@pytest.mark.parametrize("cluster", SIDES)
def test_after_healing_nothing_is_missing_and_both_new_services_are_there(seen: Seen, cluster: str) -> None:
    new = {f"{owner}/{service}/{service}-{owner}-late" for owner, service in NEW_SERVICES.items()}
    assert seen.after[cluster] == seen.before[cluster] | new


@pytest.mark.parametrize("cluster", SIDES)
def test_no_endpoint_vanished_even_for_a_moment(seen: Seen, cluster: str) -> None:
    assert seen.before[cluster] - seen.always[cluster] == set()

"""The demo's disasters: what dies under load, and what has to hold meanwhile.

Each begins when the laboratory is whole (`chaos.lab.recovery`). Callers are in the clusters that survive, and every
service that they call has an instance in one of those.
"""

from chaos.faults.processes import killed, stopped
from chaos.lab.federation import Lab, Say, now_s
from chaos.lab.processes import wait_until
from chaos.lab.topology import ClusterPlan
from chaos.load.dns_watch import Check, DnsWatch
from chaos.load.records import Result
from chaos.scenarios.control_plane import control_plane_dies
from chaos.scenarios.restarts import start_cluster
from chaos.scenarios.stage import CHAIN_RATE_PER_S, Scenario, Stage

HOLD_S = 6.0  # Between a fault and the recovery: longer than every timeout and ejection on the way.
RECOVERY_TIMEOUT_S = 90.0


def local_instances_die(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """All instances of a service in one cluster die: everybody goes on at those of another cluster."""
    lab.wait_recovered()
    home, refuge = _homes(lab, "catalogue")
    victims = {f"{home.name}/app-{instance}-catalogue": instance for instance in home.instances("catalogue")}
    callers = _names(lab.serving())
    with _stage(lab, "local-instances-die", callers, say, seconds) as stage, DnsWatch(lab, callers) as watch:
        fault_s = stage.event(f"kill -9 of all {len(victims)} instances of catalogue in {home.name}")
        with killed(lab, victims):
            stage.hold(HOLD_S)
            connections = lab.gateway_connections(refuge.name, "catalogue")
            restarted_s = stage.event("starting them again")
        wait_until(
            lambda: lab.call(home.name, "catalogue")[1].get("cluster") == home.name,
            f"catalogue is answered in {home.name} by its own instances again",
            RECOVERY_TIMEOUT_S,
        )
        recovered_s = stage.event(f"catalogue is answered in {home.name} by its own instances again")
        result = stage.finish(
            fault_s=fault_s,
            victims=victims.values(),
            # The other services of these agents live on: only what catalogue's callers saw counts as its shift.
            services=["catalogue"],
            restarted_s=restarted_s,
            recovered_s=recovered_s,
        )
    moved = Check(
        name=f"calls of catalogue moved to {refuge.name}",
        passed=connections > 0,
        detail=f"{connections} connections through its gateway",
    )
    return result, [moved, watch.check("dns while instances die and return")]


def cluster_dies(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """A whole cluster, not the leader's, dies by kill -9 and comes back; callers and DNS in the others go on."""
    lab.wait_recovered()
    victim = _follower(lab)
    survivors = _others(lab, victim)
    with _stage(lab, "cluster-dies", survivors, say, seconds) as stage, DnsWatch(lab, survivors) as watch:
        result = _die_and_return(lab, stage, victim)
    return result, [watch.check(f"dns of the others while {victim} dies and returns")]


def leader_cluster_dies(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """The cluster whose controller leads the log dies by kill -9; the others elect another leader and go on."""
    lab.wait_recovered()
    victim = lab.leader()
    survivors = _others(lab, victim)
    with (
        _stage(lab, "leader-cluster-dies", survivors, say, seconds) as stage,
        DnsWatch(lab, survivors) as watch,
    ):
        result = _die_and_return(lab, stage, victim, leads=True)
    return result, [watch.check(f"dns of the others while {victim} dies and returns")]


def cluster_blackholed(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """A whole cluster freezes: its connections stay open and say nothing. Then it goes on where it was."""
    lab.wait_recovered()
    victim = _follower(lab)
    survivors = _others(lab, victim)
    processes = lab.of_cluster(victim)
    with (
        _stage(lab, "cluster-blackholed", survivors, say, seconds) as stage,
        DnsWatch(lab, survivors) as watch,
    ):
        fault_s = stage.event(
            f"SIGSTOP of all of cluster {victim}: {len(processes)} processes and their Envoys; nothing is closed"
        )
        with stopped(lab, [process.name for process in processes]):
            stage.hold(HOLD_S)
            restarted_s = stage.event(f"SIGCONT: cluster {victim} goes on")
        lab.wait_recovered()
        recovered_s = stage.event(f"{victim} is used as before: every sidecar finds every endpoint healthy")
        result = stage.finish(
            fault_s=fault_s,
            victims=_instances(lab, victim),
            restarted_s=restarted_s,
            recovered_s=recovered_s,
        )
    return result, [watch.check(f"dns of the others while {victim} is frozen")]


DISASTERS = (
    Scenario("local-instances-die", "All local instances of a service die", local_instances_die),
    Scenario("cluster-dies", "A whole cluster dies", cluster_dies),
    Scenario("leader-cluster-dies", "The leader's cluster dies", leader_cluster_dies),
    Scenario(
        "cluster-blackholed", "A cluster freezes: nothing is closed, nothing answers", cluster_blackholed
    ),
    Scenario("control-plane-dies", "Every controller dies", control_plane_dies),
)


def _die_and_return(lab: Lab, stage: Stage, victim: str, *, leads: bool = False) -> Result:
    processes = lab.of_cluster(victim)
    fault_s = stage.event(
        f"kill -9 of all of cluster {victim}{', which leads the log' if leads else ''}:"
        f" {len(processes)} processes and their Envoys"
    )
    with killed(lab, [process.name for process in processes]):
        if leads:
            wait_until(
                lambda: lab.leader() not in ("", victim),
                f"the others elect a leader in place of {victim}",
                RECOVERY_TIMEOUT_S,
            )
            stage.event(f"{lab.leader()} leads the log")
        stage.hold(max(0.0, fault_s + HOLD_S - now_s()))
        restarted_s = stage.event(f"starting cluster {victim} again")
        start_cluster(lab, victim)
    lab.wait_recovered()
    recovered_s = stage.event(f"{victim} is used as before: every sidecar finds every endpoint healthy")
    return stage.finish(
        fault_s=fault_s,
        victims=_instances(lab, victim),
        restarted_s=restarted_s,
        recovered_s=recovered_s,
    )


def _stage(lab: Lab, name: str, callers: list[str], say: Say, seconds: float) -> Stage:
    return Stage(lab, name, callers, say, chain_rate_per_s=CHAIN_RATE_PER_S, seconds=seconds)


def _homes(lab: Lab, service: str) -> tuple[ClusterPlan, ClusterPlan]:
    """The cluster that most callers of a service prefer, and that to which they go without it."""
    first, second = (cluster for cluster in lab.serving() if service in cluster.services)
    return first, second


def _follower(lab: Lab) -> str:
    """The first cluster with a controller that does not lead."""
    leader = lab.leader()
    return next(
        cluster.name for cluster in lab.clusters.values() if cluster.controller and cluster.name != leader
    )


def _others(lab: Lab, victim: str) -> list[str]:
    return [name for name in _names(lab.serving()) if name != victim]


def _names(clusters: list[ClusterPlan]) -> list[str]:
    return [cluster.name for cluster in clusters]


def _instances(lab: Lab, cluster: str) -> list[str]:
    return [agent.name for agent in lab.clusters[cluster].agents]

"""What happens to the way between clusters under load, and what has to hold meanwhile. Needs network namespaces.

Within a side nothing may fail: each caller calls what has an instance on its own side of every cut.
"""

from functools import partial

from chaos.faults.network import cut_off, flapping
from chaos.lab.federation import Lab, Say, now_s
from chaos.lab.processes import wait_until
from chaos.load.dns_watch import Check, ask_dns
from chaos.load.records import Result
from chaos.scenarios.late_agent import prepare_late_agent, start_late_agent
from chaos.scenarios.sides import (
    EndpointWatch,
    Raft,
    members,
    networks_of,
    raft_of,
    services_by_caller,
    terms,
)
from chaos.scenarios.stage import Stage
from federation.cli.output import EXIT_UNAVAILABLE

RATE_PER_S = 100.0  # Of all callers together.
# How long a fault holds at least; longer when the run is asked for more seconds.
PARTITION_S = 20.0
FLAPPING_S = 12.0
FLAP_UP_S = FLAP_DOWN_S = 1.0
TIMEOUT_S = 60.0
# A leader that is no longer heard costs one election; a split vote costs another term.
ELECTION_TERMS_MAX = 3
# Connections that control planes try across clusters, a second, repeated packets included: each process waits
# longer after each failure.
ATTEMPTS_PER_S_MAX = 20.0

CUT = "alpha"
NEW_SERVICES = {"alpha": "invoices", "beta": "returns"}  # One on each side.

_POLICY = """
apiVersion: federation.isthmus.dev/v1alpha1
kind: ExportPolicy
metadata: {{name: made-in-{cluster}, namespace: shop, cluster: {cluster}}}
spec: {{services: [nothing]}}
"""


def partition(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """One cluster is cut off from the rest: each side goes on and grows alone, then they become one again."""
    networks = networks_of(lab)
    for cluster in NEW_SERVICES:
        prepare_late_agent(lab, cluster)
    lab.wait_recovered()
    began = terms(lab)
    with EndpointWatch(lab) as endpoints, stage_of(lab, "partition", [CUT], say, seconds) as stage:
        attempts = networks.attempts()
        fault_s = stage.event(f"{CUT} is cut off from all others; nobody is told")
        with cut_off(networks, CUT):
            checks = _grow_apart(lab)
            stage.event("each side serves a new service of its own")
            stage.hold(max(0.0, fault_s + max(PARTITION_S, seconds) - now_s()))
            ended = terms(lab)
            leader = raft_of(lab, "beta").leader
            healed_s = stage.event("the link is whole again")
        _wait_called_everywhere(lab)
        united_s = stage.event("each side calls the other's new service")
        lab.wait_recovered()
        new = [f"{cluster}/{service}/{service}-{cluster}-late" for cluster, service in NEW_SERVICES.items()]
        checks += endpoints.checks(new)
        checks.append(_bounded(networks.attempts() - attempts, now_s() - fault_s))
        checks.append(_calm(began, ended, CUT))
        checks.append(_undisturbed(lab, ended, leader, CUT))
        result = stage.finish(fault_s=fault_s, restarted_s=healed_s, recovered_s=united_s)
    return result, checks


def flapping_link(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """The link of a cluster that does not lead goes down and up every second: nobody is elected, nobody storms."""
    networks = networks_of(lab)
    lab.wait_recovered()
    victim = next(name for name in members(lab) if name != lab.leader())
    began = terms(lab)
    with EndpointWatch(lab) as endpoints, stage_of(lab, "flapping-link", [victim], say, seconds) as stage:
        attempts = networks.attempts()
        fault_s = stage.event(
            f"the link of {victim} is down for {FLAP_DOWN_S:g} s, up for {FLAP_UP_S:g} s, and so on"
        )
        with flapping(networks, victim, FLAP_UP_S, FLAP_DOWN_S) as flaps:
            stage.hold(max(FLAPPING_S, seconds))
            healed_s = stage.event(f"the link stays up, after {flaps.count} interruptions")
        lab.wait_recovered()
        recovered_s = stage.event(f"{victim} is used as before")
        checks = endpoints.checks()
        checks.append(_bounded(networks.attempts() - attempts, now_s() - fault_s))
        result = stage.finish(fault_s=fault_s, restarted_s=healed_s, recovered_s=recovered_s)
    ended = terms(lab)
    return result, [
        *checks,
        Check(
            name="a flapping link elects nobody",
            passed=flaps.count > 1 and began == ended,
            detail=f"{flaps.count} interruptions, terms {began} before, {ended} after",
        ),
    ]


def stage_of(lab: Lab, name: str, alone: list[str], say: Say, seconds: float) -> Stage:
    """Return a stage whose callers call only what they can reach while those in `alone` are cut off in turn."""
    services = services_by_caller(lab, alone)
    return Stage(lab, name, list(services), say, services=services, rate_per_s=RATE_PER_S, seconds=seconds)


def _grow_apart(lab: Lab) -> list[Check]:
    """While cut off: a new service on each side, calls of it, a write on each side."""
    for cluster, service in NEW_SERVICES.items():
        start_late_agent(lab, cluster, service)
    checks = []
    for cluster, service in NEW_SERVICES.items():
        wait_until(
            partial(_served, lab, cluster, service),
            f"{service} is resolved and answers in {cluster}, alone",
            TIMEOUT_S,
        )
        instance = lab.call(cluster, service)[1].get("instance", "nobody")
        checks.append(
            Check(
                name=f"a service that is new in {cluster} is called on its side",
                passed=instance == f"{cluster}-late",
                detail=f"answered by {instance}",
            )
        )
    theirs = NEW_SERVICES["beta"]
    status, problem = lab.call(CUT, theirs)[0], ask_dns(lab, CUT, theirs)
    checks.append(
        Check(
            name="the other side is out of reach meanwhile",
            passed=status != 200 and problem.startswith("NXDOMAIN"),
            detail=f"{theirs} called in {CUT}: status {status}, dns: {problem}",
        )
    )
    return [*checks, *_writes(lab)]


def _writes(lab: Lab) -> list[Check]:
    majority_status, majority_problem = _write(lab, "beta")
    minority_status, minority_problem = _write(lab, CUT)
    majority, minority = raft_of(lab, "beta"), raft_of(lab, CUT)
    return [
        Check(
            name="the majority has a leader and writes",
            passed=majority.leader in set(members(lab)) - {CUT} and majority_status == 0,
            detail=f"leader {majority.leader}, exit status {majority_status} {majority_problem}",
        ),
        Check(
            name="the minority refuses writes and says why",
            passed=_refused(minority_status, minority_problem, minority),
            detail=f"role {minority.role}, exit status {minority_status}: {minority_problem}",
        ),
    ]


def _refused(status: int, problem: str, raft: Raft) -> bool:
    said = problem.startswith("isthmus: ") and "Traceback" not in problem
    return status == EXIT_UNAVAILABLE and said and raft.role != "leader"


def _write(lab: Lab, cluster: str) -> tuple[int, str]:
    manifest = lab.directory / f"made-in-{cluster}.yaml"
    manifest.write_text(_POLICY.format(cluster=cluster))
    status, _, problem = lab.ask_isthmus("apply", "-f", str(manifest), at=lab.clusters[cluster])
    return status, problem.strip()


def _served(lab: Lab, cluster: str, service: str) -> bool:
    return lab.call(cluster, service)[0] == 200 and not ask_dns(lab, cluster, service)


def _wait_called_everywhere(lab: Lab) -> None:
    for service in NEW_SERVICES.values():
        for cluster in lab.serving():
            wait_until(
                partial(_served, lab, cluster.name, service),
                f"{service} is resolved and answers in {cluster.name}",
                TIMEOUT_S,
            )


def _bounded(attempts: int, seconds: float) -> Check:
    per_s = attempts / seconds
    return Check(
        name="reconnects are bounded",
        passed=per_s <= ATTEMPTS_PER_S_MAX,
        detail=f"{per_s:.1f} connection attempts a second between control planes, at most {ATTEMPTS_PER_S_MAX:g}",
    )


def _calm(began: dict[str, int], ended: dict[str, int], alone: str) -> Check:
    """Who is alone asks before it campaigns (pre-vote), so its term stays; the others elect at most one leader."""
    grown = {name: ended[name] - began[name] for name in began}
    return Check(
        name="terms do not grow while cut",
        passed=grown[alone] == 0 and all(0 <= by <= ELECTION_TERMS_MAX for by in grown.values()),
        detail=f"terms {began} before, {ended} at the end of the cut",
    )


def _undisturbed(lab: Lab, ended: dict[str, int], leader: str | None, alone: str) -> Check:
    """Who returns follows the leader that it finds."""
    after = {name: raft_of(lab, name) for name in ended}
    newest = max(term for name, term in ended.items() if name != alone)
    return Check(
        name="healing elects nobody",
        passed={(one.leader, one.term) for one in after.values()} == {(leader, newest)},
        detail=f"leader {leader} in term {newest} before, "
        + ", ".join(f"{name}: {one.leader} in {one.term}" for name, one in after.items()),
    )

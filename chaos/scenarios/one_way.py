"""A link that carries packets in one direction only: first the leader is not heard, then it hears nobody, as a follower."""

from contextlib import ExitStack

from chaos.faults.network import one_way
from chaos.lab.federation import Lab, Say, now_s
from chaos.lab.namespaces import Namespaces
from chaos.lab.processes import wait_until
from chaos.load.dns_watch import Check
from chaos.load.records import Result
from chaos.scenarios.network import ELECTION_TERMS_MAX, TIMEOUT_S, stage_of
from chaos.scenarios.sides import EndpointWatch, members, networks_of, raft_of, terms
from chaos.scenarios.stage import Stage

HOLD_S = 8.0  # Of each half.


def one_way_partition(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """A leader that hears and is not heard loses its lead; as a follower that is heard and hears nobody it disturbs none."""
    networks = networks_of(lab)
    lab.wait_recovered()
    victim = lab.leader()
    with (
        EndpointWatch(lab) as endpoints,
        stage_of(lab, "one-way-partition", [victim], say, seconds) as stage,
    ):
        fault_s = now_s()
        checks = _leader_is_not_heard(lab, networks, stage, victim)
        lab.wait_recovered()
        checks += _follower_does_not_hear(lab, networks, stage, victim)
        healed_s = stage.event("every link carries packets both ways again")
        lab.wait_recovered()
        recovered_s = stage.event("every cluster is used as before")
        checks += endpoints.checks()
        result = stage.finish(fault_s=fault_s, restarted_s=healed_s, recovered_s=recovered_s)
    return result, checks


def _leader_is_not_heard(lab: Lab, networks: Namespaces, stage: Stage, mute: str) -> list[Check]:
    others = [name for name in members(lab) if name != mute]
    began = terms(lab)
    began_s = stage.event(
        f"nothing passes from {mute}, which leads the log, to the others; it still hears them"
    )
    with ExitStack() as faults:
        for other in (name for name in networks.clusters if name != mute):
            faults.enter_context(one_way(networks, mute, other))
        wait_until(
            lambda: _agreed_leader(lab, others) not in ("", mute),
            f"the others elect a leader in place of {mute}",
            TIMEOUT_S,
        )
        elected = _agreed_leader(lab, others)
        took_ms = (now_s() - began_s) * 1000
        stage.event(f"{elected} leads the log")
        wait_until(lambda: raft_of(lab, mute).role != "leader", f"{mute} leads no longer", TIMEOUT_S)
        stage.event(f"{mute} leads no longer")
        stage.hold(max(0.0, began_s + HOLD_S - now_s()))
        ended = terms(lab)
    grown = max(ended.values()) - max(began.values())
    return [
        Check(
            name="a leader that is not heard loses its lead",
            passed=elected in others,
            detail=f"{elected} leads after {took_ms:.0f} ms",
        ),
        Check(
            name="one election replaces it",
            passed=0 < grown <= ELECTION_TERMS_MAX,
            detail=f"terms {began} before, {ended} at the end of the cut",
        ),
    ]


def _follower_does_not_hear(lab: Lab, networks: Namespaces, stage: Stage, deaf: str) -> list[Check]:
    began, leader = terms(lab), lab.leader()
    stage.event(f"nothing passes to {deaf}, which follows {leader}; it is still heard")
    with ExitStack() as faults:
        for other in (name for name in networks.clusters if name != deaf):
            faults.enter_context(one_way(networks, other, deaf))
        stage.hold(HOLD_S)
        ended = terms(lab)
    lab.wait_recovered()
    after = {name: raft_of(lab, name) for name in members(lab)}
    return [
        Check(
            name="a follower that does not hear disturbs nobody",
            passed=began == ended
            and {(one.leader, one.term) for one in after.values()} == {(leader, max(began.values()))},
            detail=f"leader {leader}, terms {began} before, {ended} at the end of the cut; afterwards "
            + ", ".join(f"{name}: {one.leader} in {one.term}" for name, one in after.items()),
        )
    ]


def _agreed_leader(lab: Lab, clusters: list[str]) -> str:
    """The leader that all of these name, "" if they do not agree."""
    named = {raft_of(lab, name).leader or "" for name in clusters}
    return named.pop() if len(named) == 1 else ""

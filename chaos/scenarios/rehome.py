"""A remote cluster moves to another home under load, and serves on when the controller of its old one is gone."""

import json

import msgspec

from chaos.faults.processes import killed
from chaos.lab.envoys import admin_get, envoy_pid
from chaos.lab.federation import Lab, Say
from chaos.lab.processes import wait_until
from chaos.lab.recovery import facts_of
from chaos.load.dns_watch import Check, DnsWatch
from chaos.load.records import Result
from chaos.scenarios.stage import CHAIN_RATE_PER_S, Scenario, Stage

# delta alone has payments: nobody can serve in its place while it moves.
MOVER, OLD, NEW, CALLERS = "delta", "alpha", "beta", ("alpha", "beta", "gamma", "delta")
OFF_S = 2.0
TIMEOUT_S = 60.0


def rehome(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """Move a remote cluster to another home under load, then kill -9 the controller of the old one for a while."""
    lab.wait_recovered()
    before = _pids(lab)
    checks = [_not_without_leave(lab)]
    token = lab.create_token(lab.clusters[NEW], MOVER, "cluster")
    with (
        Stage(lab, "rehome", CALLERS, say, chain_rate_per_s=CHAIN_RATE_PER_S, seconds=seconds) as stage,
        DnsWatch(lab, list(CALLERS)) as watch,
    ):
        fault_s = stage.event(f"isthmus cluster rehome {MOVER} --to {NEW}")
        said = lab.isthmus(*_command(token), at=lab.clusters[OLD])
        stage.event(said.strip().splitlines()[-1])
        _note_home(lab)
        checks += [_identities(lab), _kept(lab, before)]
        lab.wait_recovered()
        stage.event(f"kill -9 of the controller of {OLD}, which was its home")
        with killed(lab, [f"{OLD}/controller"]):
            stage.hold(OFF_S)
            checks.append(_served_by_new_home(lab))
            restarted_s = stage.event(f"starting the controller of {OLD} again")
        lab.wait_recovered()
        recovered_s = stage.event("every controller is back")
        result = stage.finish(fault_s=fault_s, restarted_s=restarted_s, recovered_s=recovered_s)
    return result, [*checks, watch.check(f"dns while {MOVER} moves")]


REHOME = Scenario("rehome", "A remote cluster moves to another home while it serves", rehome)


def _command(token: str) -> tuple[str, ...]:
    return ("cluster", "rehome", MOVER, "--to", NEW, "--token", token, "--yes")


def _note_home(lab: Lab) -> None:
    """From now on the laboratory looks for it there."""
    plan, home = lab.clusters[MOVER], lab.clusters[NEW]
    lab.clusters[MOVER] = msgspec.structs.replace(plan, home=NEW, trust_domain=home.trust_domain)


def _not_without_leave(lab: Lab) -> Check:
    """The new home has to agree: a token of the old one is none of its own."""
    token = lab.create_token(lab.clusters[OLD], MOVER, "cluster")
    status, _, problem = lab.ask_isthmus(*_command(token), at=lab.clusters[OLD])
    return Check(
        name=f"{MOVER} does not move without the leave of {NEW}",
        passed=status != 0 and f"expected one of {NEW}" in problem,
        detail=f"exit status {status}: {problem.strip()[:200]}",
    )


def _proxies(lab: Lab) -> list[str]:
    return ["gateway", *(agent.name for agent in lab.clusters[MOVER].agents)]


def _pids(lab: Lab) -> dict[str, int]:
    """The processes of the cluster, and the Envoys that they run."""
    found = {process.name: process.pid for process in lab.of_cluster(MOVER)}
    return found | {f"envoy of {name}": envoy_pid(lab.data_dir(MOVER, name)) for name in _proxies(lab)}


def _kept(lab: Lab, before: dict[str, int]) -> Check:
    after = _pids(lab)
    other = sorted(name for name in before if before[name] != after.get(name))
    return Check(
        name=f"no process of {MOVER} was restarted",
        passed=not other and 0 not in before.values(),
        detail=f"restarted: {', '.join(other) or 'none'}, of {len(before)}",
    )


def _identities(lab: Lab) -> Check:
    """Every Envoy of the cluster shows its identity of the new home, and no other."""
    expected = f"spiffe://{lab.clusters[NEW].trust_domain}/"
    shown = {name: _shown(lab, name) for name in _proxies(lab)}
    return Check(
        name=f"{MOVER} shows identities of {lab.clusters[NEW].trust_domain}",
        passed=all(found and all(one.startswith(expected) for one in found) for found in shown.values()),
        detail="; ".join(f"{name}: {', '.join(sorted(found))}" for name, found in shown.items()),
    )


def _shown(lab: Lab, proxy: str) -> set[str]:
    answer = json.loads(admin_get(lab.data_dir(MOVER, proxy), "/certs"))
    return {
        name["uri"]
        for certificate in answer["certificates"]
        for one in certificate["cert_chain"][:1]
        for name in one["subject_alt_names"]
        if "uri" in name
    }


def _served_by_new_home(lab: Lab) -> Check:
    """Its agents are registered at the new home, while the old one has no controller at all."""
    expected = len(_proxies(lab))
    live = 0

    def registered() -> bool:
        nonlocal live
        live = facts_of(lab)[NEW].agents.get((MOVER, "live"), 0)
        return live >= expected

    wait_until(registered, f"{expected} agents of {MOVER} are live at {NEW}", TIMEOUT_S)
    return Check(
        name=f"{MOVER} is registered at {NEW} without the controller of {OLD}",
        passed=True,
        detail=f"{live} agents are live there",
    )

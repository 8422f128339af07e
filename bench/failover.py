"""What callers notice of a death, and for how long."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from bench.asking import readiness
from bench.records import SLOW_MS, Figure, Measured, Window, of_rounds, window
from bench.session import Session
from chaos.lab import topology
from chaos.lab.federation import Lab, now_s
from chaos.lab.processes import LabProcess, wait_until
from chaos.load.client import BEGUN
from chaos.load.records import Plan, Stream, Target
from chaos.scenarios.stage import read_log

TITLE = "Failover: what callers notice of a kill -9"
ROUNDS = 4  # A round takes 14 s: with more the whole suite would take longer than twelve minutes.
RATE_PER_S = 100.0
STEADY_S = 2.0  # Of load before each fault.
# The windows after the faults: longer than probes; longer than health checks and two ejections (3 s, then 6 s).
INSTANCE_S, GATEWAY_S = 5.0, 11.0
CALLER = "delta"
RECOVERY_TIMEOUT_S = 90.0
ANSWERS_IN_A_ROW = 20
_LOAD_S_MAX = 600.0
METHOD = f"""
The demo's federation under an open-loop load of {RATE_PER_S:g} GET requests per second from one sidecar of cluster
{CALLER}, whose sender never retries. {ROUNDS} rounds for each fault. A round: {STEADY_S:g} s of load, `kill -9`, some seconds of watching, then what died is
started again, until it answers {ANSWERS_IN_A_ROW} times in a row. Every request is in the log with its time, from
when it was due, and the number of tries that the answering application was told of. *Disturbed*: the time from the kill to
the end of the last request that was retried by Envoy, took longer than {SLOW_MS:g} ms, or failed; *retried*: of the
last one that was retried. 0: no such request. *Instance*: the application process of the only local instance of a
service that also lives in another cluster; its sidecar lives on, and its agent probes it each 500 ms and believes two failures in a row; watched for {INSTANCE_S:g} s. *Gateway*: the only gateway, with its Envoy, of the cluster that is nearest for a service that
also lives elsewhere; watched for {GATEWAY_S:g} s. *Cluster*: every process of that cluster at one moment: controller, gateway, DNS, agents, Envoys,
applications. The controller is that which {CALLER}, a remote cluster, has as its home; watched for {GATEWAY_S:g} s. What happens later is
not seen here.
"""


class Scenario(NamedTuple):
    """Who dies, and which services of whom the load calls."""

    name: str
    services: tuple[str, ...]
    hold_s: float
    home: str  # The cluster that answers them before the fault.
    victims: Callable[[Lab], Sequence[LabProcess]]


SCENARIOS = (
    Scenario(
        "instance", ("orders",), INSTANCE_S, CALLER, lambda lab: [lab.processes["delta/app-delta-1-orders"]]
    ),
    Scenario("gateway", ("catalogue",), GATEWAY_S, "alpha", lambda lab: [lab.processes["alpha/gateway"]]),
    Scenario("cluster", ("catalogue",), GATEWAY_S, "alpha", lambda lab: lab.of_cluster("alpha")),
)


def measure(session: Session) -> Measured:
    """Run every scenario."""
    lab = session.lab()
    figures: list[Figure] = []
    notes: list[str] = []
    for scenario in SCENARIOS:
        found, steady, led = _scenario(lab, scenario, session)
        figures += [
            of_rounds(f"{scenario.name}, disturbed", [one.disturbed_ms for one in found], "ms"),
            of_rounds(f"{scenario.name}, retried", [one.retried_ms for one in found], "ms"),
            of_rounds(f"{scenario.name}, requests retried", [one.retried for one in found], "requests"),
            of_rounds(f"{scenario.name}, slowest request", [one.worst_ms for one in found], "ms"),
            of_rounds(f"{scenario.name}, requests failed", [one.failed for one in found], "requests"),
        ]
        if scenario.name == "cluster":
            notes.append(f"cluster: it held the leader of the log in {led} of {ROUNDS} rounds.")
        notes.append(
            f"{scenario.name}: {sum(one.requests for one in found)} requests in the windows; in the {STEADY_S:g} s before the"
            f" faults the slowest of {sum(one.requests for one in steady)} took"
            f" {max(one.worst_ms for one in steady):.0f} ms, and {sum(one.retried for one in steady)} were retried."
        )
    return Measured(figures=tuple(figures), notes=tuple(notes))


def _scenario(lab: Lab, scenario: Scenario, session: Session) -> tuple[list[Window], list[Window], int]:
    """Return the windows after the faults, those before them, and how often the home led the log."""
    plan = lab.directory / f"failover-{scenario.name}.json"
    log, sent, live = (
        lab.directory / f"failover-{scenario.name}.{kind}" for kind in ("jsonl", "sent.json", "live.json")
    )
    plan.write_bytes(msgspec.json.encode(_plan(lab, scenario)))
    command = [sys.executable, "-m", "chaos.load.client", *map(str, (plan, log, sent, live))]
    _wait_home(lab, scenario)
    load = lab.run(f"load/failover-{scenario.name}", CALLER, command)
    faults, led = [], 0
    try:
        wait_until(lambda: load.logged(BEGUN), "the load begins", RECOVERY_TIMEOUT_S)
        for number in range(ROUNDS):
            session.say(f"failover: {scenario.name}, round {number + 1} of {ROUNDS}")
            led += _leader(lab) == scenario.home
            faults.append(_round(lab, scenario))
        load.terminate()
    finally:
        load.kill()
    samples = list(read_log(log))
    return (
        [window(samples, fault_s, fault_s + scenario.hold_s) for fault_s in faults],
        [window(samples, fault_s - STEADY_S, fault_s - SLOW_MS / 1000) for fault_s in faults],
        led,
    )


def _round(lab: Lab, scenario: Scenario) -> float:
    """Return when the victims were killed."""
    victims = scenario.victims(lab)
    time.sleep(STEADY_S)
    fault_s = now_s()
    for victim in victims:  # All at one moment; `kill` waits for each.
        if victim.running():
            os.killpg(victim.pid, signal.SIGKILL)
    for victim in victims:
        victim.kill()
    time.sleep(max(0.0, fault_s + scenario.hold_s - now_s()))
    for victim in victims:
        victim.start()
    if scenario.name == "cluster":
        lab.wait_controller(lab.clusters[scenario.home])
    lab.wait_serving()
    _wait_home(lab, scenario)
    return fault_s


def _leader(lab: Lab) -> str:
    return readiness(lab.clusters["beta"].controller).leader


def _wait_home(lab: Lab, scenario: Scenario) -> None:
    """Wait until the scenario's services are answered from where they are before a fault, and from nowhere else."""
    for service in scenario.services:
        wait_until(
            lambda service=service: all(
                lab.call(CALLER, service)[1].get("cluster") == scenario.home for _ in range(ANSWERS_IN_A_ROW)
            ),
            f"{service} is answered by {scenario.home} in {CALLER}",
            RECOVERY_TIMEOUT_S,
        )


def _plan(lab: Lab, scenario: Scenario) -> Plan:
    address = lab.clusters[CALLER].agents[0].address
    targets = tuple(
        Target(
            caller=CALLER,
            service=service,
            url=f"http://{address}:{topology.OUTBOUND_PORT}/",
            host=topology.service_host(service),
        )
        for service in scenario.services
    )
    stream = Stream(kind="single", targets=targets, rate_per_s=RATE_PER_S)
    return Plan(caller=CALLER, streams=(stream,), seconds_max=_LOAD_S_MAX)

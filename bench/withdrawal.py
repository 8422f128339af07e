"""A cluster dies as a whole: until the others' DNS names it no more."""

import asyncio
import time

import dns.exception
import dns.message
import dns.query
import dns.rcode

from bench.asking import readiness
from bench.declarer import declaring
from bench.records import Figure, Measured, of_rounds
from bench.session import Session
from chaos.faults.processes import killed
from chaos.lab.federation import Lab
from chaos.lab.processes import LabError
from chaos.lab.topology import NAMESPACE

TITLE = "Cluster killed: until it is withdrawn from DNS"
# Each member once: a second death of a cluster within ten minutes is held for longer, as it is meant to be.
ROUNDS = {"gamma": "alpha", "beta": "gamma", "alpha": "beta"}  # Who dies, whose DNS process is asked.
TIMEOUT_S = 60.0
_POLL_S = 0.02
METHOD = f"""
In the demo's federation a cluster has an instance of a service that no other has, which its LossPolicy says to
withdraw. Every process of that cluster is killed with `kill -9` at one moment: controller, gateway, DNS, agents, Envoys,
applications. From then until the DNS process of another cluster, asked every {_POLL_S * 1000:g} ms, answers NXDOMAIN: the
others' gateways and controllers have missed it, two have said so, the log has the verdict, and DNS follows. Each of the
{len(ROUNDS)} members dies once. How far apart clusters are counts in practice (`raft.round_trip`); here they are not.
"""


def measure(session: Session) -> Measured:
    """Kill every member once."""
    lab = session.lab()
    took_ms, led = [], 0
    for victim, asked in ROUNDS.items():
        session.say(f"withdrawal: {victim}")
        led += readiness(lab.clusters[asked].controller).leader == victim
        took_ms.append(_round(lab, victim, asked) * 1000)
    figures: tuple[Figure, ...] = (of_rounds("killed until withdrawn from DNS", took_ms, "ms"),)
    return Measured(
        figures=figures, notes=(f"The killed cluster held the leader in {led} of {len(ROUNDS)} rounds.",)
    )


def _round(lab: Lab, victim: str, asked: str) -> float:
    """Return the seconds from the kill to NXDOMAIN."""
    service = f"only-{victim}"
    policy = lab.directory / f"{service}.yaml"
    policy.write_text(_loss_policy(victim, service))
    lab.isthmus("apply", "-f", str(policy), at=lab.clusters[victim])
    asyncio.run(_declare(lab, victim, service))  # Its lease outlasts this round by far.
    _until(lab, asked, service, "NOERROR")
    began_s = time.perf_counter()
    # Started again also when this section fails: the next ones measure the same federation.
    with killed(lab, [process.name for process in lab.of_cluster(victim)]):
        _until(lab, asked, service, "NXDOMAIN")
        took_s = time.perf_counter() - began_s
    lab.wait_recovered()
    return took_s


async def _declare(lab: Lab, cluster: str, service: str) -> None:
    async with declaring(lab, cluster) as declarer:
        await declarer.held(await declarer.put(declarer.endpoint(service, ready=True)))


def _until(lab: Lab, cluster: str, service: str, wanted: str) -> None:
    question = dns.message.make_query(f"{service}.{NAMESPACE}.svc.clusterset.local.", "A")
    plan, deadline_s = lab.clusters[cluster], time.monotonic() + TIMEOUT_S
    answer = ""
    while answer != wanted:
        if time.monotonic() > deadline_s:
            raise LabError(
                f"{service} is not {wanted} in {cluster}'s DNS within {TIMEOUT_S:g} s, but {answer}"
            )
        time.sleep(_POLL_S)
        try:
            answer = dns.rcode.to_text(
                dns.query.udp(question, plan.dns, timeout=1, port=plan.dns_port).rcode()
            )
        except (OSError, dns.exception.DNSException) as error:
            answer = repr(error)


def _loss_policy(cluster: str, service: str) -> str:
    return (
        "apiVersion: federation.isthmus.dev/v1alpha1\nkind: LossPolicy\n"
        f"metadata: {{name: {service}, namespace: {NAMESPACE}, cluster: {cluster}}}\n"
        f"spec: {{services: [{service}], onLoss: withdraw}}\n"
    )

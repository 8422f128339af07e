"""A cluster is drained to another whose release is bad: callers fail, the drain rolls itself back, and says why.

The usual load calls what both releases can do, so that none of it may fail. What the bad one fails at is called besides,
once a step is in force everywhere: in the assignments of callers' proxies, at the other cluster's gateway, and, by an
answer that stays, in DNS.
"""

import json
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from chaos.faults.releases import bad_release
from chaos.lab import topology
from chaos.lab.envoys import assigned_share
from chaos.lab.federation import Lab, Say
from chaos.lab.processes import LabError, wait_until
from chaos.load.dns_watch import Check, DnsWatch, resolve
from chaos.load.records import Result
from chaos.scenarios.stage import CHAIN_RATE_PER_S, Scenario, Stage

# Callers in delta use catalogue in alpha; gamma is the only other cluster that has it.
VICTIM, REFUGE, SERVICE, CALLER = "alpha", "gamma", "catalogue", "delta"
ASKED = "beta"  # Whose operator drains.
BROKEN, BROKEN_STATUS = "/offers", 500  # What the release in gamma fails at, and how.
PAUSE_S = 0.02  # Between two calls of it: enough of them for a rate, beside the load.
CALLS_IN_STEP, CALLS_AFTER = 20, 50
TIMEOUT_S = 90.0

_Said = tuple[int, str, str]  # Exit status, output, error output.


def failing_drain(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """Drain a cluster towards a bad release, and see the whole share come back by itself."""
    callers = [cluster.name for cluster in lab.serving()]
    with bad_release(lab, REFUGE, SERVICE, path=BROKEN):
        lab.wait_recovered()
        with (
            Stage(
                lab, "failing-drain", callers, say, chain_rate_per_s=CHAIN_RATE_PER_S, seconds=seconds
            ) as stage,
            DnsWatch(lab, callers) as watch,
            ThreadPoolExecutor(max_workers=1) as pool,
        ):
            resolved = resolve(lab, CALLER, SERVICE)
            fault_s = stage.event(f"isthmus cluster drain {VICTIM}")
            said = pool.submit(lab.ask_isthmus, "cluster", "drain", VICTIM, at=lab.clusters[ASKED])
            checks = [_in_step(lab, said, resolved)]
            stage.event(f"a step is in force; {CALLER} calls {SERVICE}{BROKEN}, which {REFUGE} fails at")
            with _Calls(lab) as calls:
                checks.append(_rolled_back(said.result()))
                ended_s = stage.event(f"the drain of {VICTIM} is rolled back")
                _wait_returned(lab, calls)
            checks.append(_failed_meanwhile(calls))
            recovered_s = stage.event(f"{SERVICE} is answered by {VICTIM} alone again")
            checks.append(_told(lab))
            lab.isthmus("cluster", "undrain", VICTIM, at=lab.clusters[ASKED])
            result = stage.finish(fault_s=fault_s, restarted_s=ended_s, recovered_s=recovered_s)
    lab.wait_recovered()
    return result, [*checks, watch.check(f"dns while {VICTIM} is drained and gets its traffic back")]


FAILING_DRAIN = Scenario(
    "failing-drain", "A cluster is drained to one that fails; the drain rolls itself back", failing_drain
)


class _Calls:
    """Calls of what the bad release fails at, one after the other, in a thread within a `with` block."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="offers", daemon=True)
        self.answered: Counter[tuple[int, str]] = (
            Counter()
        )  # By status and cluster; to be read when it is over.
        self.good = 0  # In a row, until now, of the drained cluster.

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            status, answer = self._lab.call(CALLER, SERVICE, path=BROKEN)
            cluster = str(answer.get("cluster", ""))
            self.answered[status, cluster] += 1
            self.good = self.good + 1 if (status, cluster) == (200, VICTIM) else 0


def _in_step(lab: Lab, drained: "Future[_Said]", resolved: tuple[str, ...]) -> Check:
    """Wait until a step of the drain is in force everywhere at once.

    Connections through the other gateway may be old ones, of another scenario: who answers says that they are used.
    """
    name = f"assignments, gateways and dns of {CALLER} follow a step of the drain"
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        share, assigned = _drain(lab).get("sharePercent", 100), _assigned(lab)
        answering = Counter(str(lab.call(CALLER, SERVICE)[1].get("cluster")) for _ in range(CALLS_IN_STEP))
        connections = lab.gateway_connections(REFUGE, SERVICE)
        now = resolve(lab, CALLER, SERVICE)
        detail = (
            f"share {share}%, assigned {assigned}%, {answering[REFUGE]} of {CALLS_IN_STEP} answered by {REFUGE},"
            f" {connections} connections through its gateway, dns {', '.join(now)}"
        )
        if share == assigned < 100 and answering[REFUGE] and connections:
            return Check(name=name, passed=now == resolved != (), detail=detail)
        if drained.done() or time.monotonic() > deadline_s:
            raise LabError(f"no step of the drain came into force: {detail}")


def _assigned(lab: Lab) -> int:
    agent = lab.clusters[CALLER].agents[0]
    return assigned_share(
        lab.data_dir(CALLER, agent.name),
        f"outbound|{topology.SERVICE_PORT}||{SERVICE}.{topology.NAMESPACE}.svc.clusterset.local|{VICTIM}",
    )


def _drain(lab: Lab) -> dict[str, Any]:
    """The drain as `isthmus cluster list` tells of it; empty before it has begun."""
    (found,) = (
        one
        for one in json.loads(lab.isthmus("cluster", "list", "-o", "json", at=lab.clusters[ASKED]))
        if one["name"] == VICTIM
    )
    drain: dict[str, Any] = found["drain"] or {}
    return drain


def _rolled_back(said: _Said) -> Check:
    status, _, problem = said
    last = problem.strip().splitlines()[-1] if problem.strip() else ""
    return Check(
        name="the command says whose callers saw what fail, how often, and exits with 1",
        passed=status == 1
        and f"rolled back: for callers in cluster {CALLER} too many requests fail: " in last
        and f"{topology.NAMESPACE}/{SERVICE}:{topology.SERVICE_PORT} " in last
        and "% of " in last,
        detail=f"exit status {status}: {last}",
    )


def _wait_returned(lab: Lab, calls: _Calls) -> None:
    wait_until(
        lambda: calls.good >= CALLS_AFTER and _assigned(lab) == 100,
        f"{SERVICE}{BROKEN} is answered by {VICTIM} again",
        TIMEOUT_S,
    )


def _failed_meanwhile(calls: _Calls) -> Check:
    failed = sum(count for (status, _), count in calls.answered.items() if status == BROKEN_STATUS)
    return Check(
        name=f"callers fail under the drain, and {CALLS_AFTER} times in a row not after it",
        passed=failed > 0,
        detail=f"{failed} of {calls.answered.total()} failed",
    )


def _told(lab: Lab) -> Check:
    """Whoever asks later is told as well."""
    reason = f"for callers in cluster {CALLER} too many requests fail"
    at = lab.clusters[ASKED]
    status = lab.isthmus("cluster", "status", VICTIM, at=at).splitlines()
    history = lab.isthmus("history", f"Drain/{VICTIM}", at=at).splitlines()
    told = [line for line in status if line.startswith(f"its drain was rolled back: {reason}")]
    kept = [line for line in history if reason in line]
    return Check(
        name="status and history tell why the drain was rolled back",
        passed=bool(told and kept),
        detail="; ".join(" ".join(line.split()) for line in (told or status) + (kept or history)),
    )

"""From a declaration of an agent to the first request that an Envoy routes by it."""

import asyncio
import random
import time

from bench.asking import readiness
from bench.declarer import Declarer, declaring
from bench.polling import PERIOD_S, Poller, Seen
from bench.records import Measured, of_samples, quantile
from bench.session import Session
from chaos.lab.federation import Lab

TITLE = "Endpoint changes: declared until routed"
CHANGES = 150  # Of each kind. A p99 is then the second largest.
WARM_UP = 10
OWNER = "alpha"
ELSEWHERE = "delta"
CALLERS = {"same cluster": "alpha", "another cluster": "beta"}
PAUSE_S = (0.02, 0.06)  # Between changes, random: nothing shall keep step with a timer of the product.

METHOD = f"""
The federation of the demo: three members, four clusters, one Envoy for each agent and gateway. An enrolled agent of
cluster {OWNER} declares an endpoint on its registration stream; the clock starts when the message is handed to gRPC, and
stops when a request through a sidecar has been answered by the application. *Readiness*: a service known everywhere, whose
nearest endpoint turns ready; until then {ELSEWHERE} answers. *New service*: a service nobody knew, ready at once, which needs new clusters and routes in
every Envoy. To another cluster the way is: controller, quorum of the log, the other controller, its sidecar; and
{OWNER}'s gateway, which has to know the service too. A request is sent each {PERIOD_S * 1000:g} ms on a kept connection, one
at a time, from one sidecar at a time; the four kinds of change take turns, {CHANGES} of each. A figure includes that polling: it may be late
by one gap between requests, and includes the answered request itself.
"""


def measure(session: Session) -> Measured:
    """Run all changes."""
    lab = session.lab()
    leader = readiness(lab.clusters[OWNER].controller).leader
    seen = asyncio.run(_measure(lab, session))
    figures = [
        figure
        for (kind, caller), found in seen.items()
        for figure in of_samples(f"{kind}, {caller}", [one.took_ms for one in found], "ms")
    ]
    everything = [one for found in seen.values() for one in found]
    gaps = [one.gap_ms for one in everything]
    requests = [one.request_ms for one in everything]
    return Measured(
        figures=tuple(figures),
        notes=(
            (
                f"Resolution: {quantile(gaps, 0.5):.1f} ms between requests (p99 {quantile(gaps, 0.99):.1f}); the answered request"
                f" itself took {quantile(requests, 0.5):.1f} ms (p99 {quantile(requests, 0.99):.1f})."
            ),
            f"The leader of the log was {leader}; the agent registered in {OWNER}.",
        ),
    )


async def _measure(lab: Lab, session: Session) -> dict[tuple[str, str], list[Seen]]:
    seen: dict[tuple[str, str], list[Seen]] = {
        (kind, caller): [] for kind in ("readiness", "new service") for caller in CALLERS
    }
    async with declaring(lab, OWNER) as declarer, declaring(lab, ELSEWHERE) as elsewhere:
        pollers = {
            caller: await Poller.open(lab.clusters[cluster].agents[0].address)
            for caller, cluster in CALLERS.items()
        }
        for number in range(WARM_UP + CHANGES):
            if number % 50 == WARM_UP:
                session.say(f"propagation: change {number - WARM_UP} of {CHANGES}, each in four kinds")
            for position, (kind, caller) in enumerate(seen):
                service = f"bench-{number}-{position}"
                one = await _change(declarer, elsewhere, pollers[caller], service, kind)
                if number >= WARM_UP:
                    seen[kind, caller].append(one)
        for poller in pollers.values():
            poller.close()
    return seen


async def _change(declarer: Declarer, elsewhere: Declarer, poller: Poller, service: str, kind: str) -> Seen:
    if kind == "readiness":
        await declarer.held(await declarer.put(declarer.endpoint(service, ready=False)))
        await elsewhere.held(await elsewhere.put(elsewhere.endpoint(service, ready=True)))
        # The caller's Envoy knows both owners, and that the nearer one does not serve.
        await poller.until(service, ELSEWHERE, start_s=time.perf_counter())
        await _pause()
    endpoint = declarer.endpoint(service, ready=True)
    start_s = time.perf_counter()
    await declarer.put(endpoint)
    seen = await poller.until(service, OWNER, start_s=start_s)
    await declarer.held(await declarer.remove(service))
    if kind == "readiness":
        await elsewhere.held(await elsewhere.remove(service))
    await _pause()
    return seen


async def _pause() -> None:
    await asyncio.sleep(random.uniform(*PAUSE_S))

"""A gateway's eyes on the gateways of other clusters: whom its controllers name, asked about once a second.

The same probe and the same patience as a controller's own observer (`discovery.core.opinion`). What is said is only
what has turned; it is the controllers that make an opinion of their cluster of it.
"""

import asyncio
import random
from collections.abc import Callable, Mapping

import msgspec
import structlog

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from discovery.core.opinion import Opinion
from discovery.core.view import Gateway
from federation.agent.directory import DirectoryStore
from federation.agent.gateway_probe import GatewaysProbe
from federation.agent.strain import Strain
from federation.api.gateway_eyes import GATEWAYS_NAMED_MAX
from federation.api.messages import ProbeTarget, ProbeTargets, Sightings
from federation.kernel.limits import CLUSTERS_MAX

INTERVAL_S = 1.0
# What has just failed is asked again sooner: what is lost should be known within seconds.
SUSPECT_INTERVAL_S = 0.5
JITTER = 0.1
PROBES_AT_ONCE_MAX = 64
TIMEOUT_MS_MIN, TIMEOUT_MS_MAX = 100, 10_000

_log = structlog.get_logger("gateway-watch")


class GatewayWatch:
    """Watches for one gateway process; `run` ends only by cancellation."""

    def __init__(self, directory: DirectoryStore, *, clock: Callable[[], float]) -> None:
        self.on_turn: Callable[[], None] = _nothing  # Called when an opinion has turned.
        self._directory = directory
        self._verifier = Verifier(directory.bundles, clock=utc_now)
        self._clock = clock
        self._named: dict[str, dict[str, ProbeTarget]] = {}  # By controller and cluster.
        self._opinions: dict[str, Opinion] = {}  # Of each cluster that is watched.
        self._strain = Strain(clock)
        self._at_once = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
        self._news = asyncio.Event()

    def aim(self, controller: str, message: ProbeTargets) -> None:
        """Take whom a controller names; clusters beyond CLUSTERS_MAX, and gateways beyond GATEWAYS_NAMED_MAX, are left out."""
        named = {} if message.whole else self._named.get(controller, {})
        for target in message.targets:
            if target.gateways and (target.cluster in named or len(named) < CLUSTERS_MAX):
                gateways = target.gateways[:GATEWAYS_NAMED_MAX]
                named[target.cluster] = msgspec.structs.replace(target, gateways=gateways)
            else:
                named.pop(target.cluster, None)
        self._named[controller] = named
        self._news.set()

    def forget(self, controller: str) -> None:
        """The controller is gone for good: what it named counts no more."""
        self._named.pop(controller, None)
        self._news.set()

    def named_by(self, controller: str) -> frozenset[str]:
        """The clusters at whose gateways a controller wants us to look."""
        return frozenset(self._named.get(controller, ()))

    def seen(self) -> Mapping[str, bool]:
        """Whether the gateways of each cluster answer, as far as that is known by now."""
        return {
            cluster: opinion.sight == "heard"
            for cluster, opinion in self._opinions.items()
            if opinion.sight in ("heard", "lost")
        }

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for cluster in self._clusters() - self._opinions.keys():
                    self._opinions[cluster] = Opinion()
                    tasks.create_task(self._watch(cluster), name=f"watch/{cluster}")
                self._news.clear()
                await self._news.wait()

    def _clusters(self) -> set[str]:
        return set().union(*self._named.values())

    def _target(self, cluster: str) -> ProbeTarget | None:
        """What all controllers together name of a cluster: whichever of its gateways answers, it lives."""
        found = [named[cluster] for named in self._named.values() if cluster in named]
        if not found:
            return None
        gateways = dict.fromkeys(gateway for target in found for gateway in target.gateways)
        return ProbeTarget(
            cluster=cluster,
            trust_domain=found[0].trust_domain,
            other_trust_domain=found[0].other_trust_domain,
            gateways=tuple(gateways),
            timeout_ms=max(target.timeout_ms for target in found),
        )

    async def _watch(self, cluster: str) -> None:
        probe = GatewaysProbe(cluster, verifier=self._verifier)
        await asyncio.sleep(INTERVAL_S * random.random())  # noqa: S311 - not all clusters at one moment
        try:
            while (target := self._target(cluster)) is not None:
                due_s = self._clock()
                await self._look(target, probe)
                interval_s = SUSPECT_INTERVAL_S if self._opinions[cluster].contradictions else INTERVAL_S
                pause_s = interval_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter
                await self._strain.sleep(max(0.0, due_s + pause_s - self._clock()))
        finally:
            del self._opinions[cluster]
            probe.close()
            self._news.set()  # It may have been named again meanwhile.
            self.on_turn()

    async def _look(self, target: ProbeTarget, probe: GatewaysProbe) -> None:
        known = self._directory.bundles()
        domains = (target.trust_domain, target.other_trust_domain)
        bundles = {name: known[name] for name in domains if name in known}
        if not bundles:
            return  # Nobody could check who answers.
        gateways = tuple(
            Gateway(name=name, address=address, port=port, identity="", ready=True)
            for name, address, port in target.gateways
        )
        timeout_s = min(max(target.timeout_ms, TIMEOUT_MS_MIN), TIMEOUT_MS_MAX) / 1000
        async with self._at_once:
            began_s = self._clock()
            answered = await probe.ask(gateways, bundles, timeout_s=timeout_s)
        self._strain.note(self._clock() - began_s - timeout_s)
        before = self._opinions[target.cluster]
        after = before.after(answered, now_ms=int(self._clock() * 1000), strain=self._strain.value)
        self._opinions[target.cluster] = after
        if after.sight != before.sight:
            _log.info("sight_changed", cluster=target.cluster, data=after.sight)
            self.on_turn()


def sightings(said: dict[str, bool], seen: Mapping[str, bool]) -> tuple[Sightings | None, dict[str, bool]]:
    """Return what is to be said after `said`, None for nothing, and what is said then."""
    turned = {cluster: heard for cluster, heard in seen.items() if said.get(cluster) is not heard}
    over = tuple(sorted(said.keys() - seen.keys()))
    if not turned and not over:
        return None, said
    message = Sightings(
        heard=tuple(sorted(cluster for cluster, heard in turned.items() if heard)),
        lost=tuple(sorted(cluster for cluster, heard in turned.items() if not heard)),
        unseen=over,
    )
    return message, dict(seen)


def _nothing() -> None:
    """Nobody listens yet."""

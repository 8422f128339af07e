"""Addresses outside of all clusters: what declares and checks them is the product's, what they answer is simulated.

Two clusters declare services, several check them. Addresses die and return, a checker loses its way to some or all of them,
with or without its way to other clusters, or says that it misses what it does not. Everything is drawn from a generator of
its own.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from discovery.core.commands import Command, Operation, Put, Write, encode_command
from discovery.core.external import KIND, observation_key, read_status
from discovery.core.kinds import decode_spec
from discovery.core.model import Resource, ResourceKey
from discovery.core.specs import (
    ExportPolicySpec,
    ExternalCheck,
    ExternalObservationSpec,
    ExternalPort,
    ExternalServiceSpec,
)
from discovery.core.tables import Tables
from federation.app.external_checker import ExternalChecker
from tests.simulation.federation.agents import NAMESPACE
from tests.simulation.federation.plan import CLUSTERS

if TYPE_CHECKING:
    from tests.simulation.federation.controllers import SimController
    from tests.simulation.federation.world import World

CALM_S = 1.5  # Between two faults, on average.
FAR_S = 0.03  # Until an address answers.
DECLARED: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "beta": ("payments", ("203.0.113.1", "203.0.113.2", "203.0.113.3"), CLUSTERS[:3]),
    "epsilon": ("mainframe", ("198.51.100.1", "198.51.100.2"), CLUSTERS),
}
ADDRESSES = tuple(address for _, addresses, _ in DECLARED.values() for address in addresses)
_CHECK = ExternalCheck(interval="1s", timeout="500ms", failures=2, successes=1)


def declarations(cluster: str) -> list[Operation]:
    """What a cluster declares outside, and shows to all."""
    if cluster not in DECLARED:
        return []
    name, addresses, checked_from = DECLARED[cluster]
    spec = ExternalServiceSpec(
        addresses=addresses,
        ports=(ExternalPort(name="http", port=80),),
        checked_from=checked_from,
        check=_CHECK,
    )
    return [
        Put(key=service_key(cluster), spec=msgspec.json.encode(spec)),
        Put(
            key=ResourceKey(cluster, "ExportPolicy", NAMESPACE, "outside"),
            spec=msgspec.json.encode(ExportPolicySpec(services=(name,))),
        ),
    ]


def service_key(cluster: str) -> ResourceKey:
    """What a cluster declares."""
    return ResourceKey(cluster, KIND, NAMESPACE, DECLARED[cluster][0])


class SimChecker(ExternalChecker):
    """The product's checker; only that an address answers is simulated."""

    reaches: Callable[[str], bool]

    async def _ask(self, address: str, spec: ExternalServiceSpec, session: aiohttp.ClientSession) -> str:
        await asyncio.sleep(FAR_S)
        return "" if self.reaches(address) else f"{address}: no answer"


class Outside:
    """What is true of the addresses, and the faults."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.log: list[str] = []
        self.dead: set[str] = set()
        self._no_way: set[tuple[str, str]] = set()  # Cluster and address.
        self._world = world
        self._rng = rng
        self._said = 0

    def checker(self, controller: "SimController") -> SimChecker:
        """Return the eyes of one controller."""
        found = SimChecker(
            controller.cluster,
            catalog=controller.catalog,
            engine=SimpleNamespace(status=self._status),  # type: ignore[arg-type] # what is asked of an engine
            proposer=controller.proposer,
            is_cut_off=controller.is_cut_off,
            clock=controller.now_s,
        )
        found.reaches = lambda address: self.answers(controller.cluster, address)
        return found

    def answers(self, cluster: str, address: str) -> bool:
        """True when an address answers a cluster."""
        return address not in self.dead and (cluster, address) not in self._no_way

    def _status(self) -> SimpleNamespace:
        return SimpleNamespace(leader=self._world.agreed.leader())

    # -- faults ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do one after the other."""
        faults = [self.die, self.die, self.lose_the_way, self.lose_all_ways, self.go_dark, self.lie]
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / CALM_S))
            fault = self._rng.choice(faults)
            self.log.append(f"{self._world.loop.now_s:7.3f} outside_{fault.__name__} {fault()}")

    def end(self) -> None:
        """Everybody finds the way again; of each service one address may stay dead."""
        self._no_way.clear()
        self.dead = {
            self._rng.choice(addresses) for _, addresses, _ in DECLARED.values() if self._rng.random() < 0.5
        }

    def die(self) -> str:
        """An address dies, and returns."""
        address = self._rng.choice(ADDRESSES)
        self.dead.add(address)
        self._world.loop.call_later(self._lasts_s(), self.dead.discard, address)
        return address

    def lose_the_way(self) -> str:
        """One cluster does not reach one address."""
        return self._lose(self._rng.choice(CLUSTERS), (self._rng.choice(ADDRESSES),))

    def lose_all_ways(self) -> str:
        """One cluster reaches nothing outside."""
        return self._lose(self._rng.choice(CLUSTERS), ADDRESSES)

    def go_dark(self) -> str:
        """One cluster reaches nothing at all."""
        cluster, net = self._rng.choice(CLUSTERS), self._world.net
        pairs = [
            pair for other in CLUSTERS if other != cluster for pair in ((cluster, other), (other, cluster))
        ]
        net.begin_cut(pairs)
        net.loop.call_later(self._lasts_s(), net.heal, pairs)
        return self._lose(cluster, ADDRESSES)

    def lie(self) -> str:
        """A cluster says that it misses what it does not."""
        owner, cluster = self._rng.choice(sorted(DECLARED)), self._rng.choice(CLUSTERS)
        _, addresses, _ = DECLARED[owner]
        missed = tuple(sorted(self._rng.sample(addresses, self._rng.randint(1, len(addresses)))))
        spec = msgspec.json.encode(ExternalObservationSpec(missed=missed))
        self._said += 1
        body = Write(operations=(Put(key=observation_key(cluster, service_key(owner)), spec=spec),))
        if self._world.agreed.leader() is not None:
            command = Command(request_id=f"lie-{self._said}", proposer=cluster, body=body)
            self._world.agreed.append(encode_command(command))
        return f"{cluster} {' '.join(missed)}"

    def _lose(self, cluster: str, addresses: tuple[str, ...]) -> str:
        lost = {(cluster, address) for address in addresses}
        self._no_way |= lost
        self._world.loop.call_later(self._lasts_s(), self._no_way.difference_update, lost)
        return f"{cluster} {' '.join(addresses)}"

    def _lasts_s(self) -> float:
        return self._rng.choice([1.0, 4.0, 7.0]) * self._rng.uniform(0.5, 1.0)

    # -- looking -----------------------------------------------------------------------------------

    def difference(self, tables: Tables) -> str:
        """Return what is held unlike it is once everybody sees it, "" when nothing is."""
        for owner in DECLARED:
            row = tables.resource(service_key(owner))
            if row is None:
                continue  # Removed with its cluster.
            voters = [name for name in DECLARED[owner][2] if checks(tables, name)]
            for one in read_status(row).addresses:
                expected = {"ok"}
                if one.address in self.dead and voters:
                    # Damping holds what was lost before.
                    expected = (
                        {"unhealthy"} if len(voters) > 1 and one.held_lease_ms is None else {"degraded"}
                    )
                if one.state not in expected:
                    return f"{one.address} is {one.state}, missed by {one.missed_by}: expected {expected}"
        return ""


def checks(tables: Tables, cluster: str) -> bool:
    """True for a cluster that has joined and has controllers, and whose member was not removed."""
    spec, member = tables.cluster(cluster), tables.resource(ResourceKey("", "Member", "", cluster))
    is_removed = member is not None and msgspec.json.decode(member.spec).get("standing") == "removed"
    return spec is not None and spec.role != "remote" and not is_removed


def wrongly_held(tables: Tables) -> Iterator[str]:
    """Yield what is held of an address without the evidence for it: two that count, or one; nobody who misses most others."""
    for owner in DECLARED:
        row = tables.resource(service_key(owner))
        if row is None or tables.cluster(owner) is None:
            continue
        missed = dict.fromkeys(ADDRESSES, 0)
        for checker in DECLARED[owner][2]:
            seen = tables.resource(observation_key(checker, row.key))
            if seen is None or not checks(tables, checker) or misses_most(tables, checker):
                continue
            spec = decode_spec("ExternalObservation", seen.spec, where=str(seen.key))
            assert isinstance(spec, ExternalObservationSpec)
            for address in spec.missed:
                missed[address] += 1
        for one in read_status(row).addresses:
            least = {"ok": 0, "degraded": 1, "unhealthy": 2}[one.state]
            if missed[one.address] < least:
                yield f"{one.address} is {one.state}, missed by {missed[one.address]} that count"


def unhealthy(row: Resource) -> int:
    """How many addresses of an external service are held to be so."""
    return 0 if row.key.kind != KIND else sum(one.state == "unhealthy" for one in read_status(row).addresses)


def misses_most(tables: Tables, observer: str) -> bool:
    """True for a cluster that says it misses more than half of all others, two at least, in one plane."""
    others = [name for name in CLUSTERS if name != observer and tables.cluster(name) is not None]
    for plane in ("controlLost", "dataLost"):
        rows = [tables.resource(ResourceKey(observer, "Observation", "", name)) for name in others]
        lost = sum(row is not None and bool(msgspec.json.decode(row.spec).get(plane)) for row in rows)
        if lost >= 2 and 2 * lost > len(others):
            return True
    return False

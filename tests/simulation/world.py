"""One run: members, net, callers and faults on one virtual clock, all drawn from one seed."""

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

import pysyncobj.syncobj
import structlog
from msgspec import Struct

from consensus.core.timing import Timing
from federation.kernel.errors import IsthmusError
from tests.simulation.checks import Checks, ViolationError
from tests.simulation.clients import Clients
from tests.simulation.history import Operation
from tests.simulation.linearizable import by_key, check_versions, search
from tests.simulation.machine import founding
from tests.simulation.member import Parts, Shared, SimMember
from tests.simulation.nemesis import Nemesis, addresses
from tests.simulation.net import SimNet, Weather
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.platter import Platter
from tests.simulation.virtual import LibraryTime, VirtualLoop

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
FOUNDED_WITHIN_S = 60.0
CONVERGED_WITHIN_S = 40.0
CALLERS = 4


class Outcome(Struct, frozen=True, kw_only=True):
    """What a run ended with; `violation` is None when all held."""

    name: str
    seed: int
    plan: Plan
    violation: ViolationError | None
    history: list[Operation]
    faults: list[str]
    trace: str
    acknowledged: int
    frames: int
    leaders: int
    seconds: float
    undecided: int
    snapshots_installed: int


def run(
    name: str,
    seed: int,
    *,
    parts: Parts | None = None,
    checks: Checks | None = None,
    world: "type[World] | None" = None,
) -> Outcome:
    """Run `seed` of the plan `name` from beginning to end."""
    with _library_time() as library:
        make = world or World
        return make(name, seed, library, parts=parts or Parts(), checks=checks or Checks()).run()


@contextmanager
def _library_time() -> Iterator[LibraryTime]:
    """Put virtual time in place of the library's clock, which it calls as a function of its module."""
    library = LibraryTime()
    real = pysyncobj.syncobj.monotonicTime
    pysyncobj.syncobj.monotonicTime = library.now_s
    config = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    try:
        yield library
    finally:
        pysyncobj.syncobj.monotonicTime = real
        structlog.configure(**config)


class World:
    """The state of one run."""

    def __init__(self, name: str, seed: int, library: LibraryTime, *, parts: Parts, checks: Checks) -> None:
        self.name = name
        self.seed = seed
        self.plan = plan = draw_plan(name, seed)
        self.loop = VirtualLoop()
        self.checks = checks
        self.net = SimNet(self.loop, seed, plan.weather)
        self.net.watch = self.checks.sent
        everybody = addresses(NAMES[: plan.voters + plan.spares])
        self.voters = everybody[: plan.voters]
        shared = Shared(
            loop=self.loop,
            library=library,
            net=self.net,
            checks=self.checks,
            parts=parts,
            timing=Timing(round_trip_ms=max(1, int(2 * plan.weather.delay_ms))),
            bootstrap=self.voters,
            allowed=everybody,
            snapshot_after_bytes=plan.snapshot_after_bytes,
            security=None,  # type: ignore[arg-type] # no sockets, no certificates
        )
        self.members = [
            SimMember(address, shared, rng=random.Random(f"{seed}/{address.id}"), drift=plan.drift)
            for address in everybody
        ]
        for member in self.members:
            self.net.add(member)
            self.checks.platters[member.name] = Platter(member.disk)
        rng = random.Random(f"{seed}/run")
        self.rng = rng
        self.clients = Clients(
            self.members,
            loop=self.loop,
            checks=self.checks,
            rng=random.Random(f"{seed}/clients"),
            keys=plan.keys,
            padding_bytes=plan.padding_bytes,
        )
        self.nemesis = Nemesis(
            self.members,
            self.net,
            rng=random.Random(f"{seed}/nemesis"),
            faults=plan.faults,
            now_s=lambda: self.loop.now_s,
            later=self.loop.call_later,
            replaced=lambda member: self.checks.lost(member.name),
            propose=self.propose,
        )
        self.undecided = 0
        self._tasks: asyncio.TaskGroup | None = None

    def run(self) -> Outcome:
        """Run everything and return what came of it."""
        violation: ViolationError | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._main())
        except* ViolationError as group:
            violation = _first(group)
        return Outcome(
            name=self.name,
            seed=self.seed,
            plan=self.plan,
            violation=self.checks.violation or violation,
            history=self.clients.history,
            faults=self.nemesis.log,
            trace=self._trace(),
            acknowledged=self.clients.acknowledged,
            frames=self.net.frames,
            leaders=len(self.checks.leaders),
            seconds=self.loop.now_s,
            undecided=self.undecided,
            snapshots_installed=sum(member.snapshots_installed for member in self.members),
        )

    def _trace(self) -> str:
        last = max(self.checks.chains, default=0)
        return f"{last}/{self.checks.chains.get(last, b'').hex()}/{self.loop.now_s:.6f}/{self.net.frames}"

    async def _main(self) -> None:
        for member in self.members:
            member.start()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            first = tasks.create_task(self.clients.found(founding()))
            while not first.done():
                if self.loop.now_s > FOUNDED_WITHIN_S:
                    raise self.checks.fail("a federation is founded", "no first write")
                await self.let_pass(0.05)
            callers = [tasks.create_task(caller) for caller in self._callers()]
            await self._chaos()
            self.nemesis.end_all()
            self.net.weather = Weather()
            await self.let_pass(1.0)
            for caller in callers:
                caller.cancel()
            await self._converge()
        self._check_history()

    def _callers(self) -> list[Coroutine[None, None, None]]:
        registers = [self.clients.use_registers(number) for number in range(CALLERS)]
        return [*registers, self.clients.hold_leases(), self.clients.tick()]

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, and end the run at the first violation."""
        until_s = self.loop.now_s + seconds
        while self.loop.now_s < until_s:
            if self.checks.violation is not None:
                raise self.checks.violation
            await asyncio.sleep(min(0.05, until_s - self.loop.now_s))

    async def _chaos(self) -> None:
        end_s = self.loop.now_s + self.plan.chaos_s
        while self.loop.now_s < end_s:
            self.nemesis.strike()
            await self.let_pass(self.rng.uniform(0.1, 2 * self.plan.calm_s))
            self.nemesis.raise_some()

    def propose(self, via: SimMember, kind: str, body: bytes) -> None:
        """Propose, whatever comes of it."""
        self.start(self._try(via, kind, body))

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something beside the faults."""
        assert self._tasks is not None
        return self._tasks.create_task(work)

    async def _try(self, via: SimMember, kind: str, body: bytes) -> None:
        try:
            await via.propose(kind, body, timeout_ms=1_500)  # type: ignore[arg-type] # a proposal's kind
        except IsthmusError:
            return  # Refused, or unknown: both are fine.

    # After the healing.

    async def _converge(self) -> None:
        until_s = self.loop.now_s + CONVERGED_WITHIN_S
        while (reason := self._difference()) is not None:
            if self.loop.now_s > until_s:
                raise self.checks.fail("a healed federation converges", reason)
            await self.let_pass(0.25)
        digests = {
            member.name: member.machine.catalog.digest()
            for member in self.members
            if member.name in self.leader().status.members  # type: ignore[union-attr] # as _difference saw
        }
        if len(set(digests.values())) > 1:
            raise self.checks.fail("equal states in the end", str(digests))

    def leader(self) -> SimMember | None:
        leaders = [member for member in self.members if member.is_up and member.raft.is_leader]
        return max(leaders, key=lambda member: member.raft.term, default=None)

    def _difference(self) -> str | None:
        """Return what is missing until all voters are equal, None when they are."""
        leader = self.leader()
        if leader is None or leader.status is None:
            return "nobody leads"
        if leader.raft.commit_index != leader.store.journal.last_index:
            return f"{leader.name} has uncommitted entries"
        voters = [member for member in self.members if member.name in leader.status.members]
        for member in voters:
            if not member.is_up:
                return f"{member.name} is down"
            if member.store.applied_index != leader.store.journal.last_index:
                return (
                    f"{member.name} applied {member.store.applied_index} of {leader.store.journal.last_index}"
                )
        return None

    def _check_history(self) -> None:
        for key, operations in by_key(self.clients.history).items():
            wrong = check_versions(operations)
            if wrong:
                raise self.checks.fail("linearizable by version", f"register {key}: {wrong[0]}")
            verdict = search(operations)
            if verdict is None:
                self.undecided += 1
            elif not verdict:
                raise self.checks.fail("linearizable by search", f"register {key}")


def _first(group: BaseExceptionGroup[ViolationError]) -> ViolationError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("a group has an exception")

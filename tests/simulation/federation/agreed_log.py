"""The log that the members agree on, as the federation's parts see it: Raft itself is simulated one folder up.

There is one sequence of entries. A proposal gets into it while its controller reaches a leader, and a leader is
a voter that reaches a majority both ways. What consensus may do to a proposal happens here: it waits, is lost, is
taken although its caller was told nothing, or is taken late, after its caller has given up and begun again.
"""

import asyncio
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING

from federation.kernel.errors import OutcomeUnknownError, UnavailableError
from tests.simulation.federation.links import Net, Process

if TYPE_CHECKING:
    from tests.simulation.federation.controllers import SimController
    from tests.simulation.federation.rules import Rules

LATE_S = 8.0  # Longer than an attempt of a proposer lasts.
_ASK_AGAIN_S = 0.2


class AgreedLog:
    """Entries, index 1 first, and who may add one now."""

    def __init__(self, net: Net, rng: random.Random, rules: "Rules", *, voters: list[Process]) -> None:
        self.entries: list[bytes] = []
        self.controllers: list[SimController] = []
        self.loss = 0.0  # Of proposals, of answers, and of promptness.
        self._net = net
        self._rng = rng
        self._rules = rules
        self._founders = voters
        self._voters = voters
        self._leader: Process | None = None
        self._leads_from_s = 0.0

    def leader(self) -> Process | None:
        """Return who leads now, or None while nobody can."""
        if self._leader is None or not self._leads(self._leader):
            self._leader = next((voter for voter in self._voters if self._leads(voter)), None)
            self._leads_from_s = self._net.loop.now_s + self._rng.uniform(0.2, 1.0)
        return self._leader if self._net.loop.now_s >= self._leads_from_s else None

    @property
    def voters(self) -> int:
        """How many there are."""
        return len(self._voters)

    def votes(self, site: str) -> bool:
        """True while a cluster hosts a voter."""
        return any(voter.site == site for voter in self._voters)

    def status(self) -> SimpleNamespace:
        """What is asked of an engine about members."""
        return SimpleNamespace(members=tuple(voter.site for voter in self._voters), learners=())

    def retire(self, site: str) -> None:
        """Take the vote of a cluster."""
        self._voters = [voter for voter in self._voters if voter.site != site]

    def admit(self, site: str) -> None:
        """Give a cluster its vote again, if it ever had one."""
        self._voters = [voter for voter in self._founders if voter.site == site or voter in self._voters]

    def append(self, command: bytes) -> int:
        """Add an entry and begin to spread it; returns its index."""
        self.entries.append(command)
        index = len(self.entries)
        self._rules.committed(index, command)
        leader = self._leader
        for controller in self.controllers:
            if controller.process.alive and leader is not None:
                delay_s = self._net.delay_s(leader, controller.process)
                self._net.loop.call_later(delay_s, controller.catch_up, index)
        return index

    def reaches(self, process: Process) -> bool:
        """True while a leader's entries get to `process`."""
        leader = self.leader()
        return leader is not None and not self._net.cut(leader, process)

    async def offer(self, process: Process, command: bytes) -> int:
        """Bring a command from `process` to the leader; returns its index, or never."""
        while True:
            leader = self.leader()
            if leader is not None and self._net.both_ways(process, leader):
                break
            await asyncio.sleep(_ASK_AGAIN_S)
        await asyncio.sleep(self._net.delay_s(process, leader))
        fate = self._rng.random() / self.loss if self.loss else 1.0
        if fate < 0.3:  # Taken, but later than its caller waits.
            self._net.loop.call_later(self._rng.uniform(0, LATE_S), self._late, process, command)
            await asyncio.Event().wait()
        if fate < 0.6 or not self._leads(leader) or self._net.cut(process, leader):
            await asyncio.Event().wait()  # Lost.
        index = self.append(command)
        if fate < 1.0:
            await asyncio.Event().wait()  # Taken, and the answer is lost.
        return index

    def _late(self, process: Process, command: bytes) -> None:
        leader = self.leader()
        if leader is not None and not self._net.cut(process, leader):
            self.append(command)

    def _leads(self, voter: Process) -> bool:
        if not voter.alive or voter not in self._voters:
            return False
        heard = sum(other.alive and self._net.both_ways(voter, other) for other in self._voters)
        return heard * 2 > len(self._voters)


class Applied:
    """What a proposal came to."""

    def __init__(self, result: bytes) -> None:
        self.result = result


class MemberLog:
    """The log as one controller sees it; what `federation.api.proposer.Log` asks for."""

    def __init__(self, agreed: AgreedLog, controller: "SimController") -> None:
        self._agreed = agreed
        self._controller = controller

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Return what this controller's own catalog answers."""
        if self._agreed.leader() is None:
            await asyncio.sleep(_ASK_AGAIN_S)
            raise UnavailableError("there is no leader")
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                index = await self._agreed.offer(self._controller.process, command)
                return Applied(await self._controller.result_of(index))
        except TimeoutError as error:
            raise OutcomeUnknownError("no answer in time") from error

    async def read_barrier(self, *, timeout_ms: int) -> int:
        """Return the newest index, once this controller has it."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                index = len(self._agreed.entries)
                while (  # noqa: ASYNC110 - links tell nobody when they heal
                    not self._agreed.reaches(self._controller.process)
                    or self._controller.applied_index < index
                ):
                    await asyncio.sleep(_ASK_AGAIN_S)
                return index
        except TimeoutError as error:
            raise UnavailableError("no answer in time") from error

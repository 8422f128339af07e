"""Runs whose faults follow a script: for orders of events that chance brings about too seldom."""

import asyncio
from collections.abc import Callable, Coroutine

from consensus.core.messages import Append, Appended, Message, Proposed, RequestVote, SnapshotChunk
from federation.kernel.errors import IsthmusError
from tests.simulation.machine import idle_command
from tests.simulation.member import TURN_S, SimMember
from tests.simulation.world import World

LEADER_WITHIN_S = 60.0
TAIL = 60  # Entries that only a minority ever held.


class Script(World):
    """A run without callers and without chance in its faults."""

    def _callers(self) -> list[Coroutine[None, None, None]]:
        return []

    def _cut_off(self, one: SimMember, two: SimMember) -> None:
        pair = {one.name, two.name}
        names = [member.name for member in self.members]
        self.net.cut((a, b) for a in names for b in names if (a in pair) != (b in pair))

    async def _append(self, leader: SimMember, entries: int) -> None:
        for number in range(entries):
            self.propose(leader, "command", idle_command(f"{self.loop.now_s}/{number}"))
        await self.let_pass(0.3)

    async def _someone_leads(self, is_wanted: Callable[[SimMember], bool]) -> SimMember:
        until_s = self.loop.now_s + LEADER_WITHIN_S
        while self.loop.now_s < until_s:
            leader = self.leader()
            if leader is not None and is_wanted(leader) and leader.raft.has_finished_election:
                return leader
            await self.let_pass(0.05)
        raise self.checks.fail("the script finds its leader", f"nobody fit within {LEADER_WITHIN_S} s")


class LateAnswers(Script):
    """An answer to a former leadership arrives when its leader leads again, with a shorter log.

    In the first leadership one follower acknowledges a tail that is never committed. In a later one of
    the same leader the network delivers those answers again, while three of five cannot be reached.
    """

    async def _chaos(self) -> None:
        leader = await self._someone_leads(lambda _member: True)
        liar, witness, *_rest = [member for member in self.members if member is not leader]
        late: list[Appended] = []

        def listen(sender: str, to: str, message: Message) -> None:
            self.checks.sent(sender, to, message)
            if isinstance(message, Appended) and (sender, to) == (liar.name, leader.name) and message.matched:
                late.append(message)

        self.net.watch = listen
        self._cut_off(leader, liar)
        await self._append(leader, TAIL)
        self.net.watch = self.checks.sent
        await self._someone_leads(lambda member: member not in (leader, liar))
        self.net.cut(())
        await self._lead_again(leader)
        await self.let_pass(0.5)
        self._cut_off(leader, witness)
        await self._append(leader, 1)
        for answer in late:
            leader.deliver(liar.name, answer)
        await self.let_pass(0.5)

    async def _lead_again(self, wanted: SimMember) -> None:
        """Stop every other leader until the wanted one leads."""
        until_s = self.loop.now_s + LEADER_WITHIN_S
        while self.loop.now_s < until_s:
            leader = await self._someone_leads(lambda _member: True)
            if leader is wanted:
                return
            await self.let_pass(0.3)
            leader.paused_until_s = self.loop.now_s + 3.0
            await self.let_pass(1.5)
        raise self.checks.fail("the script finds its leader", f"{wanted.name} never led again")


class KilledBeforeTheSync(Script):
    """A follower dies between write and sync, and is asked for what it wrote when it is back.

    The third member is away, so that its answer decides what is committed.
    """

    async def _chaos(self) -> None:
        for _round in range(3):
            leader = await self._someone_leads(lambda _member: True)
            follower, *others = [member for member in self.members if member is not leader]
            away = {member.name for member in others[: len(self.voters) // 2]}
            names = [member.name for member in self.members]
            self.net.cut((a, b) for a in names for b in names if (a in away) != (b in away))
            follower.is_power_cut_next = False
            follower.disk.stop_after = 2  # The write, and inside the sync.
            await self._append(leader, 1)
            if not follower.is_up:
                follower.start()
            await self.let_pass(0.5)
            self.net.cut(())
            await self.let_pass(1.5)


class TwoCandidates(Script):
    """A member votes, restarts at once, and is asked again in the same term by one who slept until then."""

    async def _chaos(self) -> None:
        for _round in range(3):
            leader = await self._someone_leads(lambda _member: True)
            voter, candidate, sleeper, *rest = [member for member in self.members if member is not leader]
            now_s = self.loop.now_s
            for member in (leader, sleeper, *rest):
                member.paused_until_s = now_s + 30.0
            voter.kill_after_vote = True
            incarnation = voter.incarnation
            while voter.incarnation == incarnation and self.loop.now_s < now_s + 5.0:
                await self.let_pass(0.01)
            self.net.cut(
                pair
                for other in self.members
                if other is not candidate
                for pair in ((other.name, candidate.name), (candidate.name, other.name))
            )
            await self.let_pass(0.2)
            sleeper.resume()
            await self.let_pass(0.4)
            self.net.cut(())
            for member in self.members:
                member.resume()
            await self.let_pass(1.0)


class AnswerToAFormerProcess(Script):
    """A leader's answer arrives when its follower is another process, which has asked for something else.

    The entry that the answer names is not applied there yet: taken for one's own it would acknowledge a
    command that is in no log.
    """

    async def _chaos(self) -> None:
        leader = await self._someone_leads(lambda _member: True)
        follower = next(member for member in self.members if member is not leader)
        late: list[Proposed] = []

        def listen(sender: str, to: str, message: Message) -> None:
            self.checks.sent(sender, to, message)
            if isinstance(message, Proposed) and to == follower.name:
                late.append(message)
                follower.kill(power=False)  # Before the answer arrives, and the entry.

        self.net.watch = listen
        await self._append(follower, 1)
        self.net.watch = self.checks.sent
        follower.start()
        while follower.raft.leader_id is None:
            await self._moment()
        command = idle_command("another")
        task = self.start(self._acknowledged(follower, command))
        await self._moment()
        for answer in late:
            follower.deliver(leader.name, answer)
        while not task.done():
            await self.let_pass(0.05)

    async def _moment(self) -> None:
        await asyncio.sleep(2 * TURN_S)

    async def _acknowledged(self, member: SimMember, command: bytes) -> None:
        try:
            applied = await member.propose("command", command, timeout_ms=2_000)
        except IsthmusError:
            return
        self.checks.acknowledged_write(member.name, applied, command)


class AnswerToACopyLost(Script):
    """A follower installs a snapshot while its own connection to the leader is being made anew."""

    async def _chaos(self) -> None:
        leader = await self._someone_leads(lambda _member: True)
        follower = next(member for member in self.members if member is not leader)
        follower.kill(power=False)
        while leader.store.journal.base.index <= follower.store.journal.last_index:
            await self._append(leader, 30)

        def listen(sender: str, to: str, message: Message) -> None:
            self.checks.sent(sender, to, message)
            if isinstance(message, SnapshotChunk) and to == follower.name:
                self.loop.call_soon(self.net.reset, (to, sender))

        self.net.watch = listen
        follower.start()
        await self.let_pass(1.0)
        self.net.watch = self.checks.sent
        if self.leader() is leader and follower.store.applied_index < leader.store.applied_index:
            raise self.checks.fail("a copy ends", f"{follower.name} waits behind its snapshot")


class SuccessorThatNobodyReaches(Script):
    """A leader hands over to a member that reaches the others while their connections to it are being made anew.

    As when it has just joined: their votes have no way to it at the moment in which they are given.
    """

    async def _chaos(self) -> None:
        for _round in range(3):
            leader = await self._someone_leads(lambda _member: True)
            await self.let_pass(2.0)  # All know it, and nothing is on its way.
            successor = next(member for member in self.members if member is not leader)
            term = leader.raft.term

            def listen(sender: str, to: str, message: Message, successor: SimMember = successor) -> None:
                self.checks.sent(sender, to, message)
                if isinstance(message, RequestVote) and sender == successor.name:
                    self.net.reset((to, sender))

            self.net.watch = listen
            self.propose(leader, "transfer", successor.name.encode())
            await self.let_pass(1.5)
            self.net.watch = self.checks.sent
            if (self.leader(), successor.raft.term) != (successor, term + 1):
                raise self.checks.fail("a handover takes one campaign", f"{successor.name} after term {term}")


class FullWhileCutBack(Script):
    """A former leader's disk is full when the tail that it alone holds is to be replaced by what was committed.

    Its state machine has applied that already; its log on disk has the tail. It is killed as soon as it has written a
    snapshot on what it found there.
    """

    async def _chaos(self) -> None:
        former = await self._someone_leads(lambda _member: True)
        self._cut_off(former, former)
        await self._append(former, TAIL)
        leader = await self._someone_leads(lambda member: member is not former)
        await self._append(leader, 8)  # Too few for a snapshot, which would be sent instead of entries.

        take = former.deliver

        def deliver(sender: str, message: Message) -> None:
            if isinstance(message, Append) and message.entries:
                former.disk.room_bytes = 0
            take(sender, message)

        # When it gets them: the cut link may hold what was sent long before.
        former.deliver = deliver  # type: ignore[method-assign] # of this member only
        self.net.cut(())
        await self._until(lambda: former.is_paused)
        former.deliver = take  # type: ignore[method-assign]
        former.disk.room_bytes = None
        await self._until(lambda: former.is_up)
        for _turn in range(20):
            await self.let_pass(TURN_S)
        former.kill(power=False)
        former.start()
        await self.let_pass(1.0)

    async def _until(self, happened: Callable[[], bool]) -> None:
        until_s = self.loop.now_s + LEADER_WITHIN_S
        while not happened():
            if self.loop.now_s > until_s:
                raise self.checks.fail("the script goes on", "its disk was never full, or never had room")
            await self.let_pass(0.002)

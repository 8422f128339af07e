"""What goes wrong in a run: one or two faults at a time, drawn by the seed."""

import random
from collections.abc import Callable, Sequence

from msgspec import Struct

from consensus.core.contract import MemberAddress
from consensus.core.membership import KIND_MEMBERSHIP, encode_member
from tests.simulation.machine import idle_command
from tests.simulation.member import SimMember
from tests.simulation.net import SimNet

Pair = tuple[str, str]
CHANGE_WITHIN_S = 2.0  # A change of the members is made or refused.
BURSTS = 5
BURST_ENTRIES = 8


def halves(names: Sequence[str], rng: random.Random) -> set[Pair]:
    """A minority and the rest do not hear each other."""
    mixed = rng.sample(names, len(names))
    few = set(mixed[: rng.randint(1, max(1, (len(names) - 1) // 2))])
    return {(a, b) for a in names for b in names if (a in few) != (b in few)}


def one_way(names: Sequence[str], rng: random.Random) -> set[Pair]:
    """One member hears the others and is not heard, or the reverse."""
    one = rng.choice(names)
    pairs = {(one, other) for other in names if other != one}
    return pairs if rng.random() < 0.5 else {(b, a) for a, b in pairs}


def ring(names: Sequence[str], rng: random.Random) -> set[Pair]:
    """Each member hears only its neighbours in a ring; of three, one link is cut."""
    order = rng.sample(names, len(names))
    if len(order) <= 3:
        return {(order[0], order[1]), (order[1], order[0])}
    size = len(order)
    near = {(order[i], order[(i + step) % size]) for i in range(size) for step in (-1, 1)}
    return {(a, b) for a in names for b in names if a != b} - near


def bridge(names: Sequence[str], rng: random.Random) -> set[Pair]:
    """Two groups that meet only in one member."""
    middle, *rest = rng.sample(names, len(names))
    left = set(rest[: len(rest) // 2])
    return {(a, b) for a in rest for b in rest if (a in left) != (b in left)} - {(middle, middle)}


def isolate_leader(names: Sequence[str], leader: str | None, rng: random.Random) -> set[Pair]:
    """The leader, if there is one, is alone."""
    one = leader or rng.choice(names)
    return {(a, b) for a in names for b in names if (a == one) != (b == one)}


def isolate_pair(names: Sequence[str], leader: str | None, rng: random.Random) -> set[Pair]:
    """The leader and one that believes it are alone: their entries are never committed."""
    one = leader or rng.choice(names)
    two = {one, rng.choice([name for name in names if name != one])}
    return {(a, b) for a in names for b in names if (a in two) != (b in two)}


class Faults(Struct, frozen=True, kw_only=True):
    """How likely each fault is, as weights."""

    partition: int = 6
    isolation: int = 3
    kill: int = 4
    kill_after_vote: int = 2
    power_cut: int = 4
    power_cut_all: int = 2
    stop_in_file: int = 5
    pause: int = 2
    full_disk: int = 1
    failing_sync: int = 1
    slow_disk: int = 1
    reset: int = 1
    transfer: int = 1
    lost_directory: int = 1  # At most once in a run: two would be more than is promised.
    membership: int = 0
    nothing: int = 2


class Nemesis:
    """Draws faults and ends them."""

    def __init__(
        self,
        members: Sequence[SimMember],
        net: SimNet,
        *,
        rng: random.Random,
        faults: Faults,
        now_s: Callable[[], float],
        later: Callable[..., object],
        replaced: Callable[[SimMember], None],
        propose: Callable[[SimMember, str, bytes], None],
    ) -> None:
        self.log: list[str] = []
        self._members = members
        self._net = net
        self._rng = rng
        self._now_s = now_s
        self._later = later  # Seconds, function, its arguments.
        self._replaced = replaced
        self._propose = propose
        self._requests = 0
        self._lost: SimMember | None = None
        self._changed_s = -CHANGE_WITHIN_S
        self._is_over = False
        self._weights = {
            name: getattr(faults, name) for name in Faults.__struct_fields__ if getattr(faults, name)
        }

    def strike(self) -> None:
        """Begin the next fault."""
        name = self._rng.choices(list(self._weights), list(self._weights.values()))[0]
        said = getattr(self, f"_{name}")()
        self.log.append(f"{self._now_s():8.3f} {name} {said or ''}")

    def raise_some(self) -> None:
        """Make room on some disks, and start some of those that are down."""
        for member in self._members:
            if self._rng.random() < 0.5:
                member.disk.room_bytes = None
            if not member.is_up and self._rng.random() < 0.6:
                self._rise(member)

    def end_all(self) -> None:
        """Heal everything and start everybody."""
        self._is_over = True
        self._net.cut(())
        for member in self._members:
            member.resume()
            member.disk.stop_after = None
            member.disk.room_bytes = None
            member.disk.fail_syncs = False
            member.kill_after_vote = False
            member.disk.sync_s = 0.0005
            self._rise(member)

    def _rise(self, member: SimMember) -> None:
        member.disk.room_bytes = None
        member.disk.fail_syncs = False
        if not member.is_up:
            member.start()

    def _leader(self) -> SimMember | None:
        leaders = [member for member in self._members if member.is_up and member.raft.is_leader]
        return self._rng.choice(leaders) if leaders else None

    def _victim(self) -> SimMember | None:
        leader = self._leader()
        if leader is not None and self._rng.random() < 0.5:
            return leader
        return self._rng.choice([member for member in self._members if member.is_up] or [None])

    def _partition(self) -> str:
        names = [member.name for member in self._members]
        shape = self._rng.choice([halves, halves, one_way, ring, bridge])
        self._net.cut(shape(names, self._rng))
        return shape.__name__

    def _isolation(self) -> str:
        leader = self._leader()
        names = [member.name for member in self._members]
        shape = isolate_pair if len(names) > 3 and self._rng.random() < 0.5 else isolate_leader
        self._net.cut(shape(names, leader.name if leader else None, self._rng))
        if leader is not None:
            for number in range(BURSTS):
                self._later(0.1 * number, self._burst, leader)
        return f"{shape.__name__} {leader.name if leader else ''}"

    def _burst(self, leader: SimMember) -> None:
        """Fill the log of a leader that cannot commit: its tail will have to go."""
        for _ in range(self._rng.randint(1, 2 * BURST_ENTRIES)):
            self._requests += 1
            self._propose(leader, "command", idle_command(f"burst-{self._requests}"))

    def _nothing(self) -> str:
        self._net.cut(())
        return ""

    def _kill(self) -> str:
        return self._end_one(power=False)

    def _kill_after_vote(self) -> str:
        member = self._rng.choice(list(self._members))
        member.kill_after_vote = True
        return member.name

    def _power_cut(self) -> str:
        return self._end_one(power=True)

    def _end_one(self, *, power: bool) -> str:
        member = self._victim()
        if member is None:
            return ""
        member.kill(power=power)
        return member.name

    def _power_cut_all(self) -> str:
        power = self._rng.random() < 0.8
        for member in self._members:
            if member.is_up:
                member.kill(power=power)
        return "" if power else "(kill)"

    def _stop_in_file(self) -> str:
        member = self._victim()
        if member is None:
            return ""
        if member.disk.fail_syncs:
            return ""  # Killed between a failed sync and the cut behind it, and then a power cut: too much.
        member.is_power_cut_next = self._rng.random() < 0.5
        member.disk.stop_after = self._rng.randint(1, 12)
        return member.name

    def _pause(self) -> str:
        member = self._victim()
        if member is None:
            return ""
        member.paused_until_s = self._now_s() + self._rng.uniform(0.2, 2.5)
        return member.name

    def _full_disk(self) -> str:
        member = self._victim()
        if member is None:
            return ""
        member.disk.room_bytes = self._rng.randint(0, 3_000)
        return member.name

    def _failing_sync(self) -> str:
        member = self._victim()
        if member is None:
            return ""
        if member.disk.stop_after is not None:
            return ""
        member.disk.fail_syncs = True
        return member.name

    def _slow_disk(self) -> str:
        member = self._victim()
        if member is None:
            return ""
        member.disk.sync_s = self._rng.choice([0.02, 0.1, 0.3])
        return member.name

    def _reset(self) -> str:
        a, b = self._rng.sample([member.name for member in self._members], 2)
        self._net.reset((a, b))
        return f"{a} {b}"

    def _transfer(self) -> str:
        via, target = self._victim(), self._rng.choice(list(self._members))
        if via is None:
            return ""
        self._propose(via, "transfer", target.name.encode())
        return f"to {target.name} by {via.name}"

    def _lost_directory(self) -> str:
        """An operator empties a directory and starts its member.

        Only of three voters or more, whose number stays: of two, one is not a minority. And only when every
        voter knows to which directory each vote belongs: that is what a new directory is refused by.
        """
        if self._lost is not None or self._now_s() < self._changed_s + CHANGE_WITHIN_S:
            return ""
        if any(_is_changing(member) for member in self._members if member.status is not None):
            return ""
        views = [member.status for member in self._members if member.status is not None]
        voters = set().union(*(view.members for view in views))
        knowing = [dict(view.voting_directories) for view in views if view.id in voters]
        if len(voters) < 3 or len(knowing) < len(voters) or any(voters - set(names) for names in knowing):
            return ""
        self._lost = self._rng.choice([member for member in self._members if member.name in voters])
        self._later(self._rng.uniform(0.3, 2.5), self._lose)
        return f"{self._lost.name} soon"

    def _lose(self) -> None:
        member = self._lost
        if member is None or self._is_over:
            return
        if member.is_up or member.is_paused:
            member.kill(power=False)
        self._replaced(member)
        member.disk.empty()
        self.log.append(f"{self._now_s():8.3f} lost {member.name}")

    def _membership(self) -> str:
        via = self._victim()
        if via is None or via.status is None or self._lost is not None:
            return ""
        self._changed_s = self._now_s()
        votes = set(via.status.members)
        dice = self._rng.random()
        if dice < 0.3 and len(votes) < len(self._members):
            other = self._rng.choice([member for member in self._members if member.name not in votes])
            if dice < 0.15:
                self._propose(via, "learner", encode_member(other.address))
                return f"learner {other.name} by {via.name}"
            self._propose(via, "promote", other.name.encode())
            return f"promote {other.name} by {via.name}"
        outside = [member for member in self._members if member.name not in votes]
        if outside and (len(votes) <= 2 or self._rng.random() < 0.6):
            member = self._rng.choice(outside)
            self._propose(via, "add", encode_member(member.address))
            return f"add {member.name} by {via.name}"
        gone = self._rng.choice(sorted(votes))
        self._propose(via, "remove", gone.encode())
        return f"remove {gone} by {via.name}"


def _is_changing(member: SimMember) -> bool:
    """True while a change of the members is in its log that may still be made, however old it is."""
    journal, committed = member.raft._journal, member.raft.commit_index
    entries = journal.between(committed + 1, journal.last_index, bytes_max=2**30)
    return any(entry.command.startswith(KIND_MEMBERSHIP) for entry in entries)


def addresses(names: Sequence[str]) -> tuple[MemberAddress, ...]:
    """Return members whose address and identity follow from their names."""
    return tuple(
        MemberAddress(
            id=name, address=f"{name}.test:7400", identity=f"spiffe://{name}.test/isthmus/{name}/controller/1"
        )
        for name in names
    )

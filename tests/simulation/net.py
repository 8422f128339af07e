"""Links between members: what TCP may do, and on request what it may not.

A link is one direction of one connection, as in the real transport: who sends has dialled. Frames
travel encoded. A cut link holds its frames, as TCP's retransmission does, until it heals or is given up.
"""

import random
from collections.abc import Callable, Iterable

from msgspec import Struct

from consensus.core.messages import (
    LENGTH,
    Message,
    Propose,
    decode_payload,
    encode_frame,
)
from tests.simulation.virtual import VirtualLoop

GIVEN_UP_AFTER_S = 1.5  # A cut connection is noticed after at most this.
LATE_S_MAX = 6.0
LOST_FOR_S_MAX = 0.5


class Weather(Struct, frozen=True, kw_only=True):
    """How a run's links behave."""

    delay_ms: float = 5.0
    jitter: float = 1.0  # A frame takes delay_ms times 1 to 1 + jitter.
    loss: float = 0.0
    duplication: float = 0.0
    lateness: float = (
        0.0  # Share of frames of which a copy arrives up to LATE_S_MAX later at the same process, cut or not.
    )
    is_ordered: bool = True


class Endpoint:
    """What the net needs of a member."""

    name: str
    is_up: bool
    incarnation: int

    def deliver(self, sender: str, message: Message) -> None: ...

    def peer_changed(self, peer: str, is_connected: bool) -> None: ...


class _Link:
    __slots__ = ("arrives_s", "epoch", "held", "is_connected", "rng")

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.is_connected = False
        self.epoch = 0
        self.held: list[bytes] = []
        self.arrives_s = 0.0


class SimNet:
    """All links of a run. Each has its own random numbers, so that the order of sends does not matter."""

    def __init__(self, loop: VirtualLoop, seed: int, weather: Weather) -> None:
        self.weather = weather
        self.frames = 0
        self._loop = loop
        self._seed = seed
        self._members: dict[str, Endpoint] = {}
        self._peers: dict[str, frozenset[str]] = {}
        self._links: dict[tuple[str, str], _Link] = {}
        self._cut: set[tuple[str, str]] = set()
        self.watch: Callable[[str, str, Message], None] = lambda _sender, _to, _message: None

    def add(self, member: Endpoint) -> None:
        """Connect another member, once its peers and it know each other."""
        self._peers[member.name] = frozenset()
        for other in self._members:
            for pair in ((other, member.name), (member.name, other)):
                self._links[pair] = _Link(random.Random(f"{self._seed}/link/{pair}"))
        self._members[member.name] = member

    # Faults.

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Replace the set of cut directions."""
        self._cut = set(pairs)
        for pair, link in self._links.items():
            if pair not in self._cut and link.held:
                held, link.held = link.held, []
                for frame in held:
                    self._travel(pair, link, frame)
            self.look(pair)

    def reset(self, pair: tuple[str, str]) -> None:
        """Break one connection."""
        self._break(pair, self._links[pair].epoch)

    # What members call.

    def set_peers(self, name: str, peers: Iterable[str]) -> None:
        """Replace whom a member dials and accepts."""
        self._peers[name] = frozenset(peers) - {name}
        self.look_around(name)

    def connected(self, name: str) -> tuple[str, ...]:
        """Return whom a member can send to."""
        return tuple(
            sorted(to for (sender, to), link in self._links.items() if sender == name and link.is_connected)
        )

    def backlog_bytes(self, pair: tuple[str, str]) -> int:
        """Return what waits at the sender."""
        return sum(map(len, self._links[pair].held))

    def send(self, sender: str, to: str, message: Message, *, after_s: float) -> bool:
        """Send a frame `after_s` from now."""
        link = self._links.get((sender, to))
        if link is None or not link.is_connected:
            return False
        self.watch(sender, to, message)
        self.frames += 1
        pair, weather, rng = (sender, to), self.weather, link.rng
        if weather.loss and rng.random() < weather.loss:
            # TCP loses nothing without breaking, sooner or later; until then everything behind it arrives.
            self._loop.call_later(rng.uniform(0.001, LOST_FOR_S_MAX), self._break, pair, link.epoch)
            return True
        frame = encode_frame(message)
        if pair in self._cut:
            link.held.append(frame)
            return True
        self._travel(pair, link, frame, after_s)
        if isinstance(message, Propose):
            return True  # What a connection carries comes once, and Raft does not make a proposal idempotent.
        if weather.duplication and rng.random() < weather.duplication:
            self._travel(pair, link, frame, after_s + rng.uniform(0, 0.1))
        if weather.lateness and rng.random() < weather.lateness:
            processes = self._processes(pair)
            self._loop.call_later(rng.uniform(0.5, LATE_S_MAX), self._arrive_late, pair, frame, processes)
        return True

    def _processes(self, pair: tuple[str, str]) -> tuple[int, int]:
        return self._members[pair[0]].incarnation, self._members[pair[1]].incarnation

    # Connections.

    def look_around(self, name: str) -> None:
        """Look at all links of a member whose state or peers changed."""
        for pair in self._links:
            if name in pair:
                self.look(pair)

    def look(self, pair: tuple[str, str]) -> None:
        """Begin to connect or to break a link if it should be."""
        link = self._links[pair]
        if not link.is_connected:
            if self._may_connect(pair):
                self._loop.call_later(link.rng.uniform(0.02, 0.15), self._connect, pair)
        elif not self._members[pair[0]].is_up:
            link.is_connected = False  # What it has sent may arrive yet, until a new process connects.
        elif not self._may_stay(pair):
            self._loop.call_later(link.rng.uniform(0.001, 0.03), self._break, pair, link.epoch)
        elif pair in self._cut or pair[::-1] in self._cut:
            self._loop.call_later(link.rng.uniform(0.2, GIVEN_UP_AFTER_S), self._give_up, pair, link.epoch)

    def _may_stay(self, pair: tuple[str, str]) -> bool:
        sender, to = pair
        return (
            self._members[sender].is_up
            and self._members[to].is_up
            and to in self._peers[sender]
            and sender in self._peers[to]
        )

    def _may_connect(self, pair: tuple[str, str]) -> bool:
        return self._may_stay(pair) and pair not in self._cut and pair[::-1] not in self._cut

    def _connect(self, pair: tuple[str, str]) -> None:
        link = self._links[pair]
        if link.is_connected or not self._may_connect(pair):
            return
        link.is_connected = True
        link.epoch += 1
        link.held.clear()
        link.arrives_s = 0.0
        self._members[pair[0]].peer_changed(pair[1], True)

    def _give_up(self, pair: tuple[str, str], epoch: int) -> None:
        if pair in self._cut or pair[::-1] in self._cut:
            self._break(pair, epoch)

    def _break(self, pair: tuple[str, str], epoch: int) -> None:
        link = self._links[pair]
        if not link.is_connected or link.epoch != epoch:
            return
        link.is_connected = False
        link.held.clear()
        if self._members[pair[0]].is_up:
            self._members[pair[0]].peer_changed(pair[1], False)
        self.look(pair)

    # Frames.

    def _travel(self, pair: tuple[str, str], link: _Link, frame: bytes, after_s: float = 0.0) -> None:
        weather = self.weather
        delay_s = weather.delay_ms / 1000 * (1 + weather.jitter * link.rng.random())
        arrives_s = self._loop.now_s + after_s + delay_s
        if weather.is_ordered:
            arrives_s = link.arrives_s = max(arrives_s, link.arrives_s + 1e-6)
        incarnation = self._members[pair[1]].incarnation
        self._loop.call_at(arrives_s, self._arrive, pair, frame, link.epoch, incarnation)

    def _arrive(self, pair: tuple[str, str], frame: bytes, epoch: int, incarnation: int) -> None:
        link, receiver = self._links[pair], self._members[pair[1]]
        if link.epoch != epoch or receiver.incarnation != incarnation or not self._may_hear(pair):
            return
        if pair in self._cut:
            link.held.append(frame)
        else:
            receiver.deliver(pair[0], decode_payload(frame[LENGTH.size :]))

    def _arrive_late(self, pair: tuple[str, str], frame: bytes, processes: tuple[int, int]) -> None:
        if self._may_hear(pair) and self._processes(pair) == processes:
            self._members[pair[1]].deliver(pair[0], decode_payload(frame[LENGTH.size :]))

    def _may_hear(self, pair: tuple[str, str]) -> bool:
        return self._members[pair[1]].is_up and pair[0] in self._peers[pair[1]]

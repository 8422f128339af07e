"""One controller of a run: the real Member on simulated ports, killed, cut off and started again."""

import asyncio
import random
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from consensus.core.contract import Applied, Counters, MemberAddress, Status
from consensus.core.membership import voter_ids
from consensus.core.messages import Message, RequestVote, VoteGranted
from consensus.core.proposals import Kind
from consensus.core.timing import Timing
from consensus.runtime.clocks import PeerClocks
from consensus.runtime.disk import NoRoomError
from consensus.runtime.hardened import HardenedRaft
from consensus.runtime.intake import Intake
from consensus.runtime.member import Member, Settings
from consensus.runtime.room import ROOM_POLL_S
from consensus.runtime.transport import TransportSecurity
from consensus.runtime.views import View
from federation.kernel.errors import CorruptError, IsthmusError, OutcomeUnknownError, UnavailableError
from tests.simulation.checks import Checks
from tests.simulation.disk import SimDisk, StoppedHere
from tests.simulation.machine import WatchedCatalog, Watcher
from tests.simulation.net import Endpoint, SimNet
from tests.simulation.virtual import DriftingClock, LibraryTime, VirtualLoop

TURN_S = 0.0002  # From an event to the turn that handles it.
DIRECTORY = Path("/member")


class Parts(Struct, frozen=True, kw_only=True):
    """What a member is made of; a planted bug replaces one of these."""

    member: type[Member] = Member
    disk: type[SimDisk] = SimDisk
    machine: type[WatchedCatalog] = WatchedCatalog
    watcher: type[Watcher] = Watcher


class Shared(Struct, frozen=True, kw_only=True):
    """What all members of a run share."""

    loop: VirtualLoop
    library: LibraryTime
    net: SimNet
    checks: Checks
    parts: Parts
    timing: Timing
    bootstrap: tuple[MemberAddress, ...]
    allowed: tuple[MemberAddress, ...]
    snapshot_after_bytes: int
    security: TransportSecurity


class _Wire:
    """Implements consensus.runtime.library.Net for one process."""

    def __init__(self, name: str, net: SimNet, clock: DriftingClock, *, voted: Callable[[], None]) -> None:
        self._name = name
        self._voted = voted
        self._net = net
        self._clock = clock

    def send(self, member_id: str, message: Message) -> bool:
        if isinstance(message, VoteGranted | RequestVote):
            self._voted()
        return self._net.send(self._name, member_id, message, after_s=self._clock.busy_s)

    def backlog_bytes(self, member_id: str) -> int:
        return self._net.backlog_bytes((self._name, member_id))

    def set_peers(self, members: Iterable[MemberAddress]) -> None:
        self._net.set_peers(self._name, (member.id for member in members))

    def connected(self) -> tuple[str, ...]:
        return self._net.connected(self._name)


class SimMember(Endpoint):
    """A controller with its disk; `start`, `kill` and `power_cut` as often as one likes."""

    def __init__(self, address: MemberAddress, shared: Shared, *, rng: random.Random, drift: float) -> None:
        self.name = address.id
        self.address = address
        self.is_up = False
        self.is_paused = False  # Its process waits for room on the disk.
        self.incarnation = 0
        self.checked_commit = 1
        self.paused_until_s = 0.0
        self.is_power_cut_next = False  # What an end inside a file operation is.
        self.kill_after_vote = False  # And start it again at once.
        self.clock = DriftingClock(shared.loop, rng, drift=drift)
        self.disk = shared.parts.disk(rng, spend=self._spend)
        self.voters_before: tuple[str, ...] = ()
        self.status: Status | None = None
        self.watcher: Watcher | None = None
        self.stopped_because: IsthmusError | None = None
        self._shared = shared
        self._rng = rng
        self._counters = Counters()  # Of all its processes.
        self._timer: asyncio.TimerHandle | None = None
        self._not_before_s = 0.0
        self._callers: dict[asyncio.Timeout, None] = {}  # A set would have another order in each process.

    # Life.

    def start(self) -> None:
        """Start a process on what the disk holds; one that waits for room goes on waiting."""
        if self.is_paused:
            return
        shared = self._shared
        self.incarnation += 1
        self.stopped_because = None
        self.machine = shared.parts.machine(self.name, shared.checks)
        self.watcher = None
        self.intake = Intake(self._counters)
        self.intake.allow(member for member in shared.allowed if member != self.address)
        self._member = shared.parts.member(
            self._settings(),
            intake=self.intake,
            counters=self._counters,
            clocks=PeerClocks(self.name, self.clock),
            applied=lambda _index: None,
            publish=self._publish,
            ready=lambda: None,
        )
        self._guarded(self._begin)

    def _begin(self) -> None:
        store = self._member.open_store()
        self.store = store
        self.is_up = True
        self.checked_commit = store.snapshot_index
        if self.watcher is None:
            self.watcher = self._shared.parts.watcher(self.name, self.machine, self._shared.checks)
            self.watcher.revision = self.machine.catalog.revision
        wire = _Wire(self.name, self._shared.net, self.clock, voted=self._voted)
        self._member.begin(store, wire, wake=self._wake)
        self._shared.net.look_around(self.name)
        self._wake()

    def _pause_for_room(self, error: NoRoomError) -> None:
        """Do as Member.run: end what was begun, and begin anew on the same state machine when there is room."""
        if self.disk.room_bytes is None:
            self._shared.checks.fail("nobody stops without a fault", f"{self.name}: {error}")
        was_up, self.is_up = self.is_up, False
        self.is_paused = True
        if was_up:
            self._member.end(self.store, error.message)
        self._member._pause(error.message)
        self._shared.net.look_around(self.name)
        self._shared.loop.call_later(ROOM_POLL_S, self._look_for_room, self.incarnation)

    def _look_for_room(self, incarnation: int) -> None:
        if self.is_up or self.incarnation != incarnation or not self.is_paused:
            return
        if self.disk.room_bytes is not None:
            self._shared.loop.call_later(ROOM_POLL_S, self._look_for_room, incarnation)
            return
        self.is_paused = False
        self._guarded(self._begin)

    def kill(self, *, power: bool) -> None:
        """End the process at once; with `power` the machine loses what was not synced."""
        self.is_up = self.is_paused = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if power:
            self.disk.power_cut()
        else:
            self.disk.process_ended()
        self._shared.net.look_around(self.name)
        for caller in list(self._callers):
            caller.reschedule(self._shared.loop.now_s)

    def _settings(self) -> Settings:
        shared = self._shared
        return Settings(
            me=self.address,
            directory=DIRECTORY,
            machine=self.machine,
            bootstrap=tuple(m for m in shared.bootstrap),
            security=shared.security,
            federation="sim",
            timing=shared.timing,
            listen=self.address.address,
            snapshot_after_bytes=shared.snapshot_after_bytes,
            disk=self.disk,
            clock=self.clock,
        )

    # Turns.

    def deliver(self, sender: str, message: Message) -> None:
        self._member.deliver(sender, message)
        self._wake()

    def peer_changed(self, peer: str, is_connected: bool) -> None:
        self._guarded(lambda: self._member.peer_changed(peer, is_connected))
        if self.is_up:
            self._wake()

    @property
    def snapshots_installed(self) -> int:
        return self._counters.snapshots_installed

    @property
    def raft(self) -> HardenedRaft:
        return self._member._raft

    def resume(self) -> None:
        """End a pause."""
        self.paused_until_s = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_up:
            self._wake()

    def _wake(self) -> None:
        self._schedule(self._shared.loop.now_s + TURN_S)

    def _schedule(self, at_s: float) -> None:
        at_s = max(at_s, self._not_before_s, self.paused_until_s)
        if self._timer is not None:
            if self._timer.when() <= at_s:
                return
            self._timer.cancel()
        self._timer = self._shared.loop.call_at(at_s, self._turn)

    def _turn(self) -> None:
        self._timer = None
        if not self.is_up:
            return
        if self._shared.loop.now_s < self.paused_until_s:
            self._schedule(self.paused_until_s)
            return
        self.voters_before = voter_ids(self.store.voters)
        self._guarded(self._member.turn)
        if self.is_up:
            self._guarded(self._look)
            self._schedule(self._shared.loop.now_s + max(TURN_S, self._member.rest_s))

    def _look(self) -> None:
        self._shared.checks.turned(self)
        assert self.watcher is not None
        self.watcher.look()

    def _guarded(self, action: Callable[[], object]) -> None:
        """Run the engine's code as this member, and end its process when the code ends it."""
        shared = self._shared
        shared.library.clock = self.clock
        self.clock.busy_s = 0.0
        try:
            action()
        except StoppedHere:
            self.kill(power=self.is_power_cut_next)
        except NoRoomError as error:
            try:
                self._pause_for_room(error)
            except StoppedHere:  # While it cleaned up.
                self.kill(power=self.is_power_cut_next)
        except IsthmusError as error:
            self.stopped_because = error
            if shared.checks.violation is None and not self._is_excused(error):
                shared.checks.fail("nobody stops without a fault", f"{self.name}: {error}")
            self.kill(power=False)
        except Exception as error:
            if shared.checks.violation is None:
                shared.checks.fail(
                    "the engine does not raise", f"{self.name}: {error!r}\n{traceback.format_exc()}"
                )
            self.kill(power=False)
        finally:
            self._not_before_s = shared.loop.now_s + self.clock.busy_s
            self.clock.busy_s = 0.0
            shared.library.clock = None

    def _is_excused(self, error: IsthmusError) -> bool:
        return not isinstance(error, CorruptError) and (
            self.disk.room_bytes is not None or self.disk.fail_syncs
        )

    def _voted(self) -> None:
        if self.kill_after_vote:
            self.kill_after_vote = False
            self._shared.loop.call_later(2 * TURN_S, self._restart, self.incarnation)

    def _restart(self, incarnation: int) -> None:
        if self.is_up and self.incarnation == incarnation:
            self.kill(power=self.is_power_cut_next)
            self.start()

    def _spend(self, seconds: float) -> None:
        self.clock.busy_s += seconds

    def _publish(self, view: View) -> None:
        self.status = view.status(self.clock.now_s())

    # Callers.

    async def propose(self, kind: Kind, body: bytes, *, timeout_ms: int) -> Applied:
        """Propose as EmbeddedEngine does; a process that ends leaves its callers without an answer."""
        if not self.is_up:
            raise UnavailableError(f"{self.name} does not run")
        try:
            async with asyncio.timeout(None) as scope:
                self._callers[scope] = None
                try:
                    deadline_s = self.clock.now_s() + timeout_ms / 1000
                    return await self.intake.propose(kind, body, deadline_s=deadline_s)
                finally:
                    del self._callers[scope]
        except TimeoutError as error:
            raise OutcomeUnknownError(f"{self.name} ended") from error

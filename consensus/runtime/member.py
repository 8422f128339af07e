"""One member at work, on the event loop of the engine's thread.

Each turn is one cycle: messages and proposals in, timers, one fdatasync, answers out.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct
from msgspec.structs import replace

from consensus.core.contract import Counters, MemberAddress, StateMachine
from consensus.core.membership import Membership, Voters
from consensus.core.messages import Appended, Message
from consensus.core.proposals import FIRST_REQUEST_MAX, ProposalTable
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK, Clock
from consensus.runtime.clocks import PeerClocks
from consensus.runtime.cycles import Cycles
from consensus.runtime.disk import FILE_DISK, DirectoryLock, Disk, NoRoomError
from consensus.runtime.hardened import HardenedRaft
from consensus.runtime.intake import Intake
from consensus.runtime.library import Net
from consensus.runtime.room import ROOM_MIN_BYTES, wait_for_room
from consensus.runtime.store import Progress, Store
from consensus.runtime.transport import Transport, TransportSecurity
from consensus.runtime.views import View
from federation.kernel.errors import InvalidInputError, cause_of

_log = structlog.get_logger(__name__)


class Settings(Struct, frozen=True, kw_only=True):
    """What an engine was constructed with; see EmbeddedEngine."""

    me: MemberAddress
    directory: Path
    machine: StateMachine
    bootstrap: Voters
    security: TransportSecurity
    federation: str
    timing: Timing
    listen: str
    snapshot_after_bytes: int
    disk: Disk = FILE_DISK
    clock: Clock = SYSTEM_CLOCK


def initial_view(settings: Settings) -> View:
    """Return the view of a member that has not begun."""
    return View(id=settings.me.id, role="stopped", membership=Membership(voters=settings.bootstrap))


class Member:
    """Owns the directory, the Raft state and the connections while `run` runs.

    `run` is the shell with lock, sockets and waiting around `open_store`, `begin`, `turn` and `end`,
    which use only the ports Disk, Net and Clock.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        intake: Intake,
        counters: Counters,
        clocks: PeerClocks,
        applied: Callable[[int], None],
        publish: Callable[[View], None],
        ready: Callable[[], object],
    ) -> None:
        """Store everything; `publish` takes the view after each cycle."""
        self._settings = settings
        self._intake = intake
        self._counters = counters
        self._clocks = clocks
        self._applied = applied
        self._publish = publish
        self._ready = ready
        self._is_ready = False
        self._is_called = False  # By proposals that came during the turn.
        self._wake: Callable[[], object] = _nobody_waits
        self._messages: deque[tuple[str, Message]] = deque()
        self._proposals = ProposalTable(first_request=int(settings.clock.fraction() * FIRST_REQUEST_MAX))
        self._seen_voters: dict[str, MemberAddress] = {}
        self._allowed: tuple[MemberAddress, ...] = ()
        self._progress: Progress | None = None  # The state machine outlives a store whose disk was full.
        self._room_needed_bytes = ROOM_MIN_BYTES
        self._last_view = initial_view(settings)
        self._leadership: tuple[str, int] = ("", 0)  # The leader that was last known, and its term.

    async def run(self) -> None:
        """Take part until cancelled; raises an IsthmusError when this member must stop.

        A full disk is no reason to stop: without a vote and without an acknowledgement the member
        waits for room, then begins anew from what is durable.
        """
        lock = DirectoryLock(self._settings.directory)
        try:
            while True:
                reason = await self._run_until_no_room()
                self._pause(reason)
                await wait_for_room(self._settings.directory, self._settings.disk, self._room_needed_bytes)
                _log.info("there is room again", member=self._settings.me.id)
        finally:
            self._intake.close("this member does not run")
            lock.release()

    async def _run_until_no_room(self) -> str:
        try:
            store = self.open_store()
            reason = "this member stops"
            try:
                await self._take_part(store)
            except BaseException as error:
                reason = str(cause_of(error)) or reason
                raise
            finally:
                self.end(store, reason)
        except BaseException as error:  # a group may hold the one kind that does not end us
            cause = cause_of(error)
            if not isinstance(cause, NoRoomError):
                raise
            return cause.message
        raise AssertionError("a member takes part until it is cancelled or fails")

    def _pause(self, reason: str) -> None:
        _log.error("disk is full", member=self._settings.me.id, reason=reason)
        self._messages.clear()
        self._seen_voters = {}
        self._last_view = replace(
            self._last_view,
            role="paused",
            leader=None,
            connected=(),
            replicas=(),
            problem=reason,
            contact_s=None,
        )
        self._publish(self._last_view)

    def open_store(self) -> Store:
        """Load journal and snapshot into the state machine; raises CorruptError, UnavailableError."""
        settings = self._settings
        return Store(
            settings.directory,
            founding_voters=settings.bootstrap,
            machine=settings.machine,
            counters=self._counters,
            snapshot_after_bytes=settings.snapshot_after_bytes,
            disk=settings.disk,
            clock=settings.clock,
            progress=self._progress,
        )

    def begin(self, store: Store, net: Net, *, wake: Callable[[], object]) -> None:
        """Take part over `net` from now on; `wake` is called, from any thread, when `turn` has work."""
        self._store = store
        self._net = net
        self._raft = self._make_raft(store, net)
        self._set_peers()
        self._intake.open(wake)

    def end(self, store: Store, reason: str = "this member stops") -> None:
        """Fail what is unfinished, for `reason`, and release the files."""
        self._proposals.fail_all(reason)
        self._intake.close(reason)
        self._progress = store.progress
        self._room_needed_bytes = store.room_needed_bytes
        store.close()

    def _make_raft(self, store: Store, net: Net) -> HardenedRaft:
        return HardenedRaft(
            self._settings.me,
            store=store,
            wire=net,
            timing=self._settings.timing,
            proposals=self._proposals,
            counters=self._counters,
            applied=self._applied,
            voters_changed=self._set_peers,
            clock=self._settings.clock,
        )

    async def _take_part(self, store: Store) -> None:
        settings = self._settings
        transport = Transport(
            settings.me,
            listen=settings.listen,
            federation=settings.federation,
            security=settings.security,
            timing=settings.timing,
            counters=self._counters,
            clocks=self._clocks,
            deliver=self.deliver,
            changed=self.peer_changed,
        )
        replay_to = store.journal.commit_index

        def cycle() -> float:
            began_s = time.perf_counter()
            self.turn()
            self._counters.turn.observe(int((time.perf_counter() - began_s) * 1e6))
            if not self._is_ready and self._store.applied_index >= replay_to and transport.listening.is_set():
                self._is_ready = True
                self._ready()
            return self.rest_s

        cycles = Cycles(cycle, tick_s=settings.timing.tick_ms / 1000)
        self._wake = cycles.wake
        self.begin(store, transport, wake=cycles.wake_from_elsewhere)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(transport.run(), name="raft-transport")
                tasks.create_task(cycles.run(), name="raft-cycles")
        finally:
            self._raft.close()

    @property
    def rest_s(self) -> float:
        """In how many seconds the next turn has work although no event calls for it; at most a tick."""
        if self._messages or self._is_called:
            return 0.0
        tick_s, rest_s = self._settings.timing.tick_ms / 1000, self._raft.rest_s
        return tick_s if rest_s is None else min(tick_s, rest_s)

    def turn(self) -> None:
        """Make one cycle; raises an IsthmusError when this member must stop."""
        if self._intake.allowed is not self._allowed:
            self._set_peers()
        while self._messages:
            sender, message = self._messages.popleft()
            try:
                self._raft.receive(sender, message)
            except InvalidInputError as error:
                _log.warning("message refused", peer=sender, reason=str(error))
        for proposal in self._intake.take():
            self._proposals.submit(proposal)
        self._raft.doTick(0.0)
        self._publish_view()  # First: whoever is told that a change is done must see it in the status.
        self._intake.deliver()  # What is committed is durable already: callers do not wait for this turn's disk.
        self._raft.finish_cycle()
        self._raft.announce()
        self._is_called = self._intake.expect(self._raft.proposer.wanted)

    def deliver(self, sender: str, message: Message) -> None:
        """Take a message of an authenticated peer for the next turn."""
        # Bounded by what the connections read in one turn of the loop: the next cycle follows it.
        self._messages.append((sender, message))
        if not self._can_wait(message):
            self._wake()

    def _can_wait(self, message: Message) -> bool:
        """True for an answer that makes nothing possible: the whole log is committed, and its sender has it.

        Of the answers to a single write all but those of a majority; the next tick takes them.
        """
        return (
            isinstance(message, Appended)
            and message.matched
            and self._store.journal.last_index < message.next_index <= self._raft.commit_index + 1
        )

    def peer_changed(self, member_id: str, is_connected: bool) -> None:
        """Begin or end sending to a peer."""
        self._raft.peer_changed(member_id, is_connected)
        self._wake()

    def _set_peers(self) -> None:
        """Know the voters, the allowed, and while joining whoever may be the leader."""
        me = self._settings.me.id
        self._allowed = self._intake.allowed
        voters = self._store.voters
        peers = {member.id: member for member in (*self._allowed, *self._store.membership.learners)}
        if self._raft.is_voter:
            self._seen_voters = {}
        else:
            # The log of a joining member passes through memberships of the past.
            self._seen_voters |= {member.id: member for member in (*self._settings.bootstrap, *voters)}
            peers |= self._seen_voters
        peers |= {member.id: member for member in voters}
        self._net.set_peers(peers.values())
        self._raft.set_learners({member.id for member in self._allowed} - {me})

    def _publish_view(self) -> None:
        self._last_view = self._view()
        self._publish(self._last_view)

    def _view(self) -> View:
        raft, store = self._raft, self._store
        leader, term = raft.leader_id, raft.term
        if leader is not None and (leader, term) != self._leadership:
            self._leadership = (leader, term)
            self._counters.leader_changes += 1
        is_leader, contact_s = raft.is_leader, raft.leader_contact_s
        journal = store.journal
        return View(
            id=self._settings.me.id,
            role=raft.role,
            membership=store.membership,
            term=term,
            leader=leader,
            commit_index=raft.commit_index,
            applied_index=store.applied_index,
            directory=journal.incarnation,
            connected=self._net.connected(),
            journal_bytes=journal.size_bytes,
            snapshot_index=store.snapshot_index,
            problem=raft.problem,
            last_index=journal.last_index,
            replicas=tuple(raft.replicas()) if is_leader else (),
            contact_s=contact_s,
            complete_s=raft.complete_as_of_s(contact_s),
            under_way_ms=0 if is_leader else self._settings.timing.round_trip_ms,
        )


def _nobody_waits() -> None:
    """What an event wakes while nobody drives the turns but the owner of `turn`."""

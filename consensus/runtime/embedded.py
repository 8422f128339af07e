"""The embedded engine: Raft in a thread with an event loop of its own.

Nothing that keeps the caller's loop busy delays a heartbeat there (the interpreter lock aside).
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from consensus.core.contract import Applied, Counters, MemberAddress, StateMachine, Status
from consensus.core.membership import check_voters, encode_member
from consensus.core.messages import TIMEOUT_MS_MAX
from consensus.core.proposals import Kind
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK, Clock
from consensus.runtime.clocks import PeerClocks
from consensus.runtime.disk import FILE_DISK, Disk
from consensus.runtime.intake import Intake
from consensus.runtime.member import Member, Settings, initial_view
from consensus.runtime.transport import TransportSecurity
from consensus.runtime.views import View
from federation.kernel.errors import (
    InvalidInputError,
    IsthmusError,
    LimitExceededError,
    OutcomeUnknownError,
    UnavailableError,
    cause_of,
)
from federation.kernel.limits import COMMAND_BYTES_MAX

SNAPSHOT_AFTER_BYTES = 16 * 1024 * 1024


class EmbeddedEngine:
    """A member of the log; implements consensus.core.contract.Consensus.

    `bootstrap` counts while the directory is empty: the founding voters with `me` among them, or, to
    join, members that exist already, without `me`. `listen` is where to listen when that is not the
    address that the others dial.
    """

    def __init__(
        self,
        me: MemberAddress,
        *,
        directory: Path,
        machine: StateMachine,
        bootstrap: tuple[MemberAddress, ...],
        security: TransportSecurity,
        federation: str,
        timing: Timing,
        listen: str | None = None,
        snapshot_after_bytes: int = SNAPSHOT_AFTER_BYTES,
        disk: Disk = FILE_DISK,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Store everything; raises InvalidInputError for an impossible bootstrap."""
        for member in check_voters(bootstrap):
            if member.id == me.id and member != me:
                raise InvalidInputError(f"bootstrap names {me.id} at {member.address}, expected {me.address}")
        self.ready = asyncio.Event()
        self._settings = Settings(
            me=me,
            directory=directory,
            machine=machine,
            bootstrap=bootstrap,
            security=security,
            federation=federation,
            timing=timing,
            listen=listen or me.address,
            snapshot_after_bytes=snapshot_after_bytes,
            disk=disk,
            clock=clock,
        )
        self._counters = Counters()
        self._clocks = PeerClocks(me.id, clock)
        self._intake = Intake(self._counters)
        self._callbacks: tuple[Callable[[int], None], ...] = ()
        # One reference, so that another thread never sees half of a view.
        self._view = initial_view(self._settings)

    async def run(self) -> None:
        """Take part until cancelled; raises the IsthmusError because of which this member must stop."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        member = Member(
            self._settings,
            intake=self._intake,
            counters=self._counters,
            clocks=self._clocks,
            applied=self._tell_applied,
            publish=self._publish,
            ready=lambda: loop.call_soon_threadsafe(self.ready.set),
        )
        thread = _MemberThread(member, ended=lambda: loop.call_soon_threadsafe(ended.set))
        thread.start()
        try:
            await ended.wait()
        finally:
            thread.cancel()
            await ended.wait()
            self.ready.clear()
            self._publish(
                replace(self._view, role="stopped", leader=None, connected=(), replicas=(), contact_s=None)
            )
        if thread.failure is not None:
            raise thread.failure

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """See the contract."""
        if len(command) > COMMAND_BYTES_MAX:
            raise LimitExceededError(
                f"command has {len(command)} bytes, expected at most {COMMAND_BYTES_MAX}"
            )
        return await self._propose("command", command, timeout_ms)

    async def read_barrier(self, *, timeout_ms: int) -> int:
        """See the contract; costs one entry of the log, shared by all who wait for the same cycle."""
        try:
            return (await self._propose("barrier", b"", timeout_ms)).index
        except OutcomeUnknownError as error:
            raise UnavailableError(f"read barrier failed: {error}") from error

    async def add_member(self, member: MemberAddress, *, timeout_ms: int) -> None:
        """See the contract."""
        await self._propose("add", encode_member(member), timeout_ms)

    async def remove_member(self, member_id: str, *, timeout_ms: int) -> None:
        """See the contract."""
        await self._propose("remove", member_id.encode(), timeout_ms)

    async def add_learner(self, member: MemberAddress, *, timeout_ms: int) -> None:
        """See the contract."""
        await self._propose("learner", encode_member(member), timeout_ms)

    async def promote(self, member_id: str, *, timeout_ms: int) -> None:
        """See the contract."""
        await self._propose("promote", member_id.encode(), timeout_ms)

    async def transfer_leadership(self, member_id: str, *, timeout_ms: int) -> None:
        """See the contract."""
        clock = self._settings.clock
        deadline_s = clock.now_s() + timeout_ms / 1000
        # The leader may be lost before it answers because it has handed over already.
        with contextlib.suppress(OutcomeUnknownError):
            await self._propose("transfer", member_id.encode(), timeout_ms)
        patience_s = 2 * self._settings.timing.election_max_ms / 1000
        again_s = clock.now_s() + patience_s
        while self._view.leader != member_id:
            left_s = deadline_s - clock.now_s()
            if left_s <= 0:
                raise UnavailableError(
                    f"member {self._view.leader or 'nobody'} leads after {timeout_ms} ms, not {member_id}"
                )
            if clock.now_s() >= again_s:
                # Its campaign failed: a voter was cut off, or campaigned as well.
                with contextlib.suppress(IsthmusError):
                    await self._propose("transfer", member_id.encode(), max(1, int(left_s * 1000)))
                again_s = clock.now_s() + patience_s
            await asyncio.sleep(self._settings.timing.tick_ms / 1000)

    def status(self) -> Status:
        """See the contract."""
        return self._view.status(self._settings.clock.now_s())

    def counters(self) -> Counters:
        """See the contract."""
        return self._counters

    def clocks(self) -> Mapping[str, int]:
        """See the contract."""
        return self._clocks.read()

    def allow(self, members: Iterable[MemberAddress]) -> None:
        """See the contract."""
        self._intake.allow(members)

    def on_applied(self, callback: Callable[[int], None]) -> None:
        """See the contract."""
        self._callbacks = (*self._callbacks, callback)

    async def _propose(self, kind: Kind, body: bytes, timeout_ms: int) -> Applied:
        if not 1 <= timeout_ms <= TIMEOUT_MS_MAX:
            raise InvalidInputError(f"timeout is {timeout_ms} ms, expected 1 to {TIMEOUT_MS_MAX}")
        return await self._intake.propose(
            kind, body, deadline_s=self._settings.clock.now_s() + timeout_ms / 1000
        )

    def _tell_applied(self, index: int) -> None:
        for callback in self._callbacks:
            callback(index)

    def _publish(self, view: View) -> None:
        self._view = view


class _MemberThread(threading.Thread):
    """Runs a member's loop; `failure` says why it ended by itself."""

    def __init__(self, member: Member, *, ended: Callable[[], object]) -> None:
        # A daemon: if the caller's loop dies without a word, the process can still end.
        super().__init__(name="raft", daemon=True)
        self.failure: BaseException | None = None
        self._member = member
        self._ended = ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._is_cancelled = False

    def run(self) -> None:
        """Run until cancelled or failed."""
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            return  # As asked.
        except BaseException as error:  # noqa: BLE001 # it is raised again in the caller's loop
            self.failure = cause_of(error)
        finally:
            self._ended()

    def cancel(self) -> None:
        """End the member from another thread."""
        with self._lock:
            self._is_cancelled = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _main(self) -> None:
        with self._lock:
            if self._is_cancelled:
                return
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            await self._member.run()
        finally:
            with self._lock:
                self._loop = None

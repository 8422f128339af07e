"""The catalog: a state machine that every member feeds with the same log.

`apply` is total (any bytes have an outcome), deterministic (equal logs give equal states and equal
answers) and the only way in. It has no clock: federation time is what `Tick` commands say. Readers take
`tables` once and keep a consistent version for as long as they like, from any thread.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from discovery.core.commands import (
    AcquireLease,
    AdvanceRehoming,
    BeginRehoming,
    Command,
    Judged,
    LeaseGrant,
    Outcome,
    PublishEndpoints,
    RemoveCluster,
    ResumeRehoming,
    ReturnRehoming,
    SweepRemoved,
    Tick,
    Write,
    decode_command,
    encode_outcome,
)
from discovery.core.draft import Draft
from discovery.core.drain_reports import settle_drains
from discovery.core.external import Dues, settle_changed
from discovery.core.external import settle as settle_external
from discovery.core.history import ACTOR_CHARS_MAX, Cause, History
from discovery.core.leases import Lease, LeaseTime, acquire, check_request
from discovery.core.model import FEDERATION_SCOPE, Change, ResourceKey
from discovery.core.ownership import check_federation_writer, check_speaks_for
from discovery.core.poison import controller_places, controllers_of
from discovery.core.publishing import publish, publish_lease
from discovery.core.quotas import check_growth
from discovery.core.rehoming import rehome
from discovery.core.removal import remove, sweep
from discovery.core.snapshots import State, decode_snapshot, encode_snapshot
from discovery.core.tables import EMPTY_TABLES, Tables, resource_prefix
from discovery.core.tokens import TokenIndex, is_token
from discovery.core.usage import Usage
from discovery.core.verdicts import concerns_verdicts, next_due, settle, touches_verdicts
from discovery.core.writes import write
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    InvalidInputError,
    IsthmusError,
    LimitExceededError,
    PreconditionError,
)
from federation.kernel.limits import CLUSTERS_MAX, COMMAND_BYTES_MAX, REQUESTS_KEPT_MAX
from federation.kernel.names import check_label
from federation.kernel.versions import SCHEMA_VERSION, STRICT_SCHEMA, command_schema

REQUEST_ID_CHARS_MAX = 128
# Outcomes are remembered: a message must not carry a whole command.
MESSAGE_CHARS_MAX = 500
# One publish lease for each cluster, and as many for other duties.
LEASES_MAX = 2 * CLUSTERS_MAX
LEASES_PER_CLUSTER_MAX = 8
_BEGINNING = LeaseTime(now_ms=0, ticked_ms=0)

_CLUSTERS = resource_prefix(FEDERATION_SCOPE, "Cluster")
_CONTROLLERS = resource_prefix(FEDERATION_SCOPE, "Controller")


class Catalog:
    """The replicated state. Everything but reading happens in the one thread that applies the log."""

    def __init__(self) -> None:
        self._changed: list[Callable[[int, tuple[Change, ...]], None]] = []
        self._reset: list[Callable[[int], None]] = []
        self._judged: list[Callable[[Judged], None]] = []
        self._load(
            State(tables=EMPTY_TABLES, now_ms=0, lease_time=_BEGINNING, fence=0, leases=(), requests=())
        )

    @property
    def tables(self) -> Tables:
        """The newest version; it never changes, a later call may return a later one."""
        return self._tables

    @property
    def revision(self) -> int:
        """Log index of the last command that changed a row."""
        return self._tables.revision

    @property
    def now_ms(self) -> int:
        """Federation time: the newest `Tick`."""
        return self._now_ms

    @property
    def usage(self) -> Usage:
        """What every cluster takes up; it changes as the log is applied."""
        return self._usage

    def lease(self, name: str) -> Lease | None:
        """The newest holder of a lease, which may have expired; None if nobody ever held it."""
        return self._leases.get(name)

    def kept_history(self) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """Return all changes that are remembered, by revision, oldest first. Safe from any thread."""
        return self._history.kept()

    def history_begins(self) -> int:
        """Every change after this revision is in `kept_history`."""
        return self._history.complete_after

    def cause(self, revision: int) -> Cause | None:
        """Return who made a kept revision, when, and what was there before. Safe from any thread."""
        return self._history.cause(revision)

    def history(self, after_revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """All changes after a revision, by revision; raises `CompactedError` when some are gone."""
        return self._history.after(after_revision)

    def on_change(self, callback: Callable[[int, tuple[Change, ...]], None]) -> None:
        """Call `callback` with each revision and its changes, in the applying thread; it must not raise."""
        self._changed.append(callback)

    def on_judged(self, callback: Callable[[Judged], None]) -> None:
        """Call `callback` with what became of each entry, but for ticks that did nothing; it must not raise."""
        self._judged.append(callback)

    def on_reset(self, callback: Callable[[int], None]) -> None:
        """Call `callback` with the new revision whenever a snapshot replaced everything; it must not raise."""
        self._reset.append(callback)

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply one entry of the log and return its packed `Outcome`. Never raises; `index` only grows."""
        try:
            read = _read(command, schema_max=self._schema_max)
        except IsthmusError as error:
            answer = self._refusal(error)
            self._tell(Judged(index=index, command=None, outcome=answer, changes=()))
            return encode_outcome(answer)
        if isinstance(read.body, Tick):
            # Repeating one does nothing, and they would push everything else out of the memory of requests.
            answer, changes = self._outcome(index, read)
            if changes or answer.code:
                self._tell(Judged(index=index, command=read, outcome=answer, changes=changes))
            return encode_outcome(answer)
        request = f"{read.proposer}/{read.request_id}"
        known = self._requests.get(request)
        if known is not None:
            return known
        answer, changes = self._outcome(index, read)
        outcome = encode_outcome(answer)
        self._requests[request] = outcome
        if len(self._requests) > REQUESTS_KEPT_MAX:
            del self._requests[next(iter(self._requests))]
        self._tell(Judged(index=index, command=read, outcome=answer, changes=changes))
        return outcome

    def _tell(self, judged: Judged) -> None:
        for changed in self._changed if judged.changes else ():
            changed(judged.index, judged.changes)
        for told in self._judged:
            told(judged)

    def snapshot(self) -> Iterator[bytes]:
        """Return the state as of this call in chunks of at most 256 KiB; commands may be applied meanwhile."""
        return encode_snapshot(self.state())

    def state(self) -> State:
        """Return all that the log has determined so far. To be called in the thread that applies it."""
        return State(
            tables=self._tables,
            now_ms=self._now_ms,
            lease_time=self._lease_time,
            fence=self._fence,
            leases=tuple(sorted(self._leases.items())),
            requests=tuple(self._requests.items()),
        )

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by a snapshot's.

        Raises `CorruptError` for damage and `PreconditionError` for a newer build's format; the state is
        then as before.
        """
        self._load(decode_snapshot(chunks))
        for callback in self._reset:
            callback(self.revision)

    def digest(self) -> str:
        """SHA-256 of the snapshot, as hex: equal on all members that have applied the same entries."""
        total = hashlib.sha256()
        for chunk in self.snapshot():
            total.update(chunk)
        return total.hexdigest()

    def _load(self, state: State) -> None:
        self._usage = Usage.of(state.tables)
        self._now_ms = state.now_ms
        self._lease_time = state.lease_time
        self._fence = state.fence
        self._leases = dict(state.leases)
        self._requests = dict(state.requests)
        self._history = History(complete_after=state.tables.revision)
        self._tables = state.tables
        self._tokens = TokenIndex(state.tables)
        self._verdict_due_ms = next_due(state.tables)
        self._dues = Dues(state.tables)
        self._know_controllers()

    def _know_controllers(self) -> None:
        """Note what commands are judged by, which follows from the Controllers of the tables."""
        # The newest schema that every one of them can apply: all builds find the same.
        self._schema_max = command_schema(spec.protocol for spec in controllers_of(self._tables))
        self._places = controller_places(self._tables)

    def _outcome(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        """Return the answer to a command, and the rows that it changed."""
        try:
            return self._execute(index, command)
        except IsthmusError as error:
            return self._refusal(error), ()
        except MemoryError:
            raise  # This member alone is in trouble: it must stop, not answer unlike the others.
        except Exception as error:  # noqa: BLE001 - an entry that trips over our own mistake must not stop every member for ever
            # Only the type: texts may hold addresses, which differ between members.
            return self._refusal(IsthmusError(f"defect in the catalog: {type(error).__name__}")), ()

    def _refusal(self, error: IsthmusError) -> Outcome:
        return Outcome(
            revision=self.revision, code=int(error.code), message=error.message[:MESSAGE_CHARS_MAX]
        )

    def _execute(self, index: int, command: Command) -> tuple[Outcome, tuple[Change, ...]]:
        draft = Draft(
            self._tables,
            index=index,
            now_ms=self._now_ms,
            usage=self._usage,
            schema=command.schema,
            places=self._places,
            tokens=self._tokens,
        )
        grant: LeaseGrant | None = None
        match command.body:
            case Write(operations=operations):
                write(draft, command.proposer, operations)
                self._check_growth(draft, command.body)
                settle_drains(draft, operations)
                if concerns_verdicts(draft):
                    settle(draft, self._lease_time.now_ms)
                settle_changed(draft, self._lease_time.now_ms)
            case PublishEndpoints() as batch:
                publish(draft, command.proposer, batch, self._leases.get(publish_lease(batch.cluster)))
                self._check_growth(draft, batch)
            case RemoveCluster() as removal:
                remove(draft, command.proposer, removal)
                settle(draft, self._lease_time.now_ms)
                settle_changed(draft, self._lease_time.now_ms)
            case SweepRemoved() as batch_of_rows:
                sweep(draft, command.proposer, batch_of_rows)
            case BeginRehoming() | AdvanceRehoming() | ReturnRehoming() | ResumeRehoming() as move:
                rehome(draft, command.proposer, move)
                settle(draft, self._lease_time.now_ms)
                settle_changed(draft, self._lease_time.now_ms)
            case AcquireLease() as request:
                grant = self._acquire(draft, command.proposer, request)
            case Tick(now_ms=now_ms):
                check_federation_writer(draft, command.proposer)
                self._now_ms = max(self._now_ms, now_ms)
                self._lease_time = self._lease_time.after(now_ms)
                draft.now_ms = self._now_ms
                if self._verdict_due_ms is not None and self._lease_time.now_ms >= self._verdict_due_ms:
                    settle(draft, self._lease_time.now_ms)
                settle_external(draft, self._dues.due(self._lease_time.now_ms), self._lease_time.now_ms)
        changes = draft.changes()
        if changes:
            self._commit(draft, changes, command)
        return Outcome(revision=self.revision, lease=grant), changes

    def _check_growth(self, draft: Draft, body: Write | PublishEndpoints) -> None:
        if draft.schema >= STRICT_SCHEMA:
            check_growth(self._tables, draft.usage, body)

    def _commit(self, draft: Draft, changes: tuple[Change, ...], command: Command) -> None:
        resources = tuple([change for change in changes if change.table == "resources"])
        gone = {ResourceKey.decode(change.key).name for change in resources if _removes_cluster(change)}
        if gone:
            self._leases = {
                name: lease for name, lease in self._leases.items() if name.partition("/")[2] not in gone
            }
        if isinstance(command.body, AdvanceRehoming):
            self._leases.pop(
                publish_lease(command.body.cluster), None
            )  # It may be another home's to take now.
        self._usage.take(draft.usage)
        # History first: who sees the new revision finds its changes there.
        cause = Cause(
            proposer=command.proposer,
            actor=command.actor[:ACTOR_CHARS_MAX],
            now_ms=self._now_ms,
            before=draft.before,
        )
        self._history.record(draft.index, changes, cause)
        self._tables = self._tables.with_changes(changes, draft.index)
        self._dues.take(resources)
        if resources:
            for change, before in zip(changes, draft.before, strict=True):
                if is_token(change):
                    self._tokens.take(before, change.value)
        if touches_verdicts(resources):
            self._verdict_due_ms = next_due(self._tables)
        if any(change.key.startswith(_CONTROLLERS) for change in resources):
            self._know_controllers()

    def _acquire(self, draft: Draft, proposer: str, request: AcquireLease) -> LeaseGrant:
        duty, slash, cluster = request.name.partition("/")
        check_label(duty, "lease: name")
        if slash:
            check_label(cluster, f"lease {duty}: cluster")
            check_speaks_for(draft, proposer, cluster, f"lease {request.name}")
        else:
            check_federation_writer(draft, proposer)
        check_request(request)
        known = self._leases.get(request.name)
        if known is None:
            self._check_room_for_lease(draft, request.name, cluster)
        lease, grant = acquire(known, request, now_ms=self._lease_time.now_ms, next_fence=self._fence + 1)
        self._leases[request.name] = lease
        self._fence = max(self._fence, lease.fence)
        return grant

    def _check_room_for_lease(self, draft: Draft, name: str, cluster: str) -> None:
        if len(self._leases) >= LEASES_MAX:
            raise LimitExceededError(f"lease {name}: there are {LEASES_MAX} leases already")
        if draft.schema < STRICT_SCHEMA:
            return
        # One cluster, or the duties of the federation, must not take the places of all others.
        most = LEASES_PER_CLUSTER_MAX if cluster else CLUSTERS_MAX
        if sum(other.partition("/")[2] == cluster for other in self._leases) >= most:
            raise LimitExceededError(f"lease {name}: {cluster or 'the federation'} has {most} leases already")


def _removes_cluster(change: Change) -> bool:
    return change.value is None and change.key.startswith(_CLUSTERS)


class _Envelope(msgspec.Struct, frozen=True):
    """What every build can read of a command."""

    schema: int = SCHEMA_VERSION


_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


def _read(data: bytes, *, schema_max: int) -> Command:
    if len(data) > COMMAND_BYTES_MAX:
        raise LimitExceededError(f"command has {len(data)} bytes, at most {COMMAND_BYTES_MAX} are allowed")
    _check_schema(data, schema_max)
    try:
        command = decode_command(data)
    except RecursionError as error:
        raise InvalidInputError("command nests too deep") from error
    if not 0 < len(command.request_id) <= REQUEST_ID_CHARS_MAX:
        raise InvalidInputError(
            f"command: request_id has {len(command.request_id)} characters, expected 1 to {REQUEST_ID_CHARS_MAX}"
        )
    check_label(command.proposer, "command: proposer")
    return command


def _check_schema(data: bytes, schema_max: int) -> None:
    """Refuse what an older member could not apply: members that answer unlike each other drift apart."""
    try:
        schema = _envelope_decoder.decode(data).schema
    except MALFORMED as error:
        raise InvalidInputError(f"command is not readable: {error}") from error
    if not 1 <= schema <= schema_max:
        raise PreconditionError(
            f"command has schema {schema}, expected 1 to {schema_max}, which every controller can apply"
        )

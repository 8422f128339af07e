"""The audit trail: one record for each change of the catalog, and for each write that was refused.

Every controller applies every entry of the log, so every controller has the whole trail: who asked for it,
which cluster's controller proposed it, what it touched and what became of it. What a controller refuses at
its edges, before it is proposed, is in that controller's trail alone. Here records wait, in bounded memory,
for `federation.app.audit_file` to write them.
"""

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from discovery.core.commands import (
    AcquireLease,
    AdvanceRehoming,
    BeginRehoming,
    Body,
    ClaimToken,
    Judged,
    Operation,
    Outcome,
    PublishEndpoints,
    Put,
    RemoveCluster,
    ResumeRehoming,
    ReturnRehoming,
    SweepRemoved,
    Tick,
    Write,
)
from discovery.core.history import ACTOR_CHARS_MAX
from discovery.core.model import EndpointKey
from federation.kernel.errors import Code, IsthmusError

# Waiting for the disk. A full batch of endpoints is one record.
RECORDS_QUEUED_MAX = 10_000
# One record names this many objects; their number is exact.
OBJECTS_NAMED_MAX = 20
MESSAGE_CHARS_MAX = 300
# The same refusal again within this time is counted, not recorded: nobody can push others' records out.
REPEATED_MS = 60_000
REFUSALS_REMEMBERED_MAX = 1_000
# Of one caller so many unlike ones are recorded in that time: what they are about is the caller's to choose.
REFUSALS_EACH_MAX = 200

Layer: TypeAlias = Literal["api", "agent", "mirror", "log"]

_REASONS = {
    Code.INVALID_ARGUMENT: "invalid",
    Code.NOT_FOUND: "conflict",
    Code.ALREADY_EXISTS: "conflict",
    Code.ABORTED: "conflict",
    Code.PERMISSION_DENIED: "not-allowed",
    Code.UNAUTHENTICATED: "not-allowed",
    Code.RESOURCE_EXHAUSTED: "limit",
    Code.FAILED_PRECONDITION: "precondition",
}


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One line of the trail."""

    unix_ms: int  # By this controller's clock.
    index: int  # Of the entry in the log; at the edges: of the newest entry then.
    layer: Layer
    action: str  # write, publish, claim, lease, tick, declare, or an HTTP method.
    result: Literal["done", "refused"]
    proposer: str = ""  # The cluster whose controller proposed it.
    actor: str = ""  # Who asked for it: an operator's or agent's name.
    request: str = ""  # The request id of the command.
    objects: tuple[str, ...] = ()  # The first OBJECTS_NAMED_MAX.
    count: int = 0  # Of all objects.
    reason: str = ""  # Of a refusal: not-allowed, limit, invalid, precondition, conflict or other.
    message: str = ""
    repeated: int = 0  # Refusals like this one that were counted since, and not recorded.


class AuditTrail:
    """Records from the thread that applies the log and from the event loop; bounded, never blocks."""

    def __init__(self, *, unix_ms: Callable[[], int] = lambda: int(time.time() * 1000)) -> None:
        self.after_index = 0  # Entries up to this one were recorded by an earlier run.
        self.recorded = 0
        self.dropped = 0  # Records that found no room.
        self.refused: Counter[tuple[Layer, str]] = Counter()  # By layer and reason.
        self._unix_ms = unix_ms
        self._lock = threading.Lock()
        self._index = 0
        self._records: deque[AuditRecord] = deque()
        self._fences: dict[str, int] = {}
        self._refusals: OrderedDict[tuple[str, ...], tuple[int, int]] = OrderedDict()
        self._callers: OrderedDict[tuple[str, ...], tuple[int, int]] = OrderedDict()

    def judged(self, entry: Judged) -> None:
        """Take what became of an entry of the log; called in the thread that applies it."""
        if entry.index <= self.after_index:
            return  # The log is replayed after a start.
        self._index = entry.index
        command, outcome = entry.command, entry.outcome
        if command is None:
            self._refuse("log", "unreadable", outcome)
        elif outcome.code:
            self._refuse(
                "log",
                _action(command.body),
                outcome,
                proposer=command.proposer,
                actor=command.actor,
                objects=_objects(command.body),
                count=_count(command.body),
            )
        elif entry.changes or self._changes_holder(command.body, outcome):
            self._add(
                AuditRecord(
                    unix_ms=self._unix_ms(),
                    index=entry.index,
                    layer="log",
                    action=_action(command.body),
                    result="done",
                    proposer=command.proposer,
                    actor=command.actor[:ACTOR_CHARS_MAX],
                    request=command.request_id,
                    objects=_objects(command.body),
                    count=_count(command.body),
                )
            )

    def refuse(self, layer: Layer, action: str, code: int, message: str, *, actor: str, what: str) -> None:
        """Record what this controller refused before it was proposed."""
        outcome = Outcome(code=code, message=message)
        self._refuse(layer, action, outcome, actor=actor, objects=(what[:ACTOR_CHARS_MAX],), count=1)

    def refuse_body(self, body: Body, error: IsthmusError, *, proposer: str, actor: str) -> None:
        """Record what a mirror of cluster `proposer` wanted proposed, and this controller refused."""
        self._refuse(
            "mirror",
            _action(body),
            Outcome(code=int(error.code), message=error.message),
            proposer=proposer,
            actor=actor,
            objects=_objects(body),
            count=_count(body),
        )

    def take(self) -> list[AuditRecord]:
        """Return the records since the last call."""
        with self._lock:
            records = list(self._records)
            self._records.clear()
        return records

    def lose(self, count: int) -> None:
        """Count records that could not be written."""
        with self._lock:
            self.dropped += count

    def _refuse(
        self,
        layer: Layer,
        action: str,
        outcome: Outcome,
        *,
        proposer: str = "",
        actor: str = "",
        objects: tuple[str, ...] = (),
        count: int = 0,
    ) -> None:
        reason = _reason(outcome.code)
        now_ms = self._unix_ms()
        with self._lock:
            self.refused[layer, reason] += 1
            repeated = self._repeated((layer, action, reason, proposer, actor, *objects[:1]), now_ms)
            # Whom a mirror names as the actor is its own word; its cluster is not.
            if repeated is None or self._has_enough((layer, proposer or actor), now_ms):
                return
        self._add(
            AuditRecord(
                unix_ms=now_ms,
                index=self._index,
                layer=layer,
                action=action,
                result="refused",
                proposer=proposer,
                actor=actor[:ACTOR_CHARS_MAX],
                objects=objects,
                count=count,
                reason=reason,
                message=outcome.message[:MESSAGE_CHARS_MAX],
                repeated=repeated,
            )
        )

    def _repeated(self, refusal: tuple[str, ...], now_ms: int) -> int | None:
        """How often the like was left out before this one, None when this one is left out, too."""
        recorded_ms, repeated = self._refusals.pop(refusal, (None, 0))
        if recorded_ms is not None and 0 <= now_ms - recorded_ms < REPEATED_MS:
            self._refusals[refusal] = (recorded_ms, repeated + 1)
            return None
        self._refusals[refusal] = (now_ms, 0)
        if len(self._refusals) > REFUSALS_REMEMBERED_MAX:
            self._refusals.popitem(last=False)
        return repeated

    def _has_enough(self, caller: tuple[str, ...], now_ms: int) -> bool:
        """True for a caller of whom REFUSALS_EACH_MAX are recorded of late; counts one for any other."""
        began_ms, count = self._callers.pop(caller, (now_ms, 0))
        if not 0 <= now_ms - began_ms < REPEATED_MS:
            began_ms, count = now_ms, 0
        self._callers[caller] = (began_ms, min(count + 1, REFUSALS_EACH_MAX))
        if len(self._callers) > REFUSALS_REMEMBERED_MAX:
            self._callers.popitem(last=False)
        return count >= REFUSALS_EACH_MAX

    def _changes_holder(self, body: Body, outcome: Outcome) -> bool:
        """True when a lease went to another holder: its extensions are no news."""
        grant = outcome.lease
        if not isinstance(body, AcquireLease) or grant is None or not grant.granted:
            return False
        if self._fences.get(body.name) == grant.fence:
            return False
        self._fences[body.name] = grant.fence  # As many as the catalog has leases.
        return True

    def _add(self, record: AuditRecord) -> None:
        with self._lock:
            if len(self._records) >= RECORDS_QUEUED_MAX:
                self.dropped += 1
                return
            self._records.append(record)
            self.recorded += 1


def _reason(code: int) -> str:
    try:
        return _REASONS.get(Code(code), "other")
    except ValueError:
        return "other"


def _action(body: Body) -> str:
    match body:
        case Write():
            return "write"
        case PublishEndpoints():
            return "publish"
        case AcquireLease():
            return "lease"
        case RemoveCluster():
            return "remove-cluster"
        case SweepRemoved():
            return "sweep-removed"
        case BeginRehoming():
            return "begin-rehoming"
        case AdvanceRehoming():
            return "advance-rehoming"
        case ReturnRehoming():
            return "return-rehoming"
        case ResumeRehoming():
            return "resume-rehoming"
        case Tick():
            return "tick"


def _objects(body: Body) -> tuple[str, ...]:
    """The first OBJECTS_NAMED_MAX of what a command is about."""
    match body:
        case Write(operations=operations):
            return tuple(_operation(one) for one in operations[:OBJECTS_NAMED_MAX])
        case PublishEndpoints(put=put, remove=remove):
            named = (
                *(f"remove {_endpoint(key)}" for key, _, _ in remove[:OBJECTS_NAMED_MAX]),
                *(f"put {_endpoint(row.key)}" for row in put[:OBJECTS_NAMED_MAX]),
            )
            return named[:OBJECTS_NAMED_MAX]
        case AcquireLease(name=name, holder=holder):
            return (f"{name[:ACTOR_CHARS_MAX]} by {holder[:ACTOR_CHARS_MAX]}",)
        case RemoveCluster(cluster=cluster) | SweepRemoved(cluster=cluster):
            return (cluster[:ACTOR_CHARS_MAX],)
        case (
            BeginRehoming(cluster=cluster)
            | AdvanceRehoming(cluster=cluster)
            | ReturnRehoming(cluster=cluster)
            | ResumeRehoming(cluster=cluster)
        ):
            return (cluster[:ACTOR_CHARS_MAX],)
        case Tick(now_ms=now_ms):
            return (str(now_ms),)


def _count(body: Body) -> int:
    match body:
        case Write(operations=operations):
            return len(operations)
        case PublishEndpoints(put=put, remove=remove):
            return len(put) + len(remove)
        case _:
            return 1


def _operation(operation: Operation) -> str:
    if isinstance(operation, ClaimToken):
        return f"claim {operation.purpose[:20]}"
    return f"{'put' if isinstance(operation, Put) else 'delete'} {str(operation.key)[:ACTOR_CHARS_MAX]}"


def _endpoint(key: EndpointKey) -> str:
    return "/".join(key)[:ACTOR_CHARS_MAX]

"""What may be proposed to the log. A command is the only way to change the catalog.

The member that receives a write stamps `proposer` with the cluster of the controller that sent it,
taken from its certificate; the state machine compares it with the owner of every record touched.
"""

from typing import TypeAlias

import msgspec

from discovery.core.model import Change, Endpoint, EndpointKey, ResourceKey
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError
from federation.kernel.versions import SCHEMA_VERSION


class Put(msgspec.Struct, frozen=True, kw_only=True, tag="put"):
    """Create or replace a resource's spec, labels or status."""

    key: ResourceKey
    spec: bytes | None = None  # JSON; None leaves it as it is.
    status: bytes | None = None
    labels: tuple[tuple[str, str], ...] | None = None
    # None: whatever is there. 0: must not exist. Otherwise: must be at this revision.
    expected_revision: int | None = None


class Delete(msgspec.Struct, frozen=True, kw_only=True, tag="delete"):
    """Remove a resource; one that is not there is an error, NotFound."""

    key: ResourceKey
    expected_revision: int | None = None


class ClaimToken(msgspec.Struct, frozen=True, kw_only=True, tag="claim"):
    """Use up a join token: once, or again by the same key. Expiry is judged by federation time."""

    secret_sha256: str
    purpose: str
    claimant: str  # SHA-256 of the public key that the claim is for.


Operation: TypeAlias = Put | Delete | ClaimToken


class Write(msgspec.Struct, frozen=True, kw_only=True, tag="write"):
    """All operations, in order, or none."""

    operations: tuple[Operation, ...]


class PublishEndpoints(msgspec.Struct, frozen=True, kw_only=True, tag="publish"):
    """Set and remove endpoints of one cluster; only rows newer than the catalog's take effect."""

    cluster: str
    fence: int  # Of the cluster's publish lease; an older holder's is refused.
    put: tuple[Endpoint, ...] = ()
    remove: tuple[tuple[EndpointKey, int, int], ...] = ()  # Key, and the (incarnation, sequence) it ended at.


class AcquireLease(msgspec.Struct, frozen=True, kw_only=True, tag="lease"):
    """Take, or extend, a named lease. Granted if free, expired by federation time, or already the holder's."""

    name: str
    holder: str
    ttl_ms: int


class RemoveCluster(msgspec.Struct, frozen=True, kw_only=True, tag="remove-cluster"):
    """Take a cluster out of the federation: at once for everybody; its rows are deleted by `SweepRemoved`."""

    cluster: str
    removed_by: str  # SPIFFE ID of the operator.
    forced: bool = False  # Although it is not drained.


class SweepRemoved(msgspec.Struct, frozen=True, kw_only=True, tag="sweep-removed"):
    """Delete some of the rows that a removed cluster left."""

    cluster: str
    rows_max: int


class BeginRehoming(msgspec.Struct, frozen=True, kw_only=True, tag="begin-rehoming"):
    """A remote cluster begins to move to another home, whose operator agreed by a join token for it."""

    cluster: str
    to: str
    secret_sha256: str  # Of the token.
    started_by: str  # SPIFFE ID of the operator.
    within_ms: int


class AdvanceRehoming(msgspec.Struct, frozen=True, kw_only=True, tag="advance-rehoming"):
    """The next step: callers have learnt of a move, or all endpoints show the trust domain of the home that the cluster gets."""

    cluster: str
    state: str  # Which the step leaves: proposed twice, it is taken once.


class ReturnRehoming(msgspec.Struct, frozen=True, kw_only=True, tag="return-rehoming"):
    """A move is taken back: the processes that have changed already change back."""

    cluster: str
    reason: str


class ResumeRehoming(msgspec.Struct, frozen=True, kw_only=True, tag="resume-rehoming"):
    """A move that is taken back goes on after all: the home that it comes back to is gone."""

    cluster: str
    reason: str
    forced: bool = False  # Although nobody misses that home: an operator says that it is gone.


class Tick(msgspec.Struct, frozen=True, kw_only=True, tag="tick"):
    """Federation time as a majority's clocks show it, told by the leader; never runs backwards, an older one changes nothing."""

    now_ms: int


Body: TypeAlias = (
    Write
    | PublishEndpoints
    | AcquireLease
    | RemoveCluster
    | SweepRemoved
    | BeginRehoming
    | AdvanceRehoming
    | ReturnRehoming
    | ResumeRehoming
    | Tick
)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the log."""

    request_id: str  # The same id takes effect once and gets the same answer, however often proposed.
    proposer: str  # Cluster of the controller that proposed it, by its certificate.
    body: Body
    schema: int = SCHEMA_VERSION
    # Who asked for it, such as an operator: for the audit and the history. Nothing is decided by it.
    actor: str = ""


class LeaseGrant(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `AcquireLease`: `fence` grows with each change of holder, in log order."""

    holder: str
    fence: int
    granted: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command. `code` 0 is success, otherwise a `Code` and its message."""

    revision: int = 0
    code: int = 0
    message: str = ""
    lease: LeaseGrant | None = None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one entry of the log, for the audit; an answer that was given again is not judged again."""

    index: int
    command: Command | None  # None: it could not be read.
    outcome: Outcome
    changes: tuple[Change, ...]


_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(Command)
_outcome_decoder = msgspec.msgpack.Decoder(Outcome)


def encode_command(command: Command) -> bytes:
    """The command's bytes in the log."""
    return _encoder.encode(command)


def decode_command(data: bytes) -> Command:
    """Read a command; raises `InvalidInputError` on anything else."""
    try:
        return _command_decoder.decode(data)
    except MALFORMED as error:
        raise InvalidInputError(f"command: {error}") from error


def encode_outcome(outcome: Outcome) -> bytes:
    """The outcome's bytes, kept for repeated requests."""
    return _encoder.encode(outcome)


def decode_outcome(data: bytes) -> Outcome:
    """The inverse of `encode_outcome`."""
    return _outcome_decoder.decode(data)

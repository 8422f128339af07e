"""What a mirror asks of a member: to propose its writes, and for a barrier.

A mirror has no log. Its proposals travel as commands to a member, over mutual TLS; the member stamps them with
the cluster in the mirror's certificate, whatever they say, and answers with what the state machine answered. An
error of ours comes as an answer too, so that a mirror can tell "nothing happened" from a broken connection,
after which it does not know.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
import msgspec

from certs.core.spiffe import SpiffeId, system_identity
from certs.runtime.grpc_security import peer_identity
from discovery.core.commands import Command, decode_command, encode_command
from discovery.core.history import ACTOR_CHARS_MAX
from discovery.core.quotas import quota_of
from discovery.core.tables import Tables
from federation.api.admission import agent_key
from federation.api.audit import AuditTrail
from federation.api.fairness import Fairness
from federation.api.health import check_asker
from federation.api.messages import Message
from federation.api.mirror_writes import check_mirror_body
from federation.api.proposer import Log
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    InvalidInputError,
    IsthmusError,
    NotAllowedError,
    PreconditionError,
)
from federation.kernel.limits import COMMAND_BYTES_MAX

FORWARD_SERVICE = "isthmus.v1.Forward"  # Methods Propose and Barrier, both unary.

TIMEOUT_MS_MAX = 10_000

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_encoder = msgspec.msgpack.Encoder()


class ForwardRequest(Message, frozen=True, kw_only=True):
    """Forward/Propose: a command as the mirror made it. Forward/Barrier: without one."""

    timeout_ms: int
    command: bytes = b""


class ForwardReply(Message, frozen=True, kw_only=True):
    """What the state machine answered, or a barrier's revision; with a `code`, why neither."""

    result: bytes = b""
    revision: int = 0
    code: int = 0
    message: str = ""


_request_decoder = msgspec.msgpack.Decoder(ForwardRequest)


def check_mirror(peer: SpiffeId, tables: Tables) -> str:
    """Return the cluster of a mirror; raises NotAllowedError for anybody but an enrolled one."""
    check_asker(peer, tables)
    system = system_identity(peer)
    assert system is not None  # As `check_asker` found.
    if agent_key(system.cluster, "controller", system.id).encode() not in tables.resources:
        raise NotAllowedError(f"{peer} is not enrolled as a mirror, or was evicted")
    return system.cluster


class ForwardService:
    """Handlers of FORWARD_SERVICE on a member. The peer was verified by the interceptor."""

    def __init__(
        self,
        log: Log,
        *,
        tables: Callable[[], Tables],
        schema: Callable[[], int],
        audit: AuditTrail,
        peer: Callable[[], SpiffeId] = peer_identity,
    ) -> None:
        self._log = log
        self._tables = tables
        self._schema = schema
        self._audit = audit
        self._peer = peer
        self._fairness = Fairness(lambda cluster: quota_of(tables(), cluster))

    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        return grpc.method_handlers_generic_handler(
            FORWARD_SERVICE,
            {
                "Propose": grpc.unary_unary_rpc_method_handler(self.propose),
                "Barrier": grpc.unary_unary_rpc_method_handler(self.barrier),
            },
        )

    async def propose(self, request: bytes, _context: Context) -> bytes:
        """Commit a mirror's command in the name of its cluster."""
        return await self._answer(request, self._propose)

    async def barrier(self, request: bytes, _context: Context) -> bytes:
        """Answer with a revision that holds every write finished before the call."""
        return await self._answer(request, self._barrier)

    async def _answer(
        self, raw: bytes, act: Callable[[ForwardRequest, str], Awaitable[ForwardReply]]
    ) -> bytes:
        try:
            cluster = check_mirror(self._peer(), self._tables())
            with self._fairness.call(cluster):
                reply = await act(_decode(raw), cluster)
        except IsthmusError as error:
            reply = ForwardReply(code=int(error.code), message=error.message)
        return _encoder.encode(reply)

    async def _propose(self, request: ForwardRequest, cluster: str) -> ForwardReply:
        if len(request.command) > COMMAND_BYTES_MAX:
            raise InvalidInputError(
                f"the forwarded command has {len(request.command)} bytes, at most {COMMAND_BYTES_MAX} are allowed"
            )
        command = decode_command(request.command)
        self._fairness.count(
            cluster, command.body
        )  # Also what is refused: each refusal is a record of the audit trail.
        self._check_body(command)
        schema = self._schema()
        if command.schema > schema:
            raise PreconditionError(
                f"the forwarded command has schema {command.schema}, every controller can apply {schema}"
            )
        # Nothing that the state machine judges by is the mirror's own word: an older schema has weaker rules.
        stamped = msgspec.structs.replace(
            command, proposer=cluster, schema=schema, actor=_said(command.actor, self._peer())
        )
        applied = await self._log.propose(encode_command(stamped), timeout_ms=_timeout_ms(request))
        return ForwardReply(result=applied.result)

    def _check_body(self, command: Command) -> None:
        """Raise what `check_mirror_body` raises, and record it: the log will not."""
        peer = self._peer()
        mirror = system_identity(peer)
        assert mirror is not None  # As `check_mirror` found.
        try:
            check_mirror_body(command.body, mirror, self._tables())
        except IsthmusError as error:
            self._audit.refuse_body(command.body, error, proposer=mirror.cluster, actor=str(peer))
            raise

    async def _barrier(self, request: ForwardRequest, _cluster: str) -> ForwardReply:
        await self._log.read_barrier(timeout_ms=_timeout_ms(request))
        return ForwardReply(revision=self._tables().revision)


def _said(actor: str, peer: SpiffeId) -> str:
    """Who asked, by the word of a mirror, which may be false: the audit says whose word it is."""
    if not actor:
        return ""
    word = f" (said by {peer})"
    return actor[: max(0, ACTOR_CHARS_MAX - len(word))] + word[:ACTOR_CHARS_MAX]


def encode_forward(request: ForwardRequest) -> bytes:
    """Return the request's bytes."""
    return _encoder.encode(request)


def decode_forward_reply(data: bytes) -> ForwardReply:
    """Read an answer; raises `InvalidInputError` on anything else."""
    try:
        return msgspec.msgpack.decode(data, type=ForwardReply)
    except MALFORMED as error:
        raise InvalidInputError(f"forwarded: the member's answer cannot be read: {error}") from error


def _decode(raw: bytes) -> ForwardRequest:
    try:
        return _request_decoder.decode(raw)
    except MALFORMED as error:
        raise InvalidInputError(f"forwarded: the request cannot be read: {error}") from error


def _timeout_ms(request: ForwardRequest) -> int:
    return min(max(1, request.timeout_ms), TIMEOUT_MS_MAX)

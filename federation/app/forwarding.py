"""The mirror's way to the log: a member that it can reach proposes, bars and signs for it.

What was certainly not done and what may have been done stay apart: a member that cannot be reached, or that
answers an error, did nothing (or says itself that it does not know); a connection that breaks after the call
went out leaves it open.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import msgspec

from certs.core.spiffe import SpiffeId, parse
from certs.runtime.identity import LeafIdentity
from discovery.core.commands import decode_outcome
from federation.agent.control import from_rpc_error, open_channel, sign
from federation.agent.controller_choice import connect
from federation.agent.directory import DirectoryStore, members_preferred, signing_controllers
from federation.api.forwarding import (
    FORWARD_SERVICE,
    ForwardReply,
    ForwardRequest,
    decode_forward_reply,
    encode_forward,
)
from federation.api.messages import NamedController, SignReply, SignRequest
from federation.kernel.errors import (
    IsthmusError,
    NotAllowedError,
    OutcomeUnknownError,
    UnavailableError,
    error_class,
)

# A channel is made anew after this time: with the certificate of then, to the best member of then.
CHANNEL_AGE_MAX_S = 30.0
# A member that failed is asked last for a while.
AVOID_S = 5.0
# Beyond the time that the member has.
ANSWER_MARGIN_S = 1.0

# Sent by our interceptor, or by gRPC, before any handler ran.
_NOTHING_RAN = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What the state machine answered."""

    result: bytes


class _Line:
    """A channel to one member, closed when it is retired and no call uses it."""

    def __init__(self, member: str, channel: grpc.aio.Channel, opened_at_s: float) -> None:
        self.member = member
        self.channel = channel
        self.opened_at_s = opened_at_s
        self.calls = 0
        self.retired = False


class ForwardingLog:
    """A log for `Proposer` whose entries a member proposes; afterwards the own copy has them.

    `reached` waits until the copy has a revision.
    """

    def __init__(
        self,
        cluster: str,
        *,
        leaf: LeafIdentity,
        directory: DirectoryStore,
        reached: Callable[[int], Awaitable[None]],
    ) -> None:
        self._cluster = cluster
        self._leaf = leaf
        self._directory = directory
        self._reached = reached
        self._line: _Line | None = None
        self._connecting = asyncio.Lock()
        self._avoid_until_s: dict[str, float] = {}  # Bounded by the directory's names.

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        """Have `command` committed and return what the state machine answered, once the copy has it too.

        Raises UnavailableError when nothing happened, OutcomeUnknownError when nobody knows.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_ms / 1000
        reply = await self._call("Propose", ForwardRequest(timeout_ms=timeout_ms, command=command))
        outcome = decode_outcome(reply.result)
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._reached(outcome.revision if not outcome.code else 0)
        except TimeoutError as error:
            raise OutcomeUnknownError(
                f"the write has revision {outcome.revision}, which has not come back to this mirror in {timeout_ms} ms"
            ) from error
        return Applied(result=reply.result)

    async def read_barrier(self, *, timeout_ms: int) -> int:
        """Return once the copy holds every write finished before the call; raises UnavailableError."""
        deadline_s = asyncio.get_running_loop().time() + timeout_ms / 1000
        try:
            reply = await self._call("Barrier", ForwardRequest(timeout_ms=timeout_ms))
            async with asyncio.timeout_at(deadline_s):
                await self._reached(reply.revision)
        except TimeoutError as error:
            raise UnavailableError(
                f"this mirror is behind its member by more than {timeout_ms} ms"
            ) from error
        except OutcomeUnknownError as error:  # A barrier changes nothing.
            raise UnavailableError(error.message) from error
        return reply.revision

    async def close(self) -> None:
        """Let go of the connection."""
        if self._line is not None:
            await self._line.channel.close(None)
            self._line = None

    async def _call(self, method: str, request: ForwardRequest) -> ForwardReply:
        async with self._member() as line:
            call: Any = line.channel.unary_unary(f"/{FORWARD_SERVICE}/{method}", None, None)
            timeout_s = request.timeout_ms / 1000 + ANSWER_MARGIN_S
            try:
                raw: bytes = await call(encode_forward(request), timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                await self._left(line)
                if error.code() in _NOTHING_RAN:
                    raise UnavailableError(
                        f"{line.member} does not serve this mirror: {error.details()}"
                    ) from error
                raise OutcomeUnknownError(
                    f"{line.member} was asked and did not answer: {from_rpc_error(error, method.lower()).message}"
                ) from error
        reply = decode_forward_reply(raw)
        if reply.code:
            failure = error_class(reply.code)(f"{line.member}: {reply.message}")
            if isinstance(failure, UnavailableError | OutcomeUnknownError):
                await self._left(line)  # Another member may know a leader.
            raise failure
        return reply

    @contextlib.asynccontextmanager
    async def _member(self) -> AsyncIterator[_Line]:
        """Lend the line to the best member that answers; raises UnavailableError when none does."""
        async with self._connecting:
            now_s = asyncio.get_running_loop().time()
            line = self._line
            if line is not None and now_s - line.opened_at_s > CHANNEL_AGE_MAX_S:
                await self._retire(line)
            line = self._line or await self._connect(now_s)
            self._line = line
            line.calls += 1
        try:
            yield line
        finally:
            line.calls -= 1
            if line.retired and not line.calls:
                await line.channel.close(None)

    async def _connect(self, now_s: float) -> _Line:
        problems: list[str] = []
        for member in self._candidates(now_s):
            try:
                channel = await connect(member, self._leaf, self._directory)
            except IsthmusError as error:
                problems.append(f"{member.name}: {error.message}")
                self._avoid_until_s[member.name] = now_s + AVOID_S
                continue
            return _Line(member.name, channel, asyncio.get_running_loop().time())
        raise UnavailableError(f"no member can be reached: {'; '.join(problems) or 'none is known'}")

    def _candidates(self, now_s: float) -> list[NamedController]:
        """The members by preference; those to avoid come last."""
        members = members_preferred(self._directory.current, self._cluster)
        names = {member.name for member in members}
        self._avoid_until_s = {
            name: until_s
            for name, until_s in self._avoid_until_s.items()
            if until_s > now_s and name in names
        }
        return sorted(members, key=lambda member: member.name in self._avoid_until_s)

    async def _left(self, line: _Line) -> None:
        """Ask another member next time."""
        self._avoid_until_s[line.member] = asyncio.get_running_loop().time() + AVOID_S
        await self._retire(line)

    async def _retire(self, line: _Line) -> None:
        if self._line is line:
            self._line = None
        line.retired = True
        if not line.calls:
            await line.channel.close(None)


class ForwardingSigner:
    """Has members of its own trust domain sign for the processes that ask this mirror."""

    def __init__(self, cluster: str, *, leaf: LeafIdentity, directory: DirectoryStore) -> None:
        self._cluster = cluster
        self._leaf = leaf
        self._directory = directory

    async def sign_asked(
        self, peer: SpiffeId, csr: bytes, identity: str, asked_by: str
    ) -> tuple[tuple[bytes, ...], int]:
        """Return what a member signed for `peer`; raises UnavailableError when none can be asked."""
        if asked_by:
            raise NotAllowedError(
                f"{peer} asks for {asked_by[:300]}: a mirror does not sign for others, ask a member"
            )
        reply = await self.sign(SignRequest(csr=csr, identity=identity, caller=str(peer)))
        return reply.chain, reply.not_after_ms

    async def sign(self, request: SignRequest) -> SignReply:
        """Ask the members that sign here, one after the other; a refusal is an answer."""
        problems: list[str] = []
        domain = parse(request.identity).trust_domain
        for controller in signing_controllers(self._directory.current, self._cluster, domain):
            if controller.spec.role != "member":
                continue
            try:
                async with open_channel(controller, self._leaf, self._directory) as channel:
                    return await sign(channel, request)
            except (UnavailableError, OutcomeUnknownError) as error:
                problems.append(f"{controller.name}: {error.message}")
        raise UnavailableError(f"sign: {'; '.join(problems) or f'no member signs for {self._cluster}'}")

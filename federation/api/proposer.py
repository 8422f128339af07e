"""Writes to the catalog: stamps a command, proposes it, turns its outcome into a value or an error."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Protocol, TypeVar

from discovery.core.commands import (
    Body,
    Command,
    Operation,
    Outcome,
    Write,
    decode_outcome,
    encode_command,
)
from discovery.core.history import ACTOR_CHARS_MAX
from federation.kernel.errors import LimitExceededError, OutcomeUnknownError, UnavailableError, error_class
from federation.kernel.limits import COMMAND_BYTES_MAX
from federation.kernel.versions import SCHEMA_VERSION

WRITE_TIMEOUT_MS = 10_000
_ATTEMPT_TIMEOUT_MS = 4_000
_RETRY_MIN_S = 0.05
_RETRY_MAX_S = 0.5

# Who asked for what is proposed in this context, "" where nobody did: the API sets it for each request.
ACTOR: ContextVar[str] = ContextVar("isthmus_actor", default="")

T = TypeVar("T")


class AppliedEntry(Protocol):
    """What we need of consensus' answer."""

    @property
    def result(self) -> bytes:
        """What the state machine answered."""
        ...


class Log(Protocol):
    """What we need of consensus."""

    async def propose(self, command: bytes, *, timeout_ms: int) -> AppliedEntry:
        """Commit `command` and return what this member's state machine answered."""
        ...

    async def read_barrier(self, *, timeout_ms: int) -> int:
        """Return once local state holds every write finished before the call."""
        ...


class Proposer:
    """Proposes in the name of one cluster. Every write is retried under one request id until its deadline.

    `schema` gives the newest command schema that every live controller can apply.
    """

    def __init__(self, log: Log, *, cluster: str, schema: Callable[[], int] = lambda: SCHEMA_VERSION) -> None:
        self._log = log
        self._cluster = cluster
        self._schema = schema

    async def write(self, *operations: Operation, request_id: str = "") -> Outcome:
        """Apply all `operations` or none; raises the refusal as the error that its code names."""
        return await self.propose(Write(operations=operations), request_id=request_id)

    async def propose(
        self, body: Body, *, request_id: str = "", timeout_ms: int = WRITE_TIMEOUT_MS
    ) -> Outcome:
        """Commit `body`, exactly once even if it had to be sent again.

        Raises UnavailableError when it certainly did not happen, OutcomeUnknownError when it may have,
        and the state machine's own refusal otherwise.
        """
        command = Command(
            request_id=request_id or uuid.uuid4().hex,
            proposer=self._cluster,
            body=body,
            schema=self._schema(),
            actor=ACTOR.get()[:ACTOR_CHARS_MAX],
        )
        data = encode_command(command)
        if len(data) > COMMAND_BYTES_MAX:
            raise LimitExceededError(
                f"the write has {len(data)} bytes, at most {COMMAND_BYTES_MAX} are allowed"
            )
        outcome = decode_outcome(await self._commit(data, timeout_ms))
        if outcome.code:
            raise error_class(outcome.code)(outcome.message)
        return outcome

    async def barrier(self, *, timeout_ms: int = _ATTEMPT_TIMEOUT_MS) -> None:
        """Return once local state holds every write finished before the call; raises UnavailableError."""
        await self.repeated(lambda left_ms: self._log.read_barrier(timeout_ms=left_ms), timeout_ms)

    async def _commit(self, data: bytes, timeout_ms: int) -> bytes:
        applied = await self.repeated(
            lambda left_ms: self._log.propose(data, timeout_ms=min(left_ms, _ATTEMPT_TIMEOUT_MS)), timeout_ms
        )
        return applied.result

    async def repeated(self, attempt: Callable[[int], Awaitable[T]], timeout_ms: int) -> T:
        """Repeat `attempt` until it succeeds or the time is up: there may be no leader for a moment.

        It gets the milliseconds that are left, and must do no harm when it is made twice.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        pause = _RETRY_MIN_S
        unknown = False
        while True:
            left_ms = max(1, int((deadline - loop.time()) * 1000))
            try:
                return await attempt(left_ms)
            except (UnavailableError, OutcomeUnknownError) as error:
                # Safe to send again: the state machine remembers the request id.
                unknown = unknown or isinstance(error, OutcomeUnknownError)
                if loop.time() + pause >= deadline:
                    if unknown:
                        raise OutcomeUnknownError(
                            f"no answer within {timeout_ms} ms, the write may still take effect: {error.message}"
                        ) from error
                    raise
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, _RETRY_MAX_S)

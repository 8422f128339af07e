"""Two logs for a Proposer: one that answers what the test says, one that feeds a real catalog."""

from collections.abc import Callable

import msgspec

from discovery.core.commands import Command, Outcome, decode_command, encode_outcome
from federation.kernel.errors import IsthmusError
from tests.unit.discovery.builders import Log


class Applied(msgspec.Struct, frozen=True):
    """What consensus answers."""

    result: bytes


class ScriptedLog:
    """Answers proposals from a script: an outcome, or an error to raise; the last one is repeated."""

    def __init__(self, *script: Outcome | IsthmusError) -> None:
        self._script = list(script)
        self.proposed: list[Command] = []
        self.barriers = 0

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        self.proposed.append(decode_command(command))
        return Applied(encode_outcome(self._next()))

    async def read_barrier(self, *, timeout_ms: int) -> int:
        self.barriers += 1
        return self._next().revision

    def _next(self) -> Outcome:
        answer = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(answer, IsthmusError):
            raise answer
        return answer


class CatalogLog:
    """Applies each proposal to a catalog; `before` may change it, or raise, in between."""

    def __init__(self, log: Log, before: Callable[[Command], None] = lambda _command: None) -> None:
        self._log = log
        self._before = before
        self.proposed: list[Command] = []

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        self.proposed.append(decode_command(command))
        self._before(self.proposed[-1])
        self._log.entry(command)
        return Applied(self._log.catalog.apply(self._log.index, command))  # The remembered answer.

    async def read_barrier(self, *, timeout_ms: int) -> int:
        return self._log.index

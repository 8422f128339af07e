"""A log without members: what is proposed is committed at once."""

import msgspec

from tests.unit.discovery.builders import Log


class Applied(msgspec.Struct):
    result: bytes


class DirectLog:
    """A log of which everything is committed at once."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def propose(self, command: bytes, *, timeout_ms: int) -> Applied:
        self._log.index += 1
        return Applied(self._log.catalog.apply(self._log.index, command))

    async def read_barrier(self, *, timeout_ms: int) -> int:
        return self._log.index

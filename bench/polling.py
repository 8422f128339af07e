"""Asks a sidecar over and over on one connection, at a known pace."""

import asyncio
import json
import time
from typing import Self

from msgspec import Struct

from chaos.lab import topology
from chaos.lab.processes import LabError

# Each answer is one request of an application or a direct answer of Envoy; a faster pace would take the cores
# from what is measured.
PERIOD_S = 0.003
TIMEOUT_S = 30.0


class Seen(Struct, frozen=True, kw_only=True):
    """When the first wanted answer came, and how finely that was looked for."""

    took_ms: float  # From the given start to the end of the answer.
    request_ms: float  # How long that request itself took.
    gap_ms: float  # From the beginning of the request before it: by so much it may be late.


class Poller:
    """One HTTP/1.1 connection to the outbound listener of a sidecar."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection(address, topology.OUTBOUND_PORT))

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()

    async def until(self, service: str, cluster: str, *, start_s: float) -> Seen:
        """Ask for `service` until an application of `cluster` answers; raises LabError after TIMEOUT_S.

        `start_s` is the value of `time.perf_counter` from which time counts.
        """
        before_s = asked_s = start_s
        while True:
            before_s, asked_s = asked_s, time.perf_counter()
            if asked_s - start_s > TIMEOUT_S:
                raise LabError(f"{service} is not answered by {cluster} within {TIMEOUT_S:g} s")
            answerer = await self.answerer(service)
            done_s = time.perf_counter()
            if answerer == cluster:
                return Seen(
                    took_ms=(done_s - start_s) * 1000,
                    request_ms=(done_s - asked_s) * 1000,
                    gap_ms=(asked_s - before_s) * 1000,
                )
            await asyncio.sleep(max(0.0, asked_s + PERIOD_S - done_s))

    async def answerer(self, service: str) -> str:
        """Return the cluster whose application answered a request, or an empty text when none did.

        Raises LabError when the sidecar does not answer HTTP.
        """
        host = f"{service}.{topology.NAMESPACE}:{topology.SERVICE_PORT}"
        self._writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                head = await self._reader.readuntil(b"\r\n\r\n")
                body = await self._reader.readexactly(_content_length(head))
        except (TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise LabError(f"the sidecar did not answer for {service}: {error!r}") from error
        return str(json.loads(body)["cluster"]) if head.split(b" ", 2)[1] == b"200" else ""


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise LabError(f"answer without content-length: {head!r}")

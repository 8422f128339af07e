"""Cutting a member off without root: it can neither be dialled nor dial, and live connections break."""

import asyncio
import ssl
from collections.abc import Sequence

from consensus.core.contract import MemberAddress
from tests.integration.consensus.pki import FileSecurity


class CuttableSecurity:
    """Refuses to make contexts while its member is cut off, so that no connection begins."""

    def __init__(self, inner: FileSecurity) -> None:
        self._inner = inner
        self.is_cut = False

    def server_context(self) -> ssl.SSLContext:
        self._check()
        return self._inner.server_context()

    def client_context(self) -> ssl.SSLContext:
        self._check()
        return self._inner.client_context()

    def verify(self, peer_chain_der: Sequence[bytes]) -> str:
        return self._inner.verify(peer_chain_der)

    def _check(self) -> None:
        if self.is_cut:
            raise ConnectionRefusedError("cut off by the test")


class Forwarder:
    """Stands at a member's address and passes bytes to where the member really listens."""

    def __init__(self, member: MemberAddress, listen: str) -> None:
        self._host, port = member.address.split(":")
        self._port = int(port)
        self._target = listen.split(":")
        self._writers: set[asyncio.StreamWriter] = set()

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        server = await asyncio.start_server(self._serve, self._host, self._port)
        tasks.create_task(self._close_at_end(server))

    def break_connections(self) -> None:
        """Break every connection through here."""
        for writer in self._writers:
            writer.transport.abort()

    async def _close_at_end(self, server: asyncio.Server) -> None:
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_member = await asyncio.open_connection(self._target[0], int(self._target[1]))
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, to_member[1]}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, to_member[1]))
                tasks.create_task(_copy(to_member[0], writer))
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()

"""A long way between two places: a TCP relay that delivers every byte late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK_BYTES = 64 * 1024
CHUNKS_UNDER_WAY_MAX = 1_000


@asynccontextmanager
async def relay(
    listen: tuple[str, int], target: tuple[str, int], *, round_trip_s: float
) -> AsyncIterator[None]:
    """Relay connections from `listen` to `target` as if they were `round_trip_s` apart.

    The kernel completes TCP's handshake with the relay at once, so what the caller sends first is held for the
    round trip that the handshake would have taken.
    """

    async with asyncio.TaskGroup() as tasks:
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = tasks.create_task(_serve(reader, writer, target, round_trip_s))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        server = await asyncio.start_server(connected, *listen)
        try:
            yield
        finally:
            server.close()
            for connection in tuple(connections):
                connection.cancel()


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: tuple[str, int], round_trip_s: float
) -> None:
    far_writer: asyncio.StreamWriter | None = None
    try:
        far_reader, far_writer = await asyncio.open_connection(*target)
        async with asyncio.TaskGroup() as ways:
            ways.create_task(_carry(reader, far_writer, round_trip_s / 2, first_s=round_trip_s))
            ways.create_task(_carry(far_reader, writer, round_trip_s / 2, first_s=0.0))
    except* OSError:
        pass  # One side is gone: so is the connection.
    finally:
        writer.close()
        if far_writer is not None:
            far_writer.close()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, *, first_s: float
) -> None:
    """Write what is read, `delay_s` later; the first of it `first_s` later still."""
    loop = asyncio.get_running_loop()
    earliest_s = loop.time() + first_s + delay_s
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_UNDER_WAY_MAX)

    async def read() -> None:
        chunk = b"begun"
        while chunk:
            chunk = await reader.read(CHUNK_BYTES)
            await under_way.put((max(earliest_s, loop.time() + delay_s), chunk))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        while True:
            due_s, chunk = await under_way.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if not chunk:
                writer.close()
                return
            writer.write(chunk)
            await writer.drain()

"""An HTTP port holds so many connections, and those who came first are served on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from federation.api.accepting import listen_on, serve_http
from tests.support.wait import eventually_async

WAIT_S = 60.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


@asynccontextmanager
async def serving(connections_max: int) -> AsyncIterator[tuple[str, int]]:
    application = web.Application()
    application.router.add_get("/", _hello)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None
    listener = listen_on("127.0.0.1", 0)
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(serve_http(listener, runner.server, connections_max=connections_max))
            yield listener.getsockname()
            task.cancel()
    finally:
        await runner.cleanup()
    assert listener.fileno() == -1


async def answered(connection: Connection) -> bool:
    """Ask for / and return whether there was an answer."""
    reader, writer = connection
    try:
        writer.write(GET)
        await writer.drain()
        async with asyncio.timeout(WAIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(b"hello"))
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    return head.startswith(b"HTTP/1.1 200")


async def test_who_comes_when_there_are_enough_is_closed_and_the_first_are_served_on() -> None:
    async with serving(2) as address:
        first, second = [await asyncio.open_connection(*address) for _ in range(2)]
        assert await answered(first)
        assert await answered(second)

        third = await asyncio.open_connection(*address)
        assert not await answered(third)
        assert await answered(first)

        second[1].close()

        async def another() -> bool:
            return await answered(await asyncio.open_connection(*address))

        await eventually_async(another, timeout_s=WAIT_S)

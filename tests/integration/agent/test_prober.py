"""Probes against real sockets: an application that is up, down, silent, or answers nonsense."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from federation.agent.probe import Prober, ProbeTarget, Thresholds
from tests.integration.agent.fake_mesh import application
from tests.support.loopback import LoopbackBlock
from tests.support.wait import eventually_async

WAIT_S = 60.0
PORT = 9000

Loopback = Callable[[], LoopbackBlock]


def target(host: str, kind: str) -> ProbeTarget:
    return ProbeTarget(
        kind="http" if kind == "http" else "tcp",
        host=host,
        port=PORT,
        path="/",
        interval_ms=50,
        timeout_ms=300,
        thresholds=Thresholds(failures=2, successes=1),
    )


@asynccontextmanager
async def probing(one: ProbeTarget) -> AsyncIterator[tuple[Prober, list[bool]]]:
    verdicts: list[bool] = []
    prober = Prober(one, on_verdict=verdicts.append)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(prober.run())
        try:
            yield prober, verdicts
        finally:
            task.cancel()


@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_verdicts_follow_the_application_and_each_is_told_once(loopback: Loopback, kind: str) -> None:
    host = loopback().host(1)
    async with probing(target(host, kind)) as (prober, verdicts):
        await eventually_async(lambda: verdicts == [False], timeout_s=WAIT_S)
        assert f"{host}" in prober.why
        async with application(host, PORT):
            await eventually_async(lambda: verdicts == [False, True], timeout_s=WAIT_S)
            assert prober.why == ""
        await eventually_async(lambda: verdicts == [False, True, False], timeout_s=WAIT_S)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n", "status 500", id="an-error"),
        pytest.param(b"SSH-2.0-nonsense\r\n\r\n", "", id="not-http"),
        pytest.param(b"", "no answer within 300 ms", id="silence"),
    ],
)
async def test_an_http_probe_believes_only_a_good_answer(loopback: Loopback, answer: bytes, why: str) -> None:
    host = loopback().host(1)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        await reader.read()  # Until the probe gives up.
        writer.close()

    server = await asyncio.start_server(handle, host, PORT)
    async with server, probing(target(host, "http")) as (prober, verdicts):
        await eventually_async(lambda: verdicts == [False], timeout_s=WAIT_S)
        assert why in prober.why


@pytest.mark.parametrize(
    ("named", "statuses", "why"),
    [
        ("", (), "status 421, expected 2xx or 3xx"),
        ("pay.example", (), ""),
        ("pay.example", (200, 204), ""),
        ("pay.example", (201, 301), "status 204, expected 201 or 301"),
        ("", (421,), ""),
    ],
)
async def test_an_http_probe_asks_for_a_name_and_knows_what_is_healthy(
    loopback: Loopback, named: str, statuses: tuple[int, ...], why: str
) -> None:
    host = loopback().host(1)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        is_known = b"\r\nHost: pay.example\r\n" in asked
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n" % (b"204 No" if is_known else b"421 No"))
        writer.close()

    asking = msgspec.structs.replace(target(host, "http"), named=named, statuses=statuses)
    server = await asyncio.start_server(handle, host, PORT)
    async with server, probing(asking) as (prober, verdicts):
        await eventually_async(lambda: verdicts == [not why], timeout_s=WAIT_S)
        assert why in prober.why


async def test_a_redirect_is_healthy_and_not_followed(loopback: Loopback) -> None:
    host = loopback().host(1)
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).split()[1])
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, host, PORT)
    async with server, probing(target(host, "http")) as (_, verdicts):
        await eventually_async(lambda: len(asked) > 2, timeout_s=WAIT_S)
    assert verdicts == [True]
    assert set(asked) == {b"/"}

"""The load sends on schedule, counts what it should have sent, and says meanwhile how it is doing."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from chaos.load.client import Client, due
from chaos.load.records import LoadStatus, Plan, Sent, Stream, Target
from chaos.shop.app import CHAIN_PATH, Instance
from tests.support.wait import eventually_async

STREAM = Stream(kind="single", targets=(), rate_per_s=100)
PLAN = Plan(caller="beta", streams=(STREAM,), seconds_max=5)


@pytest.mark.parametrize(
    ("elapsed_s", "handled", "expected"),
    [
        pytest.param(1.0, 100, 100, id="on-time"),
        pytest.param(1.0, 101, 101, id="just-sent"),
        pytest.param(2.0, 50, 200, id="held-up"),
        pytest.param(60.0, 400, 500, id="never-more-than-the-plan"),
    ],
)
def test_requests_that_were_due_when_the_load_was_stopped_count_as_planned(
    elapsed_s: float, handled: int, expected: int
) -> None:
    assert due(PLAN, STREAM, elapsed_s, handled) == expected


async def load(plan: Plan, live: Path, *, answers: int) -> tuple[Client, Sent]:
    """Run a plan until it has `answers`, then stop it."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        client = Client(plan, session)
        running = tasks.create_task(client.run(live))
        await eventually_async(
            lambda: len(client.lines) >= answers, timeout_s=60, message=f"{answers} requests were answered"
        )
        client.stop()
    return client, running.result()


@asynccontextmanager
async def shop() -> AsyncIterator[Plan]:
    """Yield a plan that calls payments, the last of the chain, which calls nobody, and a port that refuses."""
    runner = web.AppRunner(
        Instance("payments", "delta", "delta-1", outbound="").application(), access_log=None
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # Nobody else gets the port, and nobody listens.
        try:
            yield plan(runner.addresses[0], refusing.getsockname())
        finally:
            await runner.cleanup()


def plan(serving: tuple[str, int], refusing: tuple[str, int]) -> Plan:
    """Return a plan of two streams: of single calls every second fails."""
    url, dead_url = (f"http://{host}:{port}" for host, port in (serving, refusing))
    good = Target(caller="beta", service="payments", url=f"{url}/")
    dead = Target(caller="beta", service="nothing", url=f"{dead_url}/")
    chain = Target(caller="beta", service="chain", url=f"{url}{CHAIN_PATH}")
    return Plan(
        caller="beta",
        streams=(
            Stream(kind="single", targets=(good, dead), rate_per_s=100),
            Stream(kind="chain", targets=(chain,), rate_per_s=20),
        ),
        seconds_max=60,
    )


def test_each_request_is_one_line_and_says_who_answered(tmp_path: Path) -> None:
    async def run() -> tuple[Client, Sent]:
        async with shop() as plan:
            return await load(plan, tmp_path / "live.json", answers=24)

    client, sent = asyncio.run(run())

    assert 24 <= len(client.lines) <= sent.planned
    for kind in ("single", "chain"):
        numbers = sorted(line.number for line in client.lines if line.kind == kind)
        assert numbers == list(range(len(numbers))), "none is left out, none is sent twice"
    by_service = {line.service: line for line in client.lines}
    assert by_service["payments"].instance == "delta-1"
    assert by_service["chain"].hops == ("payments delta/delta-1",)
    assert (by_service["nothing"].ok, by_service["nothing"].status) == (False, 0)
    assert by_service["nothing"].error.startswith("ClientConnectorError: ")


def test_the_status_on_disk_is_what_happened_so_far(tmp_path: Path) -> None:
    live = tmp_path / "live.json"

    async def run() -> tuple[Client, LoadStatus]:
        async with shop() as plan:
            client, _ = await load(plan, live, answers=60)
        return client, client.status(max(line.done_s for line in client.lines))

    client, status = asyncio.run(run())

    on_disk = msgspec.json.decode(live.read_bytes(), type=LoadStatus)
    assert on_disk.caller == "beta"
    assert 0 < on_disk.sent <= on_disk.planned
    assert status.sent == len(client.lines)
    assert status.failed == sum(not line.ok for line in client.lines)
    assert 0 < status.failed_per_s < status.rate_per_s
    assert 0 < status.p50_ms <= status.p99_ms
    assert [path.name for path in tmp_path.iterdir()] == [live.name], "nothing half written is left"

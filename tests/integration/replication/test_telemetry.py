"""Logs that programs can read, and the metrics port."""

import asyncio
import contextlib
import io
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry, Gauge

from federation.app.telemetry import Facts, MetricsEndpoint, set_up_logging
from federation.kernel.errors import InvalidInputError, PreconditionError

HOST = "127.107.2.1"


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """Give the log back afterwards as it was."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    yield io.StringIO()
    root.level, root.handlers[:] = before
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_each_line_is_one_json_object(logs: io.StringIO) -> None:
    set_up_logging("info", stream=logs)
    structlog.get_logger("x").info("hello\nworld", count=1, odd=object())
    logging.getLogger("library").warning("from %s", "outside")
    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    ours, theirs, failed = (json.loads(line) for line in logs.getvalue().splitlines())
    assert (ours["event"], ours["level"], ours["count"]) == ("hello\nworld", "info", 1)
    assert ours["odd"].startswith("<object")
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"]) == ("from outside", "warning")
    assert "ValueError: no" in failed["exception"]


def test_lines_below_the_level_are_left_out(logs: io.StringIO) -> None:
    set_up_logging("error", stream=logs)
    structlog.get_logger("x").warning("quiet")
    logging.getLogger("library").info("quiet")
    assert logs.getvalue() == ""


def test_people_on_a_terminal_get_text(logs: io.StringIO) -> None:
    terminal = Terminal()
    set_up_logging("info", stream=terminal)
    structlog.get_logger("x").info("hello")
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_an_unknown_level_is_named_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match="'loud' is not a level: expected one of debug, info"):
        set_up_logging("loud")


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


@contextlib.asynccontextmanager
async def served(address: str, ready: tuple[bool, Facts]) -> AsyncIterator[None]:
    registry = CollectorRegistry()
    Gauge("isthmus_test", "A figure", registry=registry).set(7)
    endpoint = MetricsEndpoint(address, registry, lambda: ready)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(endpoint.run())
        try:
            async with asyncio.timeout(30):
                await endpoint.ready.wait()
            yield
        finally:
            task.cancel()


async def get(address: str, path: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_the_metrics_port_says_whether_the_process_can_work_and_why_not(ready: bool, status: int) -> None:
    async def scenario() -> None:
        address = free_address()
        async with served(address, (ready, {"missing": ["a copy"]})):
            code, body = await get(address, "/readyz")
            assert (code, json.loads(body)) == (status, {"ready": ready, "missing": ["a copy"]})
            assert await get(address, "/livez") == (200, "ok\n")
            assert "isthmus_test 7.0" in (await get(address, "/metrics"))[1]
            assert (await get(address, "/other"))[0] == 404

    asyncio.run(scenario())


def test_a_metrics_port_that_is_taken_is_an_error_that_names_it() -> None:
    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            address = f"{HOST}:{taken.getsockname()[1]}"
            with pytest.raises(PreconditionError, match=f"metrics: {address} cannot be listened on"):
                await MetricsEndpoint(address, CollectorRegistry(), lambda: (True, {})).run()

    asyncio.run(scenario())

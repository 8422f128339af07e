"""What a controller asks of agents, by the protocol that they speak."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from discovery.core.model import unpack_endpoint
from federation.api.agent_stream import ANSWERS_QUEUED_MAX, AgentStream
from federation.api.messages import (
    PROTOCOL_QUESTIONS,
    AgentHello,
    ControllerMessage,
    Declare,
    DeclareAck,
    TrafficReport,
    WatchDrains,
    WatchedDrain,
)
from federation.api.registry import ClusterRegistry
from federation.kernel.versions import PROTOCOL_VERSION
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import endpoint, founded

HANG_S = 30.0
BETA = WatchedDrain(cluster="beta", started_ms=7)


class Watcher:
    """beta is drained; keeps what was reported of it."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def watched(self) -> AsyncIterator[tuple[WatchedDrain, ...]]:
        yield (BETA,)

    def take(self, cluster: str, _report: TrafficReport) -> None:
        self.taken.append(cluster)


@pytest.mark.parametrize(
    ("protocol", "asked"),
    [
        pytest.param(PROTOCOL_QUESTIONS - 1, False, id="that-does-not-know-the-question"),
        pytest.param(PROTOCOL_QUESTIONS, True, id="the-first-that-does"),
        pytest.param(PROTOCOL_VERSION, True, id="ours"),
    ],
)
async def test_an_agent_is_asked_about_drains_if_its_protocol_has_the_question(
    protocol: int, asked: bool
) -> None:
    rules: Any = SimpleNamespace(agent="one", trust_domain="alpha.example")
    registry: Any = SimpleNamespace(cluster="alpha")
    nobody: Any = None
    watcher = Watcher()
    hello = AgentHello(incarnation=1, protocol=protocol)
    stream = AgentStream(rules, registry, hello, nobody, nobody, watcher)
    await stream.say_drains()
    stream._report(TrafficReport(drained="beta", started_ms=7, services=()))
    assert watcher.taken == ["alpha"] * asked
    said = [] if stream._answers.empty() else [stream._answers.get_nowait()]
    assert said == [WatchDrains(drains=(BETA,))] * asked
    with pytest.raises(asyncio.QueueEmpty):
        stream._answers.get_nowait()


class Wire:
    """A stream's context that keeps what was written."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    async def write(self, raw: bytes) -> None:
        self.written.append(msgspec.msgpack.decode(raw, type=ControllerMessage))

    def acknowledged(self, level: str) -> list[int]:
        return [one.number for one in self.written if isinstance(one, DeclareAck) and one.level == level]


async def test_while_nothing_becomes_global_an_agent_is_heard_however_often_it_speaks() -> None:
    registry = ClusterRegistry(
        "alpha", catalog=founded().catalog, lease_ms=10_000, clock=lambda: 0.0, changed=lambda *_: None
    )
    rules: Any = SimpleNamespace(agent="agent-1", trust_domain="alpha.example", refusal=lambda _endpoint: "")
    nobody: Any = None
    wire: Any = Wire()
    stream = AgentStream(rules, registry, AgentHello(incarnation=1), wire, nobody, nobody)
    registry.open("agent-1", 1, stream)
    last = 2 * ANSWERS_QUEUED_MAX

    async def requests() -> AsyncIterator[bytes]:
        for number in range(1, last + 1):
            row = endpoint(name="e0", version=(1, number))
            yield msgspec.msgpack.encode(Declare(number=number, put=(row,), complete=number == 1))

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(stream.write())
        acknowledging = tasks.create_task(stream.acknowledge())
        async with asyncio.timeout(HANG_S):
            await stream.read(requests())
        await eventually_async(
            lambda: wire.acknowledged("local") == list(range(1, last + 1)), timeout_s=HANG_S
        )
        assert wire.acknowledged("global") == []
        registry.published(registry.version, 7)
        await eventually_async(lambda: wire.acknowledged("global")[-1:] == [last], timeout_s=HANG_S)
        acknowledging.cancel()
        writing.cancel()
    ((_, row),) = registry.rows()
    assert unpack_endpoint(row).version == (1, last)

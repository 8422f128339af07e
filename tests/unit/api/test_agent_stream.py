"""What a controller asks of agents, by the protocol that they speak."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from federation.api.agent_stream import AgentStream
from federation.api.messages import PROTOCOL_QUESTIONS, AgentHello, TrafficReport, WatchDrains, WatchedDrain
from federation.kernel.versions import PROTOCOL_VERSION

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
async def test_an_agent_is_asked_about_drains_if_its_protocol_has_the_question(protocol: int, asked: bool):
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

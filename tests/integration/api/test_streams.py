"""How many registration streams one agent may open."""

from pathlib import Path

import pytest

from federation.kernel.errors import LimitExceededError
from federation.kernel.places import STREAMS_EACH_MAX
from tests.integration.api.joining import enrolled
from tests.integration.api.test_control import channel_of, hello
from tests.integration.controller.installation import Caller, Controller


async def test_one_agent_does_not_take_the_places_of_all_others(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    async with (
        channel_of(controller, enrolled(controller, tmp_path / "a", "flood")) as channel,
        channel_of(controller, enrolled(controller, tmp_path / "b", "calm")) as another,
    ):
        flood = [await hello(channel) for _ in range(STREAMS_EACH_MAX)]
        with pytest.raises(LimitExceededError, match="agent/flood has 64 streams here"):
            await hello(channel)
        calm = await hello(another)
        for call in (*flood, calm):
            call.cancel()

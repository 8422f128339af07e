"""Do the controllers of another cluster answer? A call that does nothing, on a channel that is kept."""

import asyncio
from typing import Any

import grpc
import structlog

from certs.runtime.identity import LeafIdentity
from federation.agent.control import open_channel
from federation.agent.directory import DirectoryStore
from federation.api.messages import CONTROL_SERVICE, NamedController
from federation.kernel.errors import IsthmusError

# So many are asked at once; where there are more and none answers, the next ones in the next round.
CONTROLLERS_ASKED_MAX = 3
# The channel shows our certificate of the moment when it was made.
CHANNEL_AGE_MAX_S = 600.0
ANSWER_BYTES_MAX = 1024

# Everything else is an answer of a controller, such as one that does not know this call yet.
_SILENCE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)

_log = structlog.get_logger("observer")


class ControllersProbe:
    """Asks the controllers of one cluster; `close` ends the channels."""

    def __init__(self, *, identity: LeafIdentity, directory: DirectoryStore) -> None:
        self._identity = identity
        self._directory = directory
        self._first = 0  # Where the next round begins.
        self._channels: dict[str, tuple[NamedController, grpc.aio.Channel, float]] = {}

    async def ask(self, controllers: tuple[NamedController, ...], *, timeout_s: float) -> bool:
        """Return whether one of the `controllers`, which all have a control port, answers within the time."""
        count = len(controllers)
        asked = [
            controllers[(self._first + offset) % count] for offset in range(min(count, CONTROLLERS_ASKED_MAX))
        ]
        for name in self._channels.keys() - {one.name for one in asked}:
            await self._close(name)
        async with asyncio.TaskGroup() as tasks:
            answers = [
                tasks.create_task(self._ask_one(one, timeout_s), name=f"observe/{one.name}") for one in asked
            ]
        answered = any(task.result() for task in answers)
        if not answered:
            self._first = (self._first + CONTROLLERS_ASKED_MAX) % count
        return answered

    async def close(self) -> None:
        """Close all channels."""
        for name in tuple(self._channels):
            await self._close(name)

    async def _ask_one(self, controller: NamedController, timeout_s: float) -> bool:
        try:
            channel = await self._channel(controller)
            call: Any = channel.unary_unary(f"/{CONTROL_SERVICE}/Alive", _as_is, _as_is)
            await call(b"", timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            _log.debug("controller_silent", controller=controller.name, reason=error.details())
            return error.code() not in _SILENCE
        except IsthmusError as error:
            _log.debug("controller_silent", controller=controller.name, reason=error.message)
            return False
        return True

    async def _channel(self, controller: NamedController) -> grpc.aio.Channel:
        now_s = asyncio.get_running_loop().time()
        held = self._channels.get(controller.name)
        if held is not None and held[0] == controller and now_s < held[2]:
            return held[1]
        await self._close(controller.name)
        channel = open_channel(
            controller, self._identity, self._directory, message_bytes_max=ANSWER_BYTES_MAX
        )
        self._channels[controller.name] = (controller, channel, now_s + CHANNEL_AGE_MAX_S)
        return channel

    async def _close(self, name: str) -> None:
        held = self._channels.pop(name, None)
        if held is not None:
            await held[1].close(None)


def _as_is(message: bytes) -> bytes:
    return message

"""Which controller an Envoy's configuration comes from: the most preferred one that answers."""

import asyncio
from collections.abc import Sequence

import grpc
import structlog

from certs.runtime.identity import LeafIdentity
from federation.agent.control import open_channel
from federation.agent.directory import DirectoryStore, preferred_controllers
from federation.api.messages import NamedController
from federation.kernel.errors import IsthmusError, UnavailableError

# All resources of one type in one response: a thousand services make about half a megabyte.
XDS_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
CONNECT_TIMEOUT_S = 2.0
# How often a process that follows a second choice looks whether a better one is back.
RETURN_CHECK_S = 3.0
# A controller whose stream ended sooner than this after it began is left out for a while.
STREAM_SHORT_S = 5.0
AVOID_S = 15.0

_log = structlog.get_logger("controller_choice")


class ControllerChoice:
    """Which controller the configuration comes from: the most preferred one that answers."""

    def __init__(self, cluster: str, identity: LeafIdentity, directory: DirectoryStore) -> None:
        self._cluster = cluster
        self._identity = identity
        self._directory = directory
        self._chosen: tuple[NamedController, float] | None = None
        self._avoid_until_s: dict[str, float] = {}  # Bounded by the directory's names, see `_usable`.

    @property
    def current(self) -> str:
        """Name of the last choice, empty before the first."""
        return self._chosen[0].name if self._chosen else ""

    async def next_channel(self) -> grpc.aio.Channel:
        """Return a connected channel to the best controller, which the caller closes.

        Called again soon, it avoids the last choice for a while: that one answers and serves badly.
        Raises `UnavailableError` when none answers.
        """
        now_s = asyncio.get_running_loop().time()
        if self._chosen is not None and now_s - self._chosen[1] < STREAM_SHORT_S:
            self._avoid_until_s[self.current] = now_s + AVOID_S
        problems: list[str] = []
        for controller in self._usable(now_s):
            try:
                channel = await connect(controller, self._identity, self._directory)
            except IsthmusError as error:
                problems.append(f"{controller.name}: {error.message}")
                continue
            self._chosen = (controller, asyncio.get_running_loop().time())
            return channel
        raise UnavailableError(f"no controller answers: {'; '.join(problems)}")

    async def better_is_back(self) -> None:
        """Wait until a controller that is preferred to the current one answers."""
        while True:
            await asyncio.sleep(RETURN_CHECK_S)
            for controller in self._better():
                try:
                    channel = await connect(controller, self._identity, self._directory)
                except IsthmusError:
                    continue  # Still away, as before.
                await channel.close(None)
                _log.info("better_controller_back", controller=controller.name, left=self.current)
                self._chosen = None
                return

    def _better(self) -> Sequence[NamedController]:
        if self._chosen is None:
            return ()
        usable = self._usable(asyncio.get_running_loop().time())
        names = [controller.name for controller in usable]
        return usable[: names.index(self.current)] if self.current in names else usable

    def _usable(self, now_s: float) -> list[NamedController]:
        """The controllers by preference; those to avoid come last."""
        controllers = preferred_controllers(self._directory.current, self._cluster)
        known = {controller.name for controller in controllers}
        self._avoid_until_s = {
            name: until_s
            for name, until_s in self._avoid_until_s.items()
            if until_s > now_s and name in known
        }
        return sorted(controllers, key=lambda controller: controller.name in self._avoid_until_s)


async def connect(
    controller: NamedController, identity: LeafIdentity, directory: DirectoryStore
) -> grpc.aio.Channel:
    """Return a channel to a controller that has proved who it is; raises `UnavailableError` when it does not answer."""
    channel = open_channel(controller, identity, directory, message_bytes_max=XDS_MESSAGE_BYTES_MAX)
    where = controller.spec.control
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await _until_ready(channel, where)
    except TimeoutError as error:
        await channel.close(None)
        raise UnavailableError(f"{where} does not answer within {CONNECT_TIMEOUT_S:g} s") from error
    except BaseException:
        await channel.close(None)
        raise
    return channel


async def _until_ready(channel: grpc.aio.Channel, where: str) -> None:
    """Return once the channel is connected; a first failure is one, where `channel_ready` would wait on."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            raise UnavailableError(
                f"{where} cannot be connected to, or is not the controller that it should be"
            )
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)

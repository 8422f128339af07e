"""Listens to the other controllers that serve a cluster: which agents they hear, and what those said."""

import asyncio
from collections.abc import Iterator

import grpc
import structlog

from certs.runtime.identity import LeafIdentity
from federation.agent.backoff import Backoff
from federation.agent.control import from_rpc_error, open_channel
from federation.agent.directory import DirectoryStore, own_controllers
from federation.api.heard import (
    HEARD_SERVICE,
    AgentHeard,
    HearRequest,
    decode_heard,
    encode_heard,
)
from federation.api.messages import NamedController
from federation.api.registry import ClusterRegistry
from federation.kernel.errors import IsthmusError, UnavailableError

# A controller sends a beat every second.
SILENCE_MAX_S = 5.0

# Whom one stream is to, and for which registry: a cluster that is served again has another one.
_Ear = tuple[NamedController, ClusterRegistry]

_log = structlog.get_logger("fellows")


class FellowListener:
    """Holds one stream to each other controller of each served cluster; `run` ends only by cancellation."""

    def __init__(self, name: str, *, leaf: LeafIdentity, directory: DirectoryStore) -> None:
        self._name = name
        self._leaf = leaf
        self._directory = directory
        self._registries: list[ClusterRegistry] = []
        self._news = asyncio.Event()

    def serve(self, registry: ClusterRegistry) -> None:
        """Begin to listen for a cluster."""
        self._registries.append(registry)
        registry.fellows.known = self._known(registry)
        self._news.set()

    def leave(self, registry: ClusterRegistry) -> None:
        """Listen no longer for a cluster that was removed."""
        self._registries.remove(registry)
        self._news.set()

    async def run(self) -> None:
        """Listen to whomever the directory names."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_directory(), name="fellows/directory")
            running: dict[_Ear, asyncio.Task[None]] = {}
            while True:
                self._news.clear()
                wanted = {
                    (one, registry): None for registry in self._registries for one in self._others(registry)
                }
                for registry in self._registries:
                    registry.fellows.known = self._known(registry)
                for key in [one for one in running if one not in wanted]:
                    running.pop(key).cancel()
                for key in sorted(wanted.keys() - running.keys(), key=_names):
                    name = "/".join(("fellows", *_names(key)))
                    running[key] = tasks.create_task(self._listen(*key), name=name)
                await self._news.wait()

    async def _watch_directory(self) -> None:
        revision = -1
        while True:
            revision = (await self._directory.newer_than(revision)).revision
            self._news.set()

    def _others(self, registry: ClusterRegistry) -> Iterator[NamedController]:
        controllers = own_controllers(self._directory.current, registry.cluster)
        return (one for one in controllers if one.name != self._name)

    def _known(self, registry: ClusterRegistry) -> frozenset[str]:
        return frozenset(one.name for one in self._others(registry))

    async def _listen(self, controller: NamedController, registry: ClusterRegistry) -> None:
        """Hear one controller, again and again."""
        backoff = Backoff()
        told = ""
        while True:
            try:
                await self._hear(controller, registry, backoff)
            except IsthmusError as error:
                if error.message != told:  # Said once, not at every attempt.
                    _log.warning(
                        "fellow_lost",
                        controller=controller.name,
                        cluster=registry.cluster,
                        error=error.message,
                    )
                told = error.message
            finally:
                registry.fellows.lost(controller.name)
                registry.forget(controller.name)
            await asyncio.sleep(backoff.delay_s())

    async def _hear(self, controller: NamedController, registry: ClusterRegistry, backoff: Backoff) -> None:
        request = encode_heard(HearRequest(cluster=registry.cluster))
        async with open_channel(controller, self._leaf, self._directory) as channel:
            call = channel.unary_stream(f"/{HEARD_SERVICE}/Hear", None, None)(request)
            while True:
                try:
                    async with asyncio.timeout(SILENCE_MAX_S):
                        raw = await call.read()
                except TimeoutError as error:
                    raise UnavailableError(
                        f"{controller.name} said nothing for {SILENCE_MAX_S:g} s"
                    ) from error
                except grpc.aio.AioRpcError as error:
                    raise from_rpc_error(error, "hear") from error
                if not isinstance(raw, bytes):
                    return  # It wants us to come back with a fresh certificate.
                answer = decode_heard(raw)
                if isinstance(answer, AgentHeard):
                    registry.hear(controller.name, answer)
                    continue
                if controller.name in registry.fellows.missing:
                    _log.info("fellow_heard", controller=controller.name, cluster=registry.cluster)
                registry.fellows.heard(controller.name)
                backoff.reset()


def _names(ear: _Ear) -> tuple[str, str]:
    controller, registry = ear
    return controller.name, registry.cluster

"""Asks the mirrors of the served clusters how they are, for `isthmus status` and `isthmus doctor`."""

import asyncio

import msgspec

from certs.runtime.identity import LeafIdentity
from federation.agent.directory import DirectoryStore
from federation.api.messages import Directory, NamedController
from federation.api.mirrors import MirrorFound, MirrorHealth
from federation.app.asking import CONTROLLERS_ASKED_MAX, ask
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, IsthmusError

_decoder = msgspec.msgpack.Decoder(MirrorHealth)


class MirrorDesk:
    """Asks those of the own cluster and of the remote ones that are served here: only they take this controller's calls."""

    def __init__(self, cluster: str, *, leaf: LeafIdentity, directory: DirectoryStore) -> None:
        self._cluster = cluster
        self._leaf = leaf
        self._directory = directory

    async def gather(self) -> tuple[MirrorFound, ...]:
        """Return what at most CONTROLLERS_ASKED_MAX of them say, by name; takes at most ASK_TIMEOUT_S."""
        directory = self._directory.current
        mirrors = [
            one
            for one in directory.controllers
            if one.spec.role == "mirror" and self._cluster in _serving(directory, one.spec.cluster)
        ]
        mirrors.sort(key=lambda one: one.name)
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(self._ask(one), name=f"mirrors/{one.name}")
                for one in mirrors[:CONTROLLERS_ASKED_MAX]
            ]
        return tuple(task.result() for task in asked)

    async def _ask(self, mirror: NamedController) -> MirrorFound:
        found = MirrorFound(controller=mirror.name, cluster=mirror.spec.cluster, address=mirror.spec.control)
        try:
            return msgspec.structs.replace(found, health=await self._health(mirror))
        except IsthmusError as error:
            return msgspec.structs.replace(found, error=error.message)

    async def _health(self, mirror: NamedController) -> MirrorHealth:
        raw = await ask(mirror, "Health", b"", leaf=self._leaf, directory=self._directory)
        try:
            return _decoder.decode(raw)
        except MALFORMED as error:
            raise InvalidInputError(f"health of {mirror.name}: the answer cannot be read: {error}") from error


def _serving(directory: Directory, cluster: str) -> tuple[str, ...]:
    return (cluster, directory.homes.get(cluster, ""), directory.next_homes.get(cluster, ""))

"""To whom a controller listens, and for whom what it hears is: by the directory and the registries of now."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from certs.core.spiffe import parse
from federation.api.directory import build_directory
from federation.api.heard import HearRequest, encode_heard
from federation.api.heard_service import HeardService
from federation.api.messages import Directory, NamedController
from federation.api.registry import ClusterRegistry
from federation.app.fellows import FellowListener
from federation.kernel.errors import UnavailableError
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import Log, founded, put_controller

WAIT_S = 30.0
NOT_ASKED: Any = None


class Known:
    """The directory of one process; `now` replaces it."""

    def __init__(self, directory: Directory) -> None:
        self.current = directory
        self._changed = asyncio.Event()

    def now(self, directory: Directory) -> None:
        self.current = replace(directory, revision=self.current.revision + 1)
        self._changed.set()

    async def newer_than(self, revision: int) -> Directory:
        while self.current.revision <= revision:
            self._changed.clear()
            await self._changed.wait()
        return self.current


class Listener(FellowListener):
    """Notes to whom it listens, and for which registry."""

    def __init__(self, known: Known) -> None:
        super().__init__("alpha-1", leaf=NOT_ASKED, directory=known)  # type: ignore[arg-type]
        self.ears: list[tuple[str, ClusterRegistry]] = []

    async def _listen(self, controller: NamedController, registry: ClusterRegistry) -> None:
        ear = (controller.spec.control, registry)
        self.ears.append(ear)
        try:
            await asyncio.Event().wait()
        finally:
            self.ears.remove(ear)


def with_mirror(log: Log, *, at: str = "192.0.2.1:7444") -> Directory:
    """What everybody knows of alpha-1, beta-1 and alpha's other controller."""
    log.accept("alpha", put_controller("alpha-2", "alpha"))
    directory = build_directory(log.catalog.tables)
    controllers = (
        replace(one, spec=replace(one.spec, control=at if one.name == "alpha-2" else "192.0.2.9:7444"))
        for one in directory.controllers
    )
    return replace(directory, controllers=tuple(controllers))


def registry_of(log: Log, cluster: str = "alpha") -> ClusterRegistry:
    return ClusterRegistry(
        cluster, catalog=log.catalog, lease_ms=1_000, clock=lambda: 0.0, changed=lambda *_: None
    )


async def hears(listener: Listener, *ears: tuple[str, ClusterRegistry]) -> None:
    await eventually_async(lambda: listener.ears == list(ears), timeout_s=WAIT_S)


async def test_what_is_heard_is_for_the_registry_of_now_also_when_another_took_its_place_at_once() -> None:
    log = founded()
    listener = Listener(Known(with_mirror(log)))
    old, new = registry_of(log), registry_of(log)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(listener.run())
        listener.serve(old)
        await hears(listener, ("192.0.2.1:7444", old))
        listener.leave(old)
        listener.serve(new)
        await hears(listener, ("192.0.2.1:7444", new))
        running.cancel()


async def test_a_controller_that_moved_is_heard_at_its_new_address_and_one_that_left_is_not() -> None:
    log = founded()
    known = Known(with_mirror(log))
    listener, registry = Listener(known), registry_of(log)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(listener.run())
        listener.serve(registry)
        await hears(listener, ("192.0.2.1:7444", registry))
        known.now(with_mirror(log, at="192.0.2.2:7444"))
        await hears(listener, ("192.0.2.2:7444", registry))
        left = with_mirror(log)
        known.now(replace(left, controllers=tuple(one for one in left.controllers if one.name != "alpha-2")))
        await hears(listener)
        assert registry.fellows.known == frozenset()
        running.cancel()


async def refused(service: HeardService, context: Any) -> str:
    with pytest.raises(UnavailableError) as refusal:
        await service._answer(encode_heard(HearRequest(cluster="alpha")), context)
    return refusal.value.message


async def test_who_listens_for_a_cluster_that_is_served_no_longer_is_told_so() -> None:
    """It may be served again, by another registry, before the listener has noticed either."""
    log = founded()
    log.accept("alpha", put_controller("alpha-2", "alpha"))
    registry = registry_of(log)
    service = HeardService(
        tables=lambda: log.catalog.tables,
        registry=lambda _cluster: registry,
        peer=lambda: parse("spiffe://alpha.test/isthmus/alpha/controller/2"),
    )
    heard: list[bytes] = []

    async def write(data: bytes) -> None:
        heard.append(data)

    context: Any = SimpleNamespace(write=write)
    async with asyncio.TaskGroup() as tasks:
        answering = tasks.create_task(refused(service, context))
        await eventually_async(lambda: len(heard) > 0, timeout_s=WAIT_S)
        registry.retire()
        async with asyncio.timeout(WAIT_S):
            assert await answering == "cluster alpha is served here no longer"

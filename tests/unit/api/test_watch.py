"""Each change after a revision reaches a watch once and in order, whenever it began."""

import asyncio
from collections.abc import Sequence

import pytest

from discovery.core.history import History
from discovery.core.model import Change
from federation.api.watch import WatchHub
from federation.kernel.errors import CompactedError
from federation.kernel.limits import EVENTS_KEPT_MAX

Event = tuple[int, tuple[Change, ...]]


def change(number: int) -> tuple[Change, ...]:
    return (Change("resources", b"%d" % number, b""),)


async def read(hub: WatchHub, after_revision: int, count: int) -> Sequence[Event]:
    found: list[Event] = []
    async for event in hub.changes(after_revision):
        found.append(event)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("start", [0, 3, 5, 9])
async def test_a_watch_hears_what_came_before_and_what_comes_after_it_began(start: int) -> None:
    history = History(complete_after=0)
    hub = WatchHub(history.after)
    for number in range(1, 6):
        history.record(number, change(number))
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read(hub, start, 12 - start))
        for number in range(6, 13):
            await asyncio.sleep(0)
            history.record(number, change(number))
            hub.notify()
    assert [revision for revision, _ in reading.result()] == list(range(start + 1, 13))


async def test_many_changes_between_two_looks_are_all_heard() -> None:
    history = History(complete_after=0)
    hub = WatchHub(history.after)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read(hub, 0, 100))
        await asyncio.sleep(0)
        for number in range(1, 101):
            history.record(number, change(number))
        hub.notify()
    assert [revision for revision, _ in reading.result()] == list(range(1, 101))


async def test_a_watch_that_comes_too_late_is_told_to_list_again() -> None:
    history = History(complete_after=0)
    hub = WatchHub(history.after)
    for number in range(1, EVENTS_KEPT_MAX + 2):
        history.record(number, change(number))
    with pytest.raises(CompactedError, match="list again"):
        await read(hub, 0, 1)


async def test_a_watch_that_nobody_reads_any_more_leaves_the_others_alone() -> None:
    history = History(complete_after=0)
    hub = WatchHub(history.after)
    async with asyncio.TaskGroup() as tasks:
        ended, reading = tasks.create_task(read(hub, 0, 1)), tasks.create_task(read(hub, 0, 1))
        await asyncio.sleep(0)
        ended.cancel()
        await asyncio.sleep(0)
        history.record(1, change(1))
        hub.notify()
    assert reading.result() == [(1, change(1))]

"""A leader under load appends seldom, a lone writer never waits, and callers who all came back wait for nobody."""

import asyncio

import pytest

from consensus.core.contract import Applied, Counters
from consensus.core.gathering import GATHER_MS_MAX, PROBE_AFTER, Gathering
from consensus.core.proposals import finish
from consensus.runtime.intake import Intake
from tests.support.wait import eventually_async


@pytest.mark.parametrize("is_under_way", [False, True])
def test_after_an_append_of_one_entry_nothing_waits(is_under_way: bool) -> None:
    gathering = Gathering()
    for now_s in (1.0, 1.0001, 1.0002):
        assert gathering.rest_s(1, now_s, is_under_way=is_under_way) == 0
        gathering.took(1, now_s)


@pytest.mark.parametrize(
    ("entries", "waiting", "after_ms", "is_under_way", "rest_ms"),
    [
        pytest.param(4, 3, 1, False, 2, id="fewer-than-last-time"),
        pytest.param(4, 4, 1, False, 0, id="as-many-as-last-time"),
        pytest.param(4, 9, 1, True, 2, id="an-append-is-under-way"),
        pytest.param(4, 1, 3, True, 0, id="its-time-is-over"),
        pytest.param(200, 1, 0, True, GATHER_MS_MAX, id="never-longer"),
    ],
)
def test_appends_follow_each_other_by_how_much_the_last_one_held(
    entries: int, waiting: int, after_ms: int, is_under_way: bool, rest_ms: int
) -> None:
    gathering = Gathering()
    gathering.took(entries, 0.0)
    rest_s = gathering.rest_s(waiting, after_ms / 1000, is_under_way=is_under_way)
    assert rest_s * 1000 == pytest.approx(rest_ms)
    wanted = gathering.wanted(waiting, is_under_way=is_under_way)
    assert wanted == (None if is_under_way else max(1, entries - waiting))


def test_now_and_then_an_append_waits_although_as_many_came_as_last_time() -> None:
    gathering = Gathering()
    waited = 0
    for _ in range(2 * (PROBE_AFTER + 1)):
        gathering.took(8, 0.0)
        waited += gathering.rest_s(8, 0.0, is_under_way=False) > 0
    assert waited == 2


def test_the_engine_is_woken_by_the_number_of_proposals_that_it_asked_for() -> None:
    async def scenario() -> None:
        intake, wakes = Intake(Counters()), list[int]()
        intake.open(lambda: wakes.append(len(wakes)))
        assert not intake.expect(3)
        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(intake.propose("command", b"%d" % number, deadline_s=1e12))
            await eventually_async(lambda: wakes, timeout_s=60)
            assert len(wakes) == 1
            assert intake.expect(4), "they came before it asked"
            assert not intake.expect(None)
            taken = intake.take()
            assert len(taken) == 4
            for proposal in taken:
                finish(proposal, Applied(index=1, term=1, result=b""))
            intake.deliver()

    asyncio.run(scenario())

"""The waiting functions of the tests."""

import asyncio

import pytest

from tests.support.wait import NeverHappenedError, eventually, eventually_async


def test_a_wait_returns_the_first_true_value() -> None:
    answers = iter([0, "", None, "ready"])

    assert eventually(lambda: next(answers), timeout_s=5, interval_s=0) == "ready"


def test_a_failed_assertion_means_not_yet() -> None:
    calls = iter(range(3))

    def third_call() -> bool:
        assert next(calls) == 2
        return True

    assert eventually(third_call, timeout_s=5, interval_s=0)


def test_any_other_error_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 // 0, timeout_s=60)


def test_a_condition_that_can_no_longer_come_true_ends_the_wait() -> None:
    def give_up() -> bool:
        raise NeverHappenedError("it is dead")

    with pytest.raises(NeverHappenedError, match="it is dead"):
        eventually(give_up, timeout_s=600)


def test_a_wait_in_vain_says_what_it_waited_for_and_saw_last() -> None:
    with pytest.raises(NeverHappenedError, match=r"not within 0 s: a leader \(last value: \[\]\)"):
        eventually(list, timeout_s=0, message=lambda: "a leader")


def test_an_async_wait_takes_functions_and_coroutine_functions() -> None:
    answers = iter([False, True, False, True])

    async def ask() -> bool:
        return next(answers)

    async def wait() -> None:
        assert await eventually_async(lambda: next(answers), timeout_s=5, interval_s=0)
        assert await eventually_async(ask, timeout_s=5, interval_s=0)

    asyncio.run(wait())


def test_an_async_wait_cancels_a_condition_that_hangs() -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(NeverHappenedError, match="never set"):
        asyncio.run(eventually_async(hang, timeout_s=0.05, message="never set"))


def test_a_timeout_of_the_condition_itself_is_not_taken_for_the_deadline() -> None:
    async def time_out() -> bool:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        asyncio.run(eventually_async(time_out, timeout_s=60))

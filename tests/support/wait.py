"""Waiting for a condition: the only way in which a test lets time pass.

A test that sleeps for a fixed time is slow on a fast machine and red on a slow one. These poll until the
condition is true, and say what they waited for when it never became so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

INTERVAL_S = 0.02


class NeverHappenedError(AssertionError):
    """The condition stayed false until the deadline; raised by a condition: it can no longer come true."""


def eventually(
    condition: Callable[[], T],
    *,
    timeout_s: float,
    interval_s: float = INTERVAL_S,
    message: str | Callable[[], str] = "",
) -> T:
    """Call `condition` until it returns something true, and return that.

    A condition may say "not yet" by an AssertionError too, so that a few plain asserts make a condition
    (one of several lines returns True at its end); any other exception, and a NeverHappenedError of the
    condition's own, ends the wait at once.
    `message` is what the test waited for, or a function that makes it at the time of the failure.
    Raises NeverHappenedError after `timeout_s`, the last AssertionError being its cause.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        failure: AssertionError | None = None
        value: T | None = None
        try:
            value = condition()
        except NeverHappenedError:
            raise
        except AssertionError as error:
            failure = error
        if value:
            return value
        if time.monotonic() >= deadline_s:
            raise NeverHappenedError(_describe(message, timeout_s, value, failure)) from failure
        time.sleep(interval_s)


@overload
async def eventually_async(
    condition: Callable[[], Awaitable[T]],
    *,
    timeout_s: float,
    interval_s: float = ...,
    message: str | Callable[[], str] = ...,
) -> T: ...


@overload
async def eventually_async(
    condition: Callable[[], T],
    *,
    timeout_s: float,
    interval_s: float = ...,
    message: str | Callable[[], str] = ...,
) -> T: ...


async def eventually_async(
    condition: Callable[[], T | Awaitable[T]],
    *,
    timeout_s: float,
    interval_s: float = INTERVAL_S,
    message: str | Callable[[], str] = "",
) -> T:
    """Do as `eventually`, leaving the event loop to others; `condition` may be a coroutine function.

    A coroutine that is still running at the deadline is cancelled.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while True:
        failure: AssertionError | None = None
        value: T | None = None
        try:
            async with asyncio.timeout_at(deadline_s) as timeout:
                answer = condition()
                value = await answer if isinstance(answer, Awaitable) else answer
        except NeverHappenedError:
            raise
        except AssertionError as error:
            failure = error
        except TimeoutError:
            if not timeout.expired():
                raise
        if value:
            return value
        if loop.time() >= deadline_s:
            raise NeverHappenedError(_describe(message, timeout_s, value, failure)) from failure
        await asyncio.sleep(interval_s)


def _describe(
    message: str | Callable[[], str], timeout_s: float, value: object, failure: AssertionError | None
) -> str:
    awaited = message() if callable(message) else message
    last = f"last failure: {failure}" if failure is not None else f"last value: {value!r}"
    return f"not within {timeout_s:g} s: {awaited or 'the condition'} ({last})"

"""A library that repeats itself does not fill the disk with its lines."""

import logging

from federation.app.telemetry import LINES_REMEMBERED_MAX, REPEATED_AFTER_S, OnceInAWhile


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("asyncio", logging.ERROR, "", 0, message, (), None)


def test_a_line_that_is_repeated_passes_once_in_a_while_and_says_how_often_it_came() -> None:
    now_s = [0.0]
    once = OnceInAWhile(clock=lambda: now_s[0])
    passed = [one for _ in range(100) if once.filter(one := record("no files left\nsocket: 1"))]
    assert [one.getMessage() for one in passed] == ["no files left\nsocket: 1"]
    assert once.filter(record("another"))

    now_s[0] = REPEATED_AFTER_S
    later = record("no files left\nsocket: 2")
    assert once.filter(later)
    assert later.getMessage() == "no files left\nsocket: 2 (and 99 times more)"


def test_what_is_remembered_is_bounded() -> None:
    once = OnceInAWhile(clock=lambda: 0.0)
    for number in range(10 * LINES_REMEMBERED_MAX):
        assert once.filter(record(f"line {number}"))
    assert len(once._said) <= LINES_REMEMBERED_MAX

"""Retries are differences of an Envoy's counter; an Envoy that was started meanwhile began at 0."""

import pytest

from chaos.load.records import Retries
from chaos.load.retries import RetryCount, differences


@pytest.mark.parametrize(
    ("before", "after", "counted"),
    [
        pytest.param({}, {}, [], id="nobody-answers"),
        pytest.param({"a": RetryCount(7, 10)}, {"a": RetryCount(7, 12)}, [("a", 10, 12)], id="same-envoy"),
        pytest.param({"a": RetryCount(7, 10)}, {"a": RetryCount(8, 3)}, [("a", 0, 3)], id="started-again"),
        pytest.param({}, {"a": RetryCount(7, 3)}, [("a", 0, 3)], id="was-dead-at-the-first"),
        pytest.param({"a": RetryCount(7, 10)}, {}, [], id="is-dead-at-the-second"),
    ],
)
def test_a_difference_is_taken_from_one_and_the_same_envoy(
    before: dict[str, RetryCount], after: dict[str, RetryCount], counted: list[tuple[str, int, int]]
) -> None:
    assert differences(before, after) == tuple(
        Retries(proxy=proxy, before=first, after=second) for proxy, first, second in counted
    )

"""Who may be believed after a restart: what the others remember of its promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.promises import RUNS_REMEMBERED, UNSTATED, Promise, PromiseTable, Standing, Verdict


def standing(run: int, term: int = 1, last_index: int = 1, incarnation: str = "d1") -> Standing:
    return Standing(incarnation=incarnation, run=run, term=term, last_index=last_index)


def heard(*promises: tuple[int, int]) -> PromiseTable:
    table = PromiseTable()
    table.judge("beta", standing(run=1))
    for term, index in promises:
        table.note("beta", term=term, index=index)
    return table


@pytest.mark.parametrize(
    ("since", "verdict"),
    [
        pytest.param(standing(1), "current", id="the-same-process"),
        pytest.param(standing(2, term=3, last_index=9), "current", id="restarted-with-all"),
        pytest.param(standing(2, term=3, last_index=12), "current", id="restarted-with-more"),
        pytest.param(standing(2, term=4, last_index=5), "current", id="cut-back-by-a-newer-leader"),
        pytest.param(standing(2, term=3, last_index=8), "forgot", id="one-entry-short"),
        pytest.param(standing(2, term=2, last_index=99), "forgot", id="an-older-term"),
        pytest.param(standing(2, term=0, last_index=1), "forgot", id="emptied-with-its-name-kept"),
        pytest.param(standing(2, term=0, incarnation="d2"), "current", id="another-directory"),
        pytest.param(UNSTATED, "current", id="a-version-that-does-not-say"),
    ],
)
def test_a_start_is_judged_by_what_the_former_one_promised(since: Standing, verdict: Verdict) -> None:
    assert heard((2, 40), (3, 9)).judge("beta", since) == verdict


def test_late_messages_of_a_former_start_are_neither_believed_nor_held_against_it() -> None:
    table = heard((3, 9))
    assert table.judge("beta", standing(2, term=3, last_index=9)) == "current"
    table.note("beta", term=5, index=20)
    assert table.judge("beta", standing(1)) == "gone"
    assert table.promise("beta") == Promise(member="beta", incarnation="d1", run=2, term=5, index=20)
    for run in range(3, 4 + RUNS_REMEMBERED):
        assert table.judge("beta", standing(run, term=5, last_index=20)) == "current"
    assert table.judge("beta", standing(2, term=5, last_index=20)) == "current", "too long ago: harmless"


def test_a_promise_told_by_another_member_counts_like_one_heard() -> None:
    told = Promise(member="beta", incarnation="d1", run=1, term=4, index=30)
    for table in (PromiseTable(), PromiseTable([told]), heard((4, 2))):
        table.learn(told)
        assert table.judge("beta", standing(1)) == "current", "it made the promise itself"
        assert table.judge("beta", standing(2, term=4, last_index=29)) == "forgot"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), max_size=20))
def test_a_directory_that_keeps_everything_is_never_accused(steps: list[tuple[int, int]]) -> None:
    """Terms only grow and the log of one term only grows: whatever restarts come in between."""
    table = PromiseTable()
    term, index = 0, 1
    for run, (more_terms, more) in enumerate(steps):
        assert table.judge("beta", standing(run, term=term, last_index=index)) == "current"
        if more_terms:
            term, index = term + more_terms, max(1, index - more)  # A newer leader may cut the log back.
        else:
            index += more
        table.note("beta", term=term, index=index)

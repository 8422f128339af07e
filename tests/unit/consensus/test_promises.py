"""Who may be believed after a restart: what the others remember of its promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.promises import RUNS_REMEMBERED, UNSTATED, Promise, PromiseTable, Standing


def standing(run: int, term: int = 1, last_index: int = 1, incarnation: str = "d1") -> Standing:
    return Standing(incarnation=incarnation, run=run, term=term, last_index=last_index)


def promise(run: int, term: int, index: int, incarnation: str = "d1") -> Promise:
    return Promise(member="beta", incarnation=incarnation, run=run, term=term, index=index)


def heard(*promises: tuple[int, int]) -> PromiseTable:
    """Return a table that heard the first start of beta promise these."""
    table = PromiseTable()
    for term, index in promises:
        table.note("beta", standing(run=1), term=term, index=index)
    return table


@pytest.mark.parametrize(
    ("since", "broken"),
    [
        pytest.param(standing(1), False, id="the-same-process"),
        pytest.param(standing(2, term=3, last_index=9), False, id="restarted-with-all"),
        pytest.param(standing(2, term=3, last_index=12), False, id="restarted-with-more"),
        pytest.param(standing(2, term=4, last_index=5), False, id="cut-back-by-a-newer-leader"),
        pytest.param(standing(2, term=3, last_index=8), True, id="one-entry-short"),
        pytest.param(standing(2, term=2, last_index=99), True, id="an-older-term"),
        pytest.param(standing(2, term=0, last_index=1), True, id="emptied-with-its-name-kept"),
        pytest.param(standing(2, term=0, incarnation="d2"), False, id="another-directory"),
        pytest.param(UNSTATED, False, id="a-version-that-does-not-say"),
    ],
)
def test_a_start_is_judged_by_what_another_one_promised(since: Standing, broken: bool) -> None:
    assert heard((2, 40), (3, 9)).broken("beta", since) == (promise(1, 3, 9) if broken else None)


def test_late_words_of_or_about_a_former_start_are_not_held_against_the_present_one() -> None:
    table = PromiseTable()
    present = standing(2, term=3, last_index=9)
    table.note("beta", present, term=5, index=20)
    table.learn(promise(1, 3, 9))  # Another member still remembers the former start only.
    table.note("beta", standing(1), term=3, index=8)
    assert table.broken("beta", present) is None
    assert table.newest() == (promise(2, 5, 20),)


def test_a_promise_told_by_another_member_counts_like_one_heard() -> None:
    told = promise(1, 4, 30)
    for table in (PromiseTable(), PromiseTable([told]), heard((4, 2))):
        table.learn(told)
        assert table.broken("beta", standing(1)) is None, "it made the promise itself"
        assert table.broken("beta", standing(2, term=4, last_index=29)) == told


def test_of_many_starts_the_newest_are_remembered() -> None:
    table = PromiseTable()
    for run in range(3 * RUNS_REMEMBERED):
        table.note("beta", standing(run, term=1, last_index=run), term=1, index=run + 1)
    assert table.newest() == (promise(3 * RUNS_REMEMBERED - 1, 1, 3 * RUNS_REMEMBERED),)
    assert len(table._runs["beta"]) == RUNS_REMEMBERED


@given(
    st.lists(st.tuples(st.sampled_from(["acknowledge", "enter a term", "be cut back"]), st.integers(1, 9)))
)
def test_a_directory_that_keeps_everything_is_never_accused(steps: list[tuple[str, int]]) -> None:
    """A leader cuts back what was not acknowledged to it in its term, and nothing else goes."""
    table = PromiseTable()
    term, acknowledged, last = 0, 0, 1
    for run, (step, more) in enumerate(steps):
        since = standing(run, term=term, last_index=last)
        assert table.broken("beta", since) is None
        if step == "enter a term":
            term, acknowledged = term + more, 0
        elif step == "acknowledge":
            last = acknowledged = last + more
        else:
            last = max(acknowledged, last - more, 1)
        table.note("beta", since, term=term, index=acknowledged)
        for told in table.newest():
            table.learn(told)

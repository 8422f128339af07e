"""A follower's log meets a leader's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.contract import Counters
from consensus.core.messages import Append
from consensus.core.records import Base, Entry
from consensus.runtime.following import Freshness, Match, follow_log
from consensus.runtime.journal import Journal
from federation.kernel.errors import CorruptError
from tests.unit.consensus.builders import ALPHA


def log_of(directory: Path, terms: list[int], *, commit: int = 1, base: int = 1) -> Journal:
    """Return a journal whose entries from base+1 on have these terms."""
    journal = Journal(directory, founding=Base(index=base, term=0, voters=(ALPHA,)), counters=Counters())
    for index, term in enumerate(terms, base + 1):
        journal.append(Entry(index, term, b"\x00%d" % term))
    journal.commit(commit)
    return journal


def append(prev: int, prev_term: int, terms: list[int], *, term: int = 9) -> Append:
    entries = tuple(Entry(index, t, b"\x00%d" % t) for index, t in enumerate(terms, prev + 1))
    return Append(term=term, commit_index=0, prev_index=prev, prev_term=prev_term, entries=entries)


@pytest.mark.parametrize(
    ("have", "message", "match", "left"),
    [
        pytest.param([1, 1], append(3, 1, [2]), Match(True, 5), [1, 1, 2], id="continues"),
        pytest.param([1, 1], append(3, 1, []), Match(True, 4), [1, 1], id="heartbeat"),
        pytest.param(
            [1, 1, 1], append(2, 1, []), Match(True, 3), [1, 1, 1], id="late-heartbeat-removes-nothing"
        ),
        pytest.param(
            [1, 1, 1], append(1, 0, [1, 1]), Match(True, 4), [1, 1, 1], id="late-repeat-removes-nothing"
        ),
        pytest.param([1, 1, 1], append(2, 1, [2]), Match(True, 4), [1, 2], id="conflict-removes-the-rest"),
        pytest.param(
            [1, 1, 1], append(1, 0, [1, 3, 3, 3]), Match(True, 6), [1, 3, 3, 3], id="overlap-then-conflict"
        ),
        pytest.param([1], append(5, 1, [1]), Match(False, 3), [1], id="gap"),
        pytest.param(
            [1, 2, 2, 2], append(5, 3, []), Match(False, 3), [1, 2, 2, 2], id="other-term-skips-all-of-it"
        ),
    ],
)
def test_only_a_conflict_removes_entries(
    tmp_path: Path, have: list[int], message: Append, match: Match, left: list[int]
) -> None:
    journal = log_of(tmp_path, have)
    assert follow_log(journal, message) == match
    assert [entry.term for entry in journal.entries] == left


@pytest.mark.parametrize(
    ("message", "match", "last"),
    [
        pytest.param(append(5, 1, [1, 1]), Match(True, 11), 12, id="all-below-the-base"),
        pytest.param(append(8, 1, [1, 1, 2]), Match(True, 12), 12, id="reaches-over-the-base"),
        pytest.param(append(10, 0, [2, 2, 2]), Match(True, 14), 13, id="from-the-base"),
    ],
)
def test_what_lies_below_the_base_is_known_to_match(
    tmp_path: Path, message: Append, match: Match, last: int
) -> None:
    journal = log_of(tmp_path, [2, 2], base=10, commit=10)
    assert follow_log(journal, message) == match
    assert journal.last_index == last


@pytest.mark.parametrize(
    "message",
    [pytest.param(append(3, 9, []), id="in-front"), pytest.param(append(2, 1, [7]), id="among-the-entries")],
)
def test_a_leader_that_contradicts_a_committed_entry_stops_the_member(
    tmp_path: Path, message: Append
) -> None:
    journal = log_of(tmp_path, [1, 1, 1], commit=3)
    with pytest.raises(CorruptError, match="contradicts committed entry 3"):
        follow_log(journal, message)


def rising(first: int, steps: list[int]) -> list[int]:
    """Return terms that rise by even steps from `first`."""
    found = [first]
    for step in steps:
        found.append(found[-1] + 2 * step)
    return found[1:]


steps = st.lists(st.integers(0, 2), max_size=6)


@given(common=steps, mine=steps, leaders=steps, data=st.data())
def test_any_two_logs_become_equal_by_following_the_hints(
    tmp_path_factory: pytest.TempPathFactory,
    common: list[int],
    mine: list[int],
    leaders: list[int],
    data: st.DataObject,
) -> None:
    """As the leader does it: probe from anywhere, go where the answer says, send the rest.

    Equal index and term mean equal logs so far (Raft's log matching), so the parts that differ use
    terms of their own: odd ones here, even ones at the leader.
    """
    shared = rising(0, common)
    last = shared[-1] if shared else 0
    journal = log_of(tmp_path_factory.mktemp("log"), shared + rising(last + 1, mine))
    leader = [0, 0, *shared, *rising(last + 2, leaders)]  # By index; 1 is the founding entry.
    prev = data.draw(st.integers(1, len(leader) - 1))
    for _attempt in range(len(leader) + len(journal.entries)):
        match = follow_log(journal, append(prev, leader[prev], leader[prev + 1 :], term=99))
        if match.is_match:
            break
        assert match.next_index <= prev
        prev = max(1, match.next_index - 1)
    assert match == Match(True, len(leader))
    held = [entry.term for entry in journal.entries]
    assert held[: len(leader) - 2] == leader[2:]


def test_a_state_is_as_old_as_the_newest_word_of_a_leader_that_it_has_applied() -> None:
    freshness = Freshness()
    assert freshness.as_of_s(9) is None
    freshness.told(5, 100.0)
    assert freshness.as_of_s(4) is None, "something that was committed then is missing"
    assert freshness.as_of_s(5) == 100.0
    freshness.told(9, 101.0)
    assert freshness.as_of_s(8) == 100.0
    assert freshness.as_of_s(9) == 101.0

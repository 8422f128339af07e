"""What makes the log prompt: a leader that died is not waited for, and news of a commit delays nobody."""

from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import Struct
from msgspec.structs import replace

from consensus.core.contract import Applied
from consensus.core.elections import Elections
from consensus.core.membership import KIND_NOOP
from consensus.core.messages import Append, Appended, Message, PreVote
from consensus.core.records import Entry
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK
from consensus.runtime.member import Member
from consensus.runtime.proposer import Proposer
from consensus.runtime.sending import STREAM_S, News
from tests.unit.consensus.test_hardened import Alpha, append


@pytest.fixture
def alpha(tmp_path: Path) -> Alpha:
    return Alpha(tmp_path)


def test_a_leader_whose_connection_broke_is_not_waited_for_as_long_as_a_silent_one(alpha: Alpha) -> None:
    timing = Timing()
    alpha.cycle(("beta", append(2, (1, 0))))
    alpha.raft.peer_changed("gamma", False)
    assert alpha.raft._hears_leader()
    alpha.raft.peer_changed("beta", False)
    gone_s = SYSTEM_CLOCK.now_s()
    assert not alpha.raft._hears_leader()
    deadline_s = alpha.raft._SyncObj__raftElectionDeadline
    assert deadline_s < gone_s + timing.election_min_ms / 1000
    # It lives: the next heartbeat comes over its own connection.
    alpha.cycle(("beta", append(2, (1, 0))))
    assert alpha.raft._hears_leader()
    assert alpha.raft._SyncObj__raftElectionDeadline > deadline_s


def test_a_member_waits_two_heartbeats_at_least_for_a_leader_whose_connection_broke() -> None:
    timing = Timing(round_trip_ms=250)
    elections = Elections(timeout_s=timing.election_min_ms / 1000)
    waits_s = [elections.gone(fraction=fraction) for fraction in (0.0, 1.0)]
    assert waits_s == sorted(waits_s)
    assert waits_s[0] * 1000 >= 2 * timing.heartbeat_ms
    assert waits_s[1] * 1000 < timing.election_min_ms


def test_who_grants_a_pre_vote_lets_the_other_campaign_first(alpha: Alpha) -> None:
    alpha.raft._SyncObj__raftElectionDeadline = 0
    asked_s = SYSTEM_CLOCK.now_s()
    alpha.raft.receive("gamma", PreVote(round=1, term=1, last_index=1, last_term=0))
    assert alpha.raft._SyncObj__raftElectionDeadline >= asked_s + Timing().heartbeat_ms / 1000
    alpha.raft._SyncObj__raftElectionDeadline = far_s = asked_s + 1_000
    alpha.raft.receive("gamma", PreVote(round=2, term=1, last_index=1, last_term=0))
    assert alpha.raft._SyncObj__raftElectionDeadline == far_s


def test_a_commit_is_told_by_a_notice_behind_the_cycle(alpha: Alpha) -> None:
    alpha.settle()
    alpha.raft._news = News()  # As if it had not written for a while.
    alpha.propose()
    alpha.cycle()
    alpha.peers.sent.clear()
    alpha.cycle(("beta", Appended(term=1, next_index=5, matched=True)))
    assert isinstance(alpha.outcomes[0], Applied)
    assert alpha.peers.take(Append) == [], "the caller comes first"
    alpha.raft.announce()
    alpha.raft.announce()
    notices = [message for _to, message in alpha.peers.take(Append) if isinstance(message, Append)]
    assert [(notice.is_notice, notice.commit_index) for notice in notices] == [(True, 4)] * 2


@pytest.mark.parametrize(
    ("prev", "answered"),
    [
        pytest.param((2, 1), False, id="held"),
        pytest.param((3, 1), True, id="lacks-the-entry-in-front"),
    ],
)
def test_a_notice_is_answered_only_by_who_lacks_an_entry(
    alpha: Alpha, prev: tuple[int, int], answered: bool
) -> None:
    alpha.cycle(("beta", append(1, (1, 0), Entry(2, 1, KIND_NOOP))))
    alpha.peers.sent.clear()
    alpha.cycle(("beta", replace(append(1, prev, commit=2), is_notice=True)))
    assert bool(alpha.peers.take(Appended)) is answered
    assert alpha.raft.commit_index == (1 if answered else 2)


class _Planned(Struct):
    """What News reads of a proposer."""

    rest_s: float | None = None
    awaited: bool = False

    def is_awaited(self, _commit_index: int) -> bool:
        return self.awaited


@pytest.mark.parametrize(
    ("planned", "gap_s", "is_due", "rest_s"),
    [
        pytest.param(_Planned(), 1.0, True, None, id="a-lone-write"),
        pytest.param(_Planned(), STREAM_S / 2, False, STREAM_S, id="one-write-after-another"),
        pytest.param(_Planned(rest_s=0.004), 1.0, False, None, id="an-append-is-about-to-leave"),
        pytest.param(_Planned(rest_s=0.004, awaited=True), STREAM_S / 2, True, None, id="a-follower-waits"),
    ],
)
def test_news_of_a_commit_travels_with_the_next_append_when_one_is_likely(
    planned: _Planned, gap_s: float, is_due: bool, rest_s: float | None
) -> None:
    news, proposer = News(), cast("Proposer", planned)
    news.sent(1, 0, 10.0)
    news.sent(2, 1, 10.0 + gap_s)
    now_s = 10.0 + gap_s
    assert news.is_due(2, now_s, proposer) is is_due
    assert news.rest_s == (rest_s if rest_s is None else pytest.approx(rest_s))
    planned.rest_s = None
    assert news.is_due(2, now_s + STREAM_S, proposer) is not is_due, "it is told once, if no append comes"
    assert not news.is_due(2, now_s + STREAM_S, proposer)


class _Raft(Struct):
    commit_index: int


class _Journal(Struct):
    last_index: int


class _Store(Struct):
    journal: _Journal


@pytest.mark.parametrize(
    ("message", "commit_index", "waits"),
    [
        pytest.param(Appended(term=1, next_index=6, matched=True), 5, True, id="all-committed"),
        pytest.param(Appended(term=1, next_index=6, matched=True), 4, False, id="it-may-commit"),
        pytest.param(Appended(term=1, next_index=5, matched=True), 5, False, id="its-sender-lacks-an-entry"),
        pytest.param(Appended(term=1, next_index=6, mismatch=True), 5, False, id="mismatch"),
        pytest.param(append(1, (5, 1)), 5, False, id="no-answer"),
    ],
)
def test_only_an_answer_that_makes_nothing_possible_waits_for_the_tick(
    message: Message, commit_index: int, waits: bool
) -> None:
    member: Any = Member.__new__(Member)  # The rule needs the two indexes only.
    woken: list[str] = []
    member._messages = deque()
    member._raft, member._store = _Raft(commit_index), _Store(_Journal(last_index=5))
    member._wake = lambda: woken.append("turn")
    member.deliver("beta", message)
    assert member._messages == deque([("beta", message)])
    assert woken == ([] if waits else ["turn"])

"""A vote that could not be sent, or was lost with its connection, is sent when there is a connection again."""

from pathlib import Path

import pytest

from consensus.core.messages import Append, Message, RequestVote, VoteGranted
from tests.unit.consensus.test_hardened import Alpha


@pytest.fixture
def alpha(tmp_path: Path) -> Alpha:
    return Alpha(tmp_path)


def reconnected(alpha: Alpha, member: str, kind: type[Message]) -> list[tuple[str, Message]]:
    alpha.peers.sent.clear()
    alpha.raft.peer_changed(member, False)
    alpha.raft.peer_changed(member, True)
    return alpha.peers.take(kind)


def test_a_vote_reaches_a_candidate_that_this_member_was_not_connected_to(alpha: Alpha) -> None:
    alpha.cycle(("beta", RequestVote(term=3, last_index=1, last_term=0)))

    assert reconnected(alpha, "gamma", VoteGranted) == []
    assert reconnected(alpha, "beta", VoteGranted) == [("beta", VoteGranted(term=3))]


def test_a_question_reaches_a_voter_that_the_candidate_was_not_connected_to(alpha: Alpha) -> None:
    alpha.campaign()
    (_, asked), _ = alpha.peers.take(RequestVote)

    assert reconnected(alpha, "gamma", RequestVote) == [("gamma", asked)]


def test_nobody_is_asked_and_no_vote_repeated_once_somebody_leads(alpha: Alpha) -> None:
    alpha.lead()
    assert reconnected(alpha, "gamma", RequestVote) == []

    alpha.cycle(("beta", RequestVote(term=3, last_index=9, last_term=2, called=True)))
    alpha.cycle(("beta", Append(term=3, commit_index=1, prev_index=1, prev_term=0, entries=())))
    assert alpha.raft.leader_id == "beta"
    assert reconnected(alpha, "beta", VoteGranted) == []


def test_a_vote_of_an_earlier_term_is_not_repeated(alpha: Alpha) -> None:
    alpha.cycle(("beta", RequestVote(term=3, last_index=1, last_term=0)))
    alpha.cycle(("gamma", RequestVote(term=4, last_index=0, last_term=0)))

    assert alpha.raft.term == 4
    assert reconnected(alpha, "beta", VoteGranted) == []

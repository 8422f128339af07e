"""One member's Raft state against scripted peers: what may leave when, and who may change what."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from pysyncobj.node import Node

from consensus.core.contract import Counters, MemberAddress
from consensus.core.membership import KIND_COMMAND, KIND_NOOP, voter_ids
from consensus.core.messages import (
    Append,
    Appended,
    Forgotten,
    Message,
    PreVote,
    PreVoteAnswer,
    Propose,
    Refused,
    RequestVote,
    TimeoutNow,
    VoteGranted,
)
from consensus.core.promises import UNSTATED, Promise, Standing
from consensus.core.proposals import Kind, Outcome, Proposal, ProposalTable
from consensus.core.records import Entry
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK
from consensus.runtime.hardened import HardenedRaft
from consensus.runtime.store import Store
from federation.kernel.errors import PreconditionError
from tests.unit.consensus.builders import ALPHA, BETA, GAMMA, member

FIVE = (ALPHA, BETA, GAMMA, member("delta"), member("epsilon"))


class Peers:
    """Takes every frame, and notes how many syncs the journal had made by then."""

    def __init__(self, counters: Counters) -> None:
        self.sent: list[tuple[str, Message, int]] = []
        self._counters = counters

    def send(self, member_id: str, message: Message) -> bool:
        if isinstance(message, PreVote | PreVoteAnswer | RequestVote | VoteGranted | Appended):
            message = replace(message, since=UNSTATED)  # Which directory it is, tests draw by lot.
        self.sent.append((member_id, message, self._counters.journal_syncs))
        return True

    def backlog_bytes(self, member_id: str) -> int:
        return 0

    def take(self, kind: type[Message]) -> list[tuple[str, Message]]:
        found = [(to, message) for to, message, _syncs in self.sent if isinstance(message, kind)]
        self.sent.clear()
        return found


class Counting:
    def apply(self, index: int, command: bytes) -> bytes:
        return b"%d" % index

    def snapshot(self) -> Iterator[bytes]:
        yield b""

    def restore(self, chunks: Iterable[bytes]) -> None:
        pass


class Alpha:
    """Member alpha among `voters`."""

    def __init__(self, directory: Path, voters: tuple[MemberAddress, ...] = (ALPHA, BETA, GAMMA)) -> None:
        self.counters = Counters()
        self.peers = Peers(self.counters)
        self.store = Store(
            directory,
            founding_voters=voters,
            machine=Counting(),
            counters=self.counters,
            snapshot_after_bytes=1 << 20,
        )
        self.table = ProposalTable()
        self.raft = HardenedRaft(
            ALPHA,
            store=self.store,
            wire=self.peers,
            timing=Timing(),
            proposals=self.table,
            counters=self.counters,
            applied=lambda _index: None,
            voters_changed=lambda: None,
        )
        for voter in voters[1:]:
            self.raft.peer_changed(voter.id, True)
        self.outcomes: list[Outcome] = []

    def cycle(self, *messages: tuple[str, Message]) -> None:
        for sender, message in messages:
            self.raft.receive(sender, message)
        self.raft.doTick(0.0)
        self.raft.finish_cycle()

    def election_timeout(self) -> None:
        self.raft._elections.heard_s = None
        self.raft._SyncObj__raftElectionDeadline = 0
        self.cycle()

    def campaign(self) -> None:
        """Win the pre-vote, so that alpha asks for votes in the next term."""
        self.election_timeout()
        round_ = self.raft._elections.pre_voting._round
        yes = PreVoteAnswer(round=round_, granted=True, term=self.raft.term)
        majority = len(self.store.voters) // 2
        self.cycle(*[(voter.id, yes) for voter in self.store.voters[1 : majority + 1]])
        assert self.raft.role == "candidate"

    def lead(self) -> None:
        self.campaign()
        majority = len(self.store.voters) // 2
        vote = VoteGranted(term=self.raft.term)
        self.cycle(*[(voter.id, vote) for voter in self.store.voters[1 : majority + 1]])
        assert self.raft.is_leader
        self.peers.sent.clear()

    def settle(self) -> None:
        """Lead, with the no-op and the list of directories applied."""
        self.lead()
        self.cycle(("beta", Appended(term=1, next_index=3, matched=True)))
        self.cycle(("beta", Appended(term=1, next_index=4, matched=True)))
        assert self.store.membership.incarnation("alpha") == self.store.journal.incarnation

    def ask(self, kind: Kind, body: bytes) -> None:
        deadline_s = SYSTEM_CLOCK.now_s() + 100
        self.table.submit(Proposal(kind, body, deadline_s=deadline_s, finish=self.outcomes.append))

    def propose(self, command: bytes = b"c") -> None:
        self.ask("command", command)


def append(term: int, prev: tuple[int, int], *entries: Entry, commit: int = 1) -> Append:
    return Append(term=term, commit_index=commit, prev_index=prev[0], prev_term=prev[1], entries=entries)


@pytest.fixture
def alpha(tmp_path: Path) -> Alpha:
    return Alpha(tmp_path)


def test_an_acknowledgement_leaves_only_behind_the_sync_of_what_it_acknowledges(alpha: Alpha) -> None:
    alpha.cycle(("beta", append(1, (1, 0))))
    syncs = alpha.counters.journal_syncs
    alpha.peers.sent.clear()
    alpha.raft.receive("beta", append(1, (1, 0), Entry(2, 1, KIND_NOOP)))
    alpha.raft.receive("beta", append(1, (2, 1), Entry(3, 1, KIND_COMMAND)))
    alpha.raft.doTick(0.0)
    assert alpha.peers.sent == []
    alpha.raft.finish_cycle()
    assert alpha.peers.sent == [("beta", Appended(term=1, next_index=4, matched=True), syncs + 1)]


def test_a_former_leader_gets_no_acknowledgement_once_a_newer_term_was_entered(alpha: Alpha) -> None:
    alpha.cycle(
        ("beta", append(1, (1, 0), Entry(2, 1, KIND_NOOP), Entry(3, 1, KIND_COMMAND))),
        ("gamma", append(2, (1, 0), Entry(2, 2, KIND_NOOP))),
    )
    assert alpha.peers.take(Appended) == [("gamma", Appended(term=2, next_index=3, matched=True))]
    assert [entry.term for entry in alpha.store.journal.entries] == [2]


def test_a_stale_leader_learns_the_newer_term_and_changes_nothing(alpha: Alpha) -> None:
    alpha.cycle(("gamma", append(5, (1, 0))))
    alpha.peers.sent.clear()
    alpha.cycle(("beta", append(4, (1, 0), Entry(2, 4, KIND_NOOP))))
    assert alpha.peers.take(Appended) == [("beta", Appended(term=5, next_index=0))]
    assert alpha.store.journal.entries == []
    assert alpha.raft.leader_id == "gamma"


def test_only_the_verified_prefix_is_committed(alpha: Alpha) -> None:
    alpha.cycle(("beta", append(1, (1, 0), Entry(2, 1, KIND_NOOP), Entry(3, 1, KIND_COMMAND))))
    alpha.cycle(("beta", append(1, (2, 1), commit=3)))
    assert alpha.raft.commit_index == 2, "the message says nothing about entry 3"


def test_a_vote_is_durable_and_given_once_in_a_term(tmp_path: Path, alpha: Alpha) -> None:
    alpha.cycle(("beta", RequestVote(term=3, last_index=1, last_term=0)))
    alpha.cycle(("gamma", RequestVote(term=3, last_index=9, last_term=2)))
    assert alpha.peers.take(VoteGranted) == [("beta", VoteGranted(term=3))]
    alpha.store.close()
    again = Alpha(tmp_path)
    assert (again.raft.term, again.store.journal.voted_for) == (3, "beta")
    again.cycle(("gamma", RequestVote(term=3, last_index=9, last_term=2)))
    assert again.peers.take(VoteGranted) == []


def test_a_candidate_with_an_older_log_gets_no_vote(alpha: Alpha) -> None:
    alpha.cycle(("beta", append(2, (1, 0), Entry(2, 2, KIND_NOOP))))
    alpha.raft._elections.heard_s = None
    alpha.cycle(("gamma", RequestVote(term=7, last_index=50, last_term=1)))
    assert alpha.peers.take(VoteGranted) == []


def test_who_hears_a_leader_neither_votes_nor_enters_a_newer_term(alpha: Alpha) -> None:
    alpha.cycle(("beta", append(2, (1, 0))))
    alpha.peers.sent.clear()
    alpha.cycle(
        ("gamma", RequestVote(term=9, last_index=90, last_term=8)),
        ("gamma", PreVote(round=1, term=9, last_index=90, last_term=8)),
    )
    assert alpha.raft.term == 2
    assert alpha.peers.take(PreVoteAnswer) == [("gamma", PreVoteAnswer(round=1, granted=False, term=2))]


def test_a_granted_pre_vote_changes_no_term(alpha: Alpha) -> None:
    alpha.cycle(("gamma", PreVote(round=4, term=1, last_index=1, last_term=0)))
    assert alpha.peers.take(PreVoteAnswer) == [("gamma", PreVoteAnswer(round=4, granted=True, term=0))]
    assert alpha.raft.term == 0


def test_without_a_won_pre_vote_no_term_is_raised(alpha: Alpha) -> None:
    for _ in range(5):
        alpha.election_timeout()
    assert alpha.raft.term == 0
    assert alpha.counters.campaigns == 0


def test_a_pre_candidate_below_the_others_term_enters_it(alpha: Alpha) -> None:
    alpha.election_timeout()
    round_ = alpha.raft._elections.pre_voting._round
    alpha.cycle(("beta", PreVoteAnswer(round=round_, granted=False, term=6)))
    assert alpha.raft.term == 6
    assert alpha.store.journal.voted_for is None


def test_a_vote_counts_once_and_only_from_a_voter(tmp_path: Path) -> None:
    alpha = Alpha(tmp_path, FIVE)
    alpha.campaign()
    vote = VoteGranted(term=alpha.raft.term)
    alpha.cycle(("beta", vote), ("beta", vote), ("stranger", vote), ("gamma", VoteGranted(term=0)))
    assert alpha.raft.role == "candidate"
    alpha.cycle(("gamma", vote))
    assert alpha.raft.role == "leader"


def test_a_leader_alone_confirms_nothing(alpha: Alpha) -> None:
    alpha.lead()
    alpha.propose()
    for _ in range(3):
        alpha.cycle()
    assert alpha.raft.commit_index == 1
    assert alpha.outcomes == []


def test_a_proposal_leaves_before_the_leaders_sync_and_counts_behind_it(alpha: Alpha) -> None:
    alpha.lead()
    syncs = alpha.counters.journal_syncs
    alpha.propose()
    alpha.cycle()
    entries = [(to, m.entries, n) for to, m, n in alpha.peers.sent if isinstance(m, Append) and m.entries]
    assert {to for to, _entries, _syncs in entries} == {"beta", "gamma"}
    assert {n for _to, _entries, n in entries} == {syncs}, "no sync before it left"
    assert alpha.counters.journal_syncs == syncs + 1
    alpha.cycle(("beta", Appended(term=1, next_index=4, matched=True)))
    assert alpha.raft.commit_index == 3
    assert len(alpha.outcomes) == 1


def test_answers_of_another_term_count_for_nothing_or_end_the_leadership(alpha: Alpha) -> None:
    alpha.lead()
    alpha.propose()
    alpha.cycle(("beta", Appended(term=0, next_index=4, matched=True)))
    assert alpha.raft.commit_index == 1
    alpha.cycle(("gamma", Appended(term=8, next_index=0)))
    assert (alpha.raft.role, alpha.raft.term) == ("follower", 8)


def test_answers_of_strangers_count_for_nothing(alpha: Alpha) -> None:
    alpha.lead()
    alpha.propose()
    alpha.cycle(("stranger", Appended(term=1, next_index=4, matched=True)))
    assert alpha.raft.commit_index == 1


def test_a_leader_goes_back_to_where_the_follower_says_and_on_from_there(alpha: Alpha) -> None:
    alpha.cycle(("beta", append(1, (1, 0), *[Entry(index, 1, KIND_COMMAND) for index in range(2, 10)])))
    alpha.lead()
    alpha.cycle(("gamma", Appended(term=alpha.raft.term, next_index=4, mismatch=True)))
    (probe,) = [message for to, message in alpha.peers.take(Append) if to == "gamma"]
    assert (probe.prev_index, probe.entries) == (3, ())
    alpha.cycle(("gamma", Appended(term=alpha.raft.term, next_index=4, matched=True)))
    sent = [message for to, message in alpha.peers.take(Append) if to == "gamma" and message.entries]
    assert [entry.index for entry in sent[0].entries] == list(range(4, 11))


def test_a_forwarded_proposal_that_was_refused_is_not_taken_when_its_frame_is_repeated(alpha: Alpha) -> None:
    forwarded = Propose(request=7, kind="command", body=b"c", timeout_ms=1_000)
    alpha.cycle(("beta", forwarded))
    assert [
        message.request for _to, message in alpha.peers.take(Refused) if isinstance(message, Refused)
    ] == [7]
    alpha.settle()
    alpha.cycle(("beta", forwarded), ("beta", replace(forwarded, request=8)))
    assert alpha.store.journal.last_index == 4, "the second one alone"


def test_a_leader_hands_over_once_its_successor_holds_everything(alpha: Alpha) -> None:
    alpha.settle()
    alpha.propose()
    alpha.cycle()
    alpha.ask("transfer", b"beta")
    alpha.peers.sent.clear()
    alpha.cycle()
    assert alpha.peers.take(TimeoutNow) == [], "beta lacks entry 4"
    alpha.propose()
    alpha.cycle(("beta", Appended(term=1, next_index=5, matched=True)))
    assert alpha.peers.take(TimeoutNow) == [("beta", TimeoutNow(term=1))]
    assert alpha.store.journal.last_index == 4, "nothing is appended meanwhile"
    alpha.cycle(("beta", RequestVote(term=2, last_index=4, last_term=1, called=True)))
    assert alpha.peers.take(VoteGranted) == [("beta", VoteGranted(term=2))]
    assert alpha.raft.role == "follower"


def test_a_successor_that_does_not_answer_leaves_the_leader_in_office(alpha: Alpha) -> None:
    alpha.settle()
    alpha.ask("transfer", b"beta")
    alpha.cycle()
    alpha.propose()
    alpha.cycle()
    assert alpha.store.journal.last_index == 3
    assert alpha.raft.rest_s != 0, "it waits without spinning"
    alpha.raft.proposer._changes._successor_until_s = 0
    for _ in range(2):
        alpha.cycle()
    assert alpha.store.journal.last_index == 4
    assert alpha.raft.is_leader


def test_who_is_called_by_its_leader_campaigns_at_once_without_pre_vote(alpha: Alpha) -> None:
    alpha.cycle(("beta", append(1, (1, 0))))
    alpha.cycle(("gamma", TimeoutNow(term=1)))
    assert alpha.raft.role == "follower", "gamma does not lead"
    alpha.peers.sent.clear()
    alpha.cycle(("beta", TimeoutNow(term=1)), ("beta", append(1, (1, 0))))
    asked = alpha.peers.take(RequestVote)
    assert {to for to, _message in asked} == {"beta", "gamma"}
    assert asked[0][1] == RequestVote(term=2, last_index=1, last_term=0, called=True)


def test_a_removal_that_would_leave_no_answering_majority_is_refused(tmp_path: Path) -> None:
    alpha = Alpha(tmp_path, (ALPHA, BETA, GAMMA))
    alpha.settle()
    alpha.raft._SyncObj__lastResponseTime[Node("gamma")] = 0.0
    alpha.ask("remove", b"beta")
    alpha.cycle()
    (refusal,) = alpha.outcomes
    assert isinstance(refusal, PreconditionError)
    assert "cannot remove beta: of the 2 that would vote then, only alpha answer" in refusal.message


OLD = Standing(incarnation="a1", run=1, term=0, last_index=1)
NEW = Standing(incarnation="a1", run=2, term=1, last_index=2)  # Another start, on less than was promised.
OTHER = Standing(incarnation="b2", run=3, term=0, last_index=1)


def settled_with_known_directories(directory: Path) -> Alpha:
    alpha = Alpha(directory)
    alpha.lead()
    for index in (3, 4):
        alpha.cycle(
            ("beta", Appended(term=1, next_index=index, matched=True, since=OLD)),
            ("gamma", Appended(term=1, next_index=index, matched=True, since=replace(OLD, incarnation="c1"))),
        )
    alpha.peers.sent.clear()
    return alpha


def test_a_leader_writes_down_to_which_directory_each_vote_belongs(tmp_path: Path) -> None:
    alpha = settled_with_known_directories(tmp_path)
    membership = alpha.store.membership
    assert [membership.incarnation(name) for name in ("beta", "gamma")] == ["a1", "c1"]
    assert alpha.raft.is_voter


def test_a_member_that_lost_what_it_acknowledged_is_told_and_counts_for_nothing(tmp_path: Path) -> None:
    alpha = settled_with_known_directories(tmp_path)
    alpha.propose()
    alpha.cycle()
    commit = alpha.raft.commit_index
    alpha.cycle(("beta", Appended(term=1, next_index=9, matched=True, since=NEW)))
    assert alpha.raft.commit_index == commit
    assert alpha.peers.take(Forgotten) == [
        ("beta", Forgotten(incarnation="a1", term=1, index=3, run=NEW.run))
    ]


def test_who_is_told_that_it_forgot_has_no_vote_until_the_membership_names_its_new_directory(
    tmp_path: Path, alpha: Alpha
) -> None:
    alpha.cycle(("beta", append(1, (1, 0), Entry(2, 1, KIND_NOOP))))
    before = alpha.store.journal.incarnation
    run = alpha.raft._memory.since.run
    for incarnation, former in (("another", run), (before, run - 1)):  # Not this directory, not this process.
        alpha.cycle(("gamma", Forgotten(incarnation=incarnation, term=9, index=9, run=former)))
        assert alpha.store.journal.incarnation == before
    alpha.cycle(("gamma", Forgotten(incarnation=before, term=9, index=9, run=run)))
    assert alpha.store.journal.incarnation != before
    assert (alpha.raft.role, alpha.raft.problem[:18]) == ("joining", "its directory lost")
    alpha.raft._elections.heard_s = None
    alpha.peers.sent.clear()
    alpha.cycle(
        ("gamma", RequestVote(term=7, last_index=90, last_term=6)),
        ("gamma", PreVote(round=1, term=7, last_index=90, last_term=6)),
    )
    assert alpha.peers.sent == [
        ("gamma", PreVoteAnswer(round=1, granted=False, term=1), alpha.counters.journal_syncs)
    ]
    alpha.election_timeout()
    assert alpha.peers.take(PreVote) == []
    alpha.store.close()
    again = Alpha(tmp_path)
    assert not again.raft.is_voter, "the verdict is durable"


def test_an_emptied_directory_has_no_part_in_majorities_and_loses_its_vote(tmp_path: Path) -> None:
    alpha = settled_with_known_directories(tmp_path)
    alpha.propose()
    alpha.cycle(("beta", Appended(term=1, next_index=1, mismatch=True, since=OTHER)))
    alpha.cycle(("beta", Appended(term=1, next_index=5, matched=True, since=OTHER)))
    assert alpha.raft.commit_index == 3, "its copy of entry 4 does not count"
    since = replace(OLD, incarnation="c1")
    for index in (5, 6, 7):
        alpha.cycle(("gamma", Appended(term=1, next_index=index, matched=True, since=since)))
    membership = alpha.store.membership
    assert voter_ids(membership.voters) == ("alpha", "gamma")
    assert voter_ids(membership.learners) == ("beta",)
    alpha.cycle(("beta", Appended(term=1, next_index=7, matched=True, since=OTHER)))
    alpha.ask("promote", b"beta")
    alpha.cycle()
    alpha.cycle(("gamma", Appended(term=1, next_index=8, matched=True, since=since)))
    assert alpha.store.membership.incarnation("beta") == "b2"
    assert alpha.raft._memory.counts("beta")


def test_what_others_promised_is_remembered_after_a_restart_and_told_to_followers(
    tmp_path: Path, alpha: Alpha
) -> None:
    promise = Promise(member="gamma", incarnation="c1", run=1, term=1, index=7)
    alpha.cycle(("beta", replace(append(1, (1, 0), Entry(2, 1, KIND_NOOP)), promises=(promise,))))
    alpha.store.close()
    again = Alpha(tmp_path)
    since = Standing(incarnation="c1", run=2, term=1, last_index=6)
    again.cycle(("gamma", PreVote(round=1, term=2, last_index=6, last_term=1, since=since)))
    assert again.peers.take(Forgotten) == [("gamma", Forgotten(incarnation="c1", term=1, index=7, run=2))]


def test_who_alone_votes_leads_at_once(tmp_path: Path) -> None:
    alone = Alpha(tmp_path, (ALPHA,))
    alone.cycle()
    assert alone.raft.is_leader


def test_a_member_outside_the_voters_never_campaigns(tmp_path: Path) -> None:
    outsider = Alpha(tmp_path, (BETA, GAMMA))
    for _ in range(3):
        outsider.election_timeout()
    assert outsider.raft.role == "joining"
    assert outsider.peers.take(PreVote) == []

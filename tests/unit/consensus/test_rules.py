"""Membership, pre-vote, proposals, messages and times: the pure rules."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.contract import Applied, MemberAddress
from consensus.core.membership import (
    LEARNERS_MAX,
    VOTERS_MAX,
    Membership,
    MembershipChange,
    added,
    check_voters,
    decode_change,
    decode_member,
    encode_change,
    encode_member,
    learning,
    promoted,
    removed,
)
from consensus.core.messages import (
    ENTRY_BYTES_MAX,
    LENGTH,
    PROMISES_MAX,
    Append,
    Hello,
    Ping,
    PreVoteAnswer,
    Propose,
    VoteGranted,
    decode_payload,
    encode_frame,
)
from consensus.core.prevote import PreVoting
from consensus.core.promises import UNSTATED, Promise, Standing
from consensus.core.proposals import Kind, Outcome, Proposal, ProposalTable, finish_all
from consensus.core.records import Entry
from consensus.core.timing import ROUND_TRIP_MS_MAX, Timing
from federation.kernel.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionError,
    UnavailableError,
)
from tests.unit.consensus.builders import ALPHA, BETA, GAMMA, member

A_PROMISE = Promise(member="beta", incarnation="d1", run=1, term=1, index=1)

# Membership.


def test_a_change_carries_all_voters_after_it() -> None:
    change = added(Membership(voters=(ALPHA,)), BETA)
    assert change == MembershipChange(op="add", member=BETA, voters=(ALPHA, BETA))
    assert removed(Membership(voters=(ALPHA, BETA)), "alpha") == MembershipChange(
        op="remove", member=ALPHA, voters=(BETA,)
    )
    assert decode_change(encode_change(change)) == change
    assert decode_member(encode_member(BETA)) == BETA


def test_a_learner_becomes_a_voter_and_keeps_one_place() -> None:
    change = learning(Membership(voters=(ALPHA,)), BETA)
    assert change == MembershipChange(op="learner", member=BETA, voters=(ALPHA,), learners=(BETA,))
    assert decode_change(encode_change(change)).membership == change.membership
    grown = promoted(change.membership, "beta")
    assert grown == MembershipChange(op="add", member=BETA, voters=(ALPHA, BETA))
    assert removed(change.membership, "beta").membership == Membership(voters=(ALPHA,))


def test_who_learns_or_votes_already_changes_nothing() -> None:
    membership = Membership(voters=(ALPHA, BETA), learners=(GAMMA,))
    assert learning(membership, GAMMA) is None
    assert promoted(membership, "beta") is None


def test_a_voter_does_not_become_a_learner_and_a_stranger_gets_no_vote() -> None:
    membership = Membership(voters=(ALPHA, BETA))
    with pytest.raises(AlreadyExistsError, match="votes already"):
        learning(membership, BETA)
    with pytest.raises(NotFoundError, match="no member gamma is a learner: expected one of none"):
        promoted(membership, "gamma")
    full = Membership(voters=(ALPHA,), learners=tuple(member(f"m{n}") for n in range(LEARNERS_MAX)))
    with pytest.raises(PreconditionError, match=f"{LEARNERS_MAX} learners"):
        learning(full, BETA)


def test_who_votes_already_changes_nothing() -> None:
    assert added(Membership(voters=(ALPHA, BETA)), BETA) is None


@pytest.mark.parametrize(
    "newcomer",
    [
        pytest.param(MemberAddress(id="beta", address="new:1", identity=BETA.identity), id="id"),
        pytest.param(
            MemberAddress(id="new", address=BETA.address, identity="spiffe://new.test/x"), id="address"
        ),
        pytest.param(MemberAddress(id="new", address="new:1", identity=BETA.identity), id="identity"),
    ],
)
def test_id_address_and_identity_belong_to_one_member(newcomer: MemberAddress) -> None:
    with pytest.raises(AlreadyExistsError):
        added(Membership(voters=(ALPHA, BETA)), newcomer)


def test_limits_of_the_membership() -> None:
    full = tuple(member(f"m{number}") for number in range(VOTERS_MAX))
    with pytest.raises(PreconditionError, match=f"{VOTERS_MAX} members vote already"):
        added(Membership(voters=full), ALPHA)
    with pytest.raises(PreconditionError, match="only member"):
        removed(Membership(voters=(ALPHA,)), "alpha")
    with pytest.raises(NotFoundError, match="expected one of alpha, beta"):
        removed(Membership(voters=(ALPHA, BETA)), "gamma")
    with pytest.raises(InvalidInputError, match="expected 1 to"):
        check_voters(())
    with pytest.raises(InvalidInputError, match="distinct"):
        check_voters((ALPHA, ALPHA))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(b"\x10", id="empty"),
        pytest.param(b"\x10\xc0", id="nil"),
        pytest.param(b"\x10" + msgspec.msgpack.encode(["add", ALPHA, []]), id="no-voters"),
        pytest.param(b"\x10" + msgspec.msgpack.encode(["swap", ALPHA, [ALPHA]]), id="unknown-op"),
    ],
)
def test_a_malformed_change_is_refused(entry: bytes) -> None:
    with pytest.raises(InvalidInputError):
        decode_change(entry)


# Pre-vote.


def answer(round_: int, *, granted: bool = True) -> PreVoteAnswer:
    return PreVoteAnswer(round=round_, granted=granted, term=1)


@pytest.mark.parametrize(
    ("others", "granted_by", "is_won"),
    [
        pytest.param(set(), [], True, id="alone"),
        pytest.param({"b"}, [], False, id="one-of-two"),
        pytest.param({"b"}, ["b"], True, id="two-of-two"),
        pytest.param({"b", "c"}, ["b"], True, id="two-of-three"),
        pytest.param({"b", "c"}, ["b", "b"], True, id="repeated-answer"),
        pytest.param({"b", "c", "d", "e"}, ["b", "b"], False, id="repeated-answer-counts-once"),
        pytest.param({"b", "c"}, ["x", "y"], False, id="strangers"),
        pytest.param({"b", "c", "d"}, ["b"], False, id="half-of-four"),
    ],
)
def test_a_pre_vote_needs_a_majority_of_the_voters(
    others: set[str], granted_by: list[str], is_won: bool
) -> None:
    voting = PreVoting(round_s=1)
    question = voting.begin(10, term=2, last_index=5, last_term=1, since=UNSTATED)
    assert question is not None
    for sender in granted_by:
        voting.take(sender, answer(question.round))
    assert voting.is_won(others, 10.5) == is_won


def test_answers_count_in_their_own_round_only() -> None:
    voting = PreVoting(round_s=1)
    first = voting.begin(10, term=2, last_index=5, last_term=1, since=UNSTATED)
    assert first is not None
    assert voting.begin(10.5, term=2, last_index=5, last_term=1, since=UNSTATED) is None, "a round is running"
    second = voting.begin(11.5, term=2, last_index=5, last_term=1, since=UNSTATED)
    assert second is not None
    voting.take("b", answer(first.round))
    assert not voting.is_won({"b", "c"}, 11.6)
    voting.take("b", answer(second.round, granted=False))
    assert not voting.is_won({"b", "c"}, 11.6)
    voting.take("b", answer(second.round))
    assert voting.is_won({"b", "c"}, 11.6)
    assert not voting.is_won({"b", "c"}, 13.0), "the round is over"
    voting.end()
    assert not voting.is_current(answer(second.round))
    assert not voting.is_won({"b", "c"}, 11.6)


# Proposals.


class Caller:
    """Submits proposals and notes their outcomes."""

    def __init__(self) -> None:
        self.table = ProposalTable()
        self.outcomes: list[Outcome] = []

    def submit(self, kind: Kind = "command", deadline_s: float = 100) -> Proposal:
        proposal = Proposal(kind, b"x", deadline_s=deadline_s, finish=self.outcomes.append)
        self.table.submit(proposal)
        return proposal


def test_a_proposal_finishes_with_the_result_at_its_index_and_term() -> None:
    caller = Caller()
    caller.submit()
    (group,) = caller.table.take(bytes_max=1_000)
    caller.table.wait(group, 7, 2)
    caller.table.applied(6, 2, b"other")
    assert caller.outcomes == []
    caller.table.applied(7, 2, b"mine")
    assert caller.outcomes == [Applied(index=7, term=2, result=b"mine")]


def test_an_entry_of_another_term_at_its_index_means_certainly_not() -> None:
    caller = Caller()
    caller.submit()
    caller.table.wait(caller.table.take(bytes_max=1_000)[0], 7, 2)
    caller.table.applied(7, 3, b"other")
    assert isinstance(caller.outcomes[0], UnavailableError)


def test_barriers_of_one_turn_share_one_entry_and_commands_do_not() -> None:
    caller = Caller()
    for kind in ("barrier", "command", "barrier", "command"):
        caller.submit(kind)
    assert sorted(len(group) for group in caller.table.take(bytes_max=1_000)) == [1, 1, 2]
    assert caller.table.queued == 0


def test_one_turn_takes_no_more_than_its_share() -> None:
    caller = Caller()
    for _ in range(5):
        caller.submit()
    assert len(caller.table.take(bytes_max=3)) == 3
    assert caller.table.queued == 2


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        pytest.param("queued", UnavailableError, id="queued"),
        pytest.param("forwarded", OutcomeUnknownError, id="forwarded"),
        pytest.param("waiting", OutcomeUnknownError, id="waiting"),
    ],
)
def test_what_ran_out_of_time_says_whether_it_may_have_happened(stage: str, error: type[Exception]) -> None:
    caller = Caller()
    caller.submit(deadline_s=5)
    if stage != "queued":
        (group,) = caller.table.take(bytes_max=1_000)
        if stage == "forwarded":
            caller.table.forward(group)
        else:
            caller.table.wait(group, 7, 1)
    caller.table.expire(4.9)
    assert caller.outcomes == []
    caller.table.expire(5)
    caller.table.applied(7, 1, b"late")
    caller.table.fail_all("end")
    assert [type(outcome) for outcome in caller.outcomes] == [error]


def test_a_forwarded_proposal_waits_where_the_leader_put_it() -> None:
    caller = Caller()
    caller.submit()
    request = caller.table.forward(caller.table.take(bytes_max=1_000)[0])
    caller.table.proposed(request, 9, 4, applied_index=8)
    caller.table.leader_lost()
    assert caller.outcomes == [], "its place is known: the log decides"
    caller.table.applied(9, 4, b"done")
    assert caller.outcomes == [Applied(index=9, term=4, result=b"done")]


def test_forwarded_proposals_without_an_answer_are_unknown_when_the_leader_is_lost() -> None:
    caller = Caller()
    caller.submit()
    request = caller.table.forward(caller.table.take(bytes_max=1_000)[0])
    caller.table.leader_lost()
    caller.table.proposed(request, 9, 4, applied_index=8)
    assert [type(outcome) for outcome in caller.outcomes] == [OutcomeUnknownError]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        pytest.param(8, OutcomeUnknownError, id="applied-already"),
        pytest.param(0, Applied, id="nothing-to-do"),
    ],
)
def test_an_answer_that_needs_no_waiting_finishes_at_once(index: int, expected: type[Outcome]) -> None:
    caller = Caller()
    caller.submit()
    request = caller.table.forward(caller.table.take(bytes_max=1_000)[0])
    caller.table.proposed(request, index, 4, applied_index=8)
    assert [type(outcome) for outcome in caller.outcomes] == [expected]


def test_what_a_snapshot_covers_is_unknown() -> None:
    caller = Caller()
    caller.submit()
    caller.submit()
    first, second = caller.table.take(bytes_max=1_000)
    caller.table.wait(first, 5, 1)
    caller.table.wait(second, 6, 1)
    caller.table.skipped(5)
    assert [type(outcome) for outcome in caller.outcomes] == [OutcomeUnknownError]


def test_finished_proposals_do_not_pile_up_until_their_deadline() -> None:
    caller = Caller()
    for _ in range(30_000):
        caller.submit(deadline_s=1e9)
        finish_all(caller.table.take(bytes_max=1_000)[0], UnavailableError("x"))
        caller.table.expire(0)
    assert len(caller.table._deadlines) < 10_000


# Messages.


def test_a_frame_is_its_length_and_a_message() -> None:
    message = Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(5, 3, b"\x00c"),))
    frame = encode_frame(message)
    assert LENGTH.unpack_from(frame) == (len(frame) - LENGTH.size,)
    assert decode_payload(frame[LENGTH.size :]) == message


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(
            Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(6, 3, b"\x00"),)),
            id="gap",
        ),
        pytest.param(
            Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(5, 1, b"\x00"),)),
            id="falling-term",
        ),
        pytest.param(
            Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(5, 4, b"\x00"),)),
            id="future-term",
        ),
        pytest.param(
            Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(5, 3, b"\x02pickled"),)),
            id="pysyncobj-membership",
        ),
        pytest.param(
            Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(5, 3, b"\x03pickled"),)),
            id="pysyncobj-version",
        ),
        pytest.param(
            Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(5, 3, b""),)),
            id="no-kind",
        ),
        pytest.param(
            Append(
                term=3,
                commit_index=1,
                prev_index=4,
                prev_term=2,
                entries=(Entry(5, 3, bytes(ENTRY_BYTES_MAX + 1)),),
            ),
            id="too-long",
        ),
        pytest.param(
            Append(term=3, commit_index=1, prev_index=4, prev_term=2, entries=(Entry(5, 3, b"\x10\xc0"),)),
            id="bad-membership",
        ),
        pytest.param(
            Propose(request=1, kind="command", body=bytes(ENTRY_BYTES_MAX + 1), timeout_ms=1), id="long-body"
        ),
        pytest.param(Propose(request=1, kind="command", body=b"", timeout_ms=0), id="no-time"),
        pytest.param(Propose(request=-1, kind="command", body=b"", timeout_ms=1), id="negative"),
        pytest.param(Hello(federation="f" * 254, version=1, member="a"), id="long-name"),
        pytest.param(Hello(federation="f", version=1, member=""), id="no-name"),
        pytest.param(
            VoteGranted(term=1, since=Standing(incarnation="d" * 65, run=1, term=1, last_index=1)),
            id="long-directory",
        ),
        pytest.param(
            Append(
                term=1, commit_index=1, prev_index=0, prev_term=0, promises=(A_PROMISE,) * (PROMISES_MAX + 1)
            ),
            id="too-many-promises",
        ),
    ],
)
def test_a_message_that_no_member_writes_is_refused(message: object) -> None:
    with pytest.raises(InvalidInputError):
        decode_payload(encode_frame(message)[LENGTH.size :])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(payload: bytes) -> None:
    try:
        message = decode_payload(payload)
    except InvalidInputError:
        return
    assert decode_payload(encode_frame(message)[LENGTH.size :]) == message


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x91\xa4\xff\xff\xff\xff", id="tag-is-not-utf-8"),
        pytest.param(b"\x93\xa4ping\x00" + b"\x91" * 100_000, id="nested-without-end"),
        pytest.param(b"\xdd\xff\xff\xff\xff\xa4ping", id="array-of-4-billion"),
        pytest.param(b"\x94\xa5hello\xa1f\x01\xa2\xc3\x28", id="name-is-not-utf-8"),
    ],
)
def test_what_msgspec_does_not_call_a_decode_error_is_refused_too(payload: bytes) -> None:
    with pytest.raises(InvalidInputError):
        decode_payload(payload)


def test_an_unknown_message_of_a_newer_member_is_refused_not_guessed() -> None:
    with pytest.raises(InvalidInputError):
        decode_payload(msgspec.msgpack.encode(["teleport", 1]))
    assert decode_payload(msgspec.msgpack.encode(["ping"])) == Ping()


# Times.


@pytest.mark.parametrize("round_trip_ms", [0, 1, 50, 51, 100, ROUND_TRIP_MS_MAX])
def test_times_keep_their_order_at_any_distance(round_trip_ms: int) -> None:
    timing = Timing(round_trip_ms=round_trip_ms)
    assert timing.tick_ms < timing.heartbeat_ms
    assert (
        3 * timing.heartbeat_ms < timing.election_min_ms < timing.election_max_ms < timing.leader_fallback_ms
    )
    assert timing.election_min_ms >= 10 * round_trip_ms
    assert timing.connection_silent_ms >= timing.election_max_ms

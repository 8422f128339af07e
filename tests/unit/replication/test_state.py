"""How answers change a follower's copy, and which are refused."""

import sys
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from discovery.core.model import Change, pack, unpack_endpoint
from discovery.core.tables import EMPTY_TABLES, Table
from federation.kernel.errors import InvalidInputError, IsthmusError, PreconditionError
from federation.replication import incoming
from federation.replication.messages import (
    Delta,
    FollowAnswer,
    FollowRequest,
    Heartbeat,
    LocalRows,
    Resumed,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotRows,
)
from federation.replication.state import FollowerState, Image, Update
from tests.unit.replication.catalog import HISTORY, cluster, endpoint, gone, rows

A, B = endpoint("a"), endpoint("b", owner="beta")


def begin(revision: int = 5, history: str = HISTORY) -> SnapshotBegin:
    return SnapshotBegin(history=history, revision=revision)


def snapshot(*changes: Change, revision: int = 5) -> list[FollowAnswer]:
    return [begin(revision), SnapshotRows(rows=changes), SnapshotEnd(revision=revision)]


def local_list(*changes: Change) -> LocalRows:
    return LocalRows(changes=changes, first=True, complete=True)


def following(*answers: FollowAnswer) -> FollowerState:
    """Return the state after a snapshot with A and B at revision 5, then `answers`."""
    state = FollowerState("alpha")
    for answer in (*snapshot(A, B), *answers):
        state.apply(answer)
    return state


def own_keys(state: FollowerState) -> list[bytes]:
    return [key for key, _ in state.own.items()]


def test_a_copy_exists_only_once_its_snapshot_is_complete() -> None:
    state = FollowerState("alpha")
    for answer in snapshot(A, B)[:-1]:
        assert state.apply(answer).empty
        assert not state.complete
        assert state.request() == FollowRequest()
    update = state.apply(SnapshotEnd(revision=5))
    assert state.complete
    assert sorted(update.changes, key=lambda change: change.key) == sorted(
        [A, B], key=lambda change: change.key
    )
    assert update.own == (A,)
    assert state.request() == FollowRequest(history=HISTORY, revision=5)


def test_old_rows_are_served_until_the_next_snapshot_is_complete() -> None:
    state = following(begin(9), SnapshotRows(rows=(endpoint("c"), B)))
    before = state.tables
    assert (before.revision, before.endpoints.get(A.key)) == (5, A.value)
    update = state.apply(SnapshotEnd(revision=9))
    assert set(update.changes) == {gone(A), endpoint("c")}
    assert state.tables == EMPTY_TABLES.with_changes([B, endpoint("c")], 9)
    assert before.endpoints.get(A.key) == A.value


def test_a_snapshot_cut_short_leaves_the_copy_as_it_was() -> None:
    state = following(begin(9), SnapshotRows(rows=(endpoint("c"),)))
    state.disconnected()
    state.apply(Resumed(history=HISTORY, revision=9))
    assert state.tables == EMPTY_TABLES.with_changes([A, B], 5)
    with pytest.raises(InvalidInputError, match="begun was none"):
        state.apply(SnapshotEnd(revision=9))


def calls_during(action: Callable[[], object]) -> int:
    """How many functions an action calls: what it costs, whatever the machine does beside it."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("held", [0, 4_000], ids=["nothing-held", "all-of-it-held-otherwise"])
def test_the_end_of_a_snapshot_is_a_short_step_however_large_it_is(held: int) -> None:
    state = FollowerState("alpha")
    before = [endpoint(f"e{number:05}", owner="beta", sequence=1) for number in range(held)]
    now = [endpoint(f"e{number:05}", owner="beta", sequence=2) for number in range(4_000)]
    for answer in (
        *snapshot(*before),
        begin(9),
        *(SnapshotRows(rows=tuple(now[start : start + 500])) for start in range(0, len(now), 500)),
    ):
        state.apply(answer)
    assert calls_during(lambda: state.apply(SnapshotEnd(revision=9))) < 200
    assert state.tables == EMPTY_TABLES.with_changes(now, 9)


def test_deltas_that_are_known_already_change_nothing() -> None:
    state = following(Delta(revision=6, changes=(endpoint("c"),)))
    assert state.apply(Delta(revision=6, changes=(gone(A),))).empty
    assert state.apply(Delta(revision=4, changes=(gone(A),))).empty
    assert state.revision == 6
    assert state.apply(Delta(revision=8, changes=(endpoint("c"),))) == Update(revision=8)


class TestLocalList:
    def test_an_incomplete_list_removes_nothing(self) -> None:
        state = following(local_list(A, endpoint("x")))
        for answer in (
            Resumed(history=HISTORY, revision=5),
            LocalRows(changes=(endpoint("y"),), first=True),
            LocalRows(changes=(endpoint("z"),)),
        ):
            assert state.apply(answer).own == ()
        state.disconnected()
        assert own_keys(state) == [A.key, endpoint("x").key]

    def test_an_empty_list_counts_once_it_is_declared_complete(self) -> None:
        state = following(local_list(A, endpoint("x")))
        assert set(state.apply(local_list()).own) == {gone(A), gone(endpoint("x"))}

    def test_local_rows_come_before_the_logs(self) -> None:
        state = following(local_list(A), LocalRows(changes=(endpoint("a", sequence=3),)))
        update = state.apply(Delta(revision=6, changes=(endpoint("a", sequence=2),)))
        assert update.own == ()
        assert state.own.get(A.key) == endpoint("a", sequence=3).value
        assert state.tables.endpoints.get(A.key) == endpoint("a", sequence=2).value

    def test_a_controller_that_knows_less_of_an_agent_takes_nothing_back(self) -> None:
        """It was cut off from the agent, which told the controller that was followed before more."""
        state = following(local_list(endpoint("a", sequence=6)))
        state.apply(Resumed(history=HISTORY, revision=5))
        for answer in (
            local_list(endpoint("a", sequence=4)),
            LocalRows(changes=(endpoint("a", sequence=5),)),
        ):
            assert state.apply(answer).own == ()
            assert state.own.get(A.key) == endpoint("a", sequence=6).value
        newer = endpoint("a", sequence=7)
        assert state.apply(LocalRows(changes=(newer,))).own == (newer,)

    def test_a_row_that_another_agent_has_now_is_taken_whatever_its_version(self) -> None:
        state = following(local_list(endpoint("a", sequence=6)))
        assert A.value is not None
        another = Change("endpoints", A.key, pack(replace(unpack_endpoint(A.value), agent="another")))
        assert state.apply(local_list(another)).own == (another,)

    def test_rows_that_come_before_the_first_snapshot_are_told_with_it(self) -> None:
        state = FollowerState("alpha")
        state.apply(begin())
        assert state.apply(local_list(endpoint("x"))).empty
        assert state.apply(SnapshotEnd(revision=5)) == Update(revision=5, own=(endpoint("x"),), listed=True)

    def test_an_unfinished_list_of_one_stream_is_not_continued_by_the_next(self) -> None:
        state = following(LocalRows(changes=(endpoint("x"),), first=True))
        state.apply(Resumed(history=HISTORY, revision=5))
        with pytest.raises(InvalidInputError, match="before the complete local list"):
            state.apply(LocalRows(changes=(), complete=True))

    @pytest.mark.parametrize(
        "change", [B, gone(B), cluster("alpha")], ids=["foreign", "foreign-gone", "resource"]
    )
    def test_local_rows_are_endpoints_of_the_own_cluster(self, change: Change) -> None:
        with pytest.raises(InvalidInputError, match="only endpoints of cluster 'alpha'"):
            following().apply(LocalRows(changes=(change,), first=True))


class TestWithoutALocalList:
    """A stranger is followed: what the log says of own endpoints counts, the newest version first."""

    @staticmethod
    def stranded(*own: Change) -> FollowerState:
        """Return the state of a follower whose own controllers declared `own` and then died."""
        state = following(local_list(*own))
        state.disconnected()
        state.apply(Resumed(history=HISTORY, revision=5))
        return state

    def test_local_rows_that_the_log_never_heard_of_stay(self) -> None:
        state = self.stranded(A, endpoint("x"))
        state.apply(Delta(revision=6, changes=(endpoint("c"),)))
        assert own_keys(state) == [A.key, endpoint("c").key, endpoint("x").key]

    @pytest.mark.parametrize(
        ("held", "said", "expected"),
        [
            pytest.param(2, 3, 3, id="newer-wins"),
            pytest.param(3, 2, 3, id="older-changes-nothing"),
            pytest.param(3, 3, 3, id="same"),
        ],
    )
    def test_the_newest_version_wins(self, held: int, said: int, expected: int) -> None:
        state = self.stranded(endpoint("a", sequence=held))
        state.apply(Delta(revision=6, changes=(endpoint("a", sequence=said),)))
        assert state.own.get(A.key) == endpoint("a", sequence=expected).value

    def test_a_withdrawal_takes_the_row_that_it_withdrew(self) -> None:
        state = self.stranded(A)
        assert state.apply(Delta(revision=6, changes=(gone(A),))).own == (gone(A),)

    def test_a_withdrawal_does_not_take_a_newer_row(self) -> None:
        state = self.stranded(endpoint("a", sequence=2))
        assert state.apply(Delta(revision=6, changes=(gone(A),))).own == ()
        assert own_keys(state) == [A.key]

    def test_a_snapshot_of_a_stranger_withdraws_what_the_log_lost_and_no_more(self) -> None:
        state = self.stranded(A, endpoint("x"))
        for answer in snapshot(B, revision=8):
            state.apply(answer)
        assert own_keys(state) == [endpoint("x").key]


@pytest.mark.parametrize(
    ("answers", "error", "text"),
    [
        pytest.param([begin(9, "other")], PreconditionError, "belongs to federation 'other'", id="snapshot-of-another"),
        pytest.param([Resumed(history="other", revision=5)], PreconditionError, "not followed", id="resume-of-another"),
        pytest.param([begin(4)], PreconditionError, "revision 4, older than this copy's 5", id="back-in-time"),
        pytest.param([SnapshotRows(rows=(A,))], InvalidInputError, "outside of a snapshot", id="rows-outside"),
        pytest.param([SnapshotEnd(revision=5)], InvalidInputError, "begun was none", id="end-outside"),
        pytest.param(
            [begin(9), SnapshotRows(rows=(B, A))], InvalidInputError, "expected ascending keys", id="out-of-order"
        ),
        pytest.param(
            [begin(9), SnapshotRows(rows=(A, A))], InvalidInputError, "expected ascending keys", id="twice"
        ),
        pytest.param([begin(9), SnapshotEnd(revision=8)], InvalidInputError, "begun was 9", id="other-end"),
        pytest.param([begin(9), Delta(revision=10, changes=())], InvalidInputError, "complete copy", id="delta-inside"),
        pytest.param([LocalRows(changes=(A,))], InvalidInputError, "before the complete", id="local-before-list"),
        pytest.param([begin(9), SnapshotRows(rows=(gone(A),))], InvalidInputError, "is a removal", id="removal-in-list"),
        pytest.param(
            [Delta(revision=6, changes=(Change("endpoints", A.key, b"junk"),))],
            InvalidInputError,
            "cannot be read",
            id="junk-value",
        ),
        pytest.param(
            [Delta(revision=6, changes=(Change("endpoints", b"a\0b", None),))],
            InvalidInputError,
            "cannot be read",
            id="short-key",
        ),
        pytest.param(
            [Delta(revision=6, changes=(Change("resources", b"\xff\0a\0b\0c", None),))],
            InvalidInputError,
            "cannot be read",
            id="key-not-text",
        ),
        pytest.param(
            [Delta(revision=6, changes=(Change("endpoints", B.key, A.value),))],
            InvalidInputError,
            "row of another key",
            id="row-under-another-key",
        ),
    ],
)  # fmt: skip
def test_a_refused_answer_changes_nothing(
    answers: list[FollowAnswer], error: type[IsthmusError], text: str
) -> None:
    state = following()
    tables, own = state.tables, state.own
    for answer in answers[:-1]:
        state.apply(answer)
    with pytest.raises(error, match=text):
        state.apply(answers[-1])
    assert (state.tables, state.own, state.history) == (tables, own, HISTORY)


def test_a_follower_that_knows_its_federation_takes_no_other_even_at_first() -> None:
    state = FollowerState("alpha", history=HISTORY)
    with pytest.raises(PreconditionError, match="not followed"):
        state.apply(begin(history="other"))


def test_nothing_is_resumed_without_a_copy() -> None:
    with pytest.raises(InvalidInputError, match="no copy to resume from"):
        FollowerState("alpha").apply(Resumed(history=HISTORY, revision=1))


def test_a_list_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "INCOMING_BYTES_MAX", 1_000)
    state = FollowerState("alpha")
    state.apply(begin())
    with pytest.raises(InvalidInputError, match="more than 1000 bytes"):
        state.apply(SnapshotRows(rows=tuple(endpoint(f"e{number}") for number in range(10))))


def test_a_copy_is_up_to_date_when_the_controller_knows_nothing_newer() -> None:
    state = following(Heartbeat(revision=7, unix_ms=0, leader_contact_age_ms=3))
    assert not state.up_to_date
    state.apply(Delta(revision=7, changes=()))
    assert state.up_to_date
    assert state.leader_contact_age_ms == 3


def test_a_stored_copy_is_told_whole_and_resumed() -> None:
    image = following(local_list(A, endpoint("x"))).image(synced_unix_ms=1)
    state = FollowerState("alpha")
    update = state.restore(image)
    assert set(update.changes) == {A, B}
    assert set(update.own) == {A, endpoint("x")}
    assert state.request() == FollowRequest(history=HISTORY, revision=5)
    assert not state.local_served


@pytest.mark.parametrize(
    ("cluster_name", "history", "text"),
    [("beta", "", "made for cluster 'alpha'"), ("alpha", "other", "belongs to federation 'fed-1'")],
)
def test_a_stored_copy_of_somebody_else_is_refused(cluster_name: str, history: str, text: str) -> None:
    image = Image(
        history=HISTORY,
        cluster="alpha",
        tables=EMPTY_TABLES,
        own=Table().set(rows([A])),
        synced_unix_ms=0,
    )
    with pytest.raises(PreconditionError, match=text):
        FollowerState(cluster_name, history=history).restore(image)

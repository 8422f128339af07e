"""What followers are sent: everything once, in order, never more than they may have, never unbounded."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from federation.kernel.errors import (
    InvalidInputError,
    LimitExceededError,
    PreconditionError,
    UnavailableError,
)
from federation.kernel.places import STREAMS_EACH_MAX
from federation.replication import feed as feed_module
from federation.replication import wire
from federation.replication.feed import ANSWERS_QUEUED_MAX, Feed
from federation.replication.messages import (
    ROWS_PER_MESSAGE_MAX,
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
from federation.replication.state import FollowerState
from tests.unit.replication.catalog import HISTORY, SourceCatalog, cluster, endpoint, gone, rows, token

Answers = AsyncGenerator[FollowAnswer]


def feed_of(catalog: SourceCatalog) -> Feed:
    feed = Feed(catalog, unix_ms=lambda: 1_000, leader_contact_age_ms=lambda: 7)
    catalog.listeners.append(feed.changed)
    return feed


async def until(answers: Answers, state: FollowerState, done: Callable[[], bool]) -> list[FollowAnswer]:
    """Apply answers until `done`; return them."""
    seen: list[FollowAnswer] = []
    async with asyncio.timeout(30):
        while not done():
            seen.append(await anext(answers))
            state.apply(seen[-1])
    return seen


async def followed(feed: Feed) -> tuple[FollowerState, Answers]:
    """A follower that has everything, and what it is told from now on."""
    state = FollowerState("alpha")
    answers = feed.subscribe("alpha", state.request())
    await until(answers, state, lambda: state.complete)
    return state, answers


def of_kind(answers: list[FollowAnswer], *kinds: type) -> list[FollowAnswer]:
    return [answer for answer in answers if isinstance(answer, kinds)]


async def test_a_follower_without_a_copy_gets_a_snapshot_then_each_change() -> None:
    catalog = SourceCatalog()
    catalog.commit([cluster("alpha"), endpoint("a"), endpoint("b", owner="beta")])
    state, answers = await followed(feed_of(catalog))
    assert state.tables == catalog.tables
    catalog.commit([endpoint("c")])
    catalog.commit([gone(endpoint("a"))])
    seen = await until(answers, state, lambda: state.revision == catalog.tables.revision)
    assert [answer.revision for answer in seen if isinstance(answer, Delta)] == [3, 4]
    assert state.tables == catalog.tables
    await answers.aclose()


async def test_a_follower_that_comes_back_gets_only_what_it_missed() -> None:
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    first = catalog.commit([endpoint("a")])
    catalog.commit([endpoint("b")])
    answers = feed.subscribe("alpha", FollowRequest(history=HISTORY, revision=first))
    assert await anext(answers) == Resumed(history=HISTORY, revision=3)
    assert await anext(answers) == Delta(revision=3, changes=(endpoint("b"),))
    assert isinstance(await anext(answers), Heartbeat)
    await answers.aclose()
    assert feed.subscribers == 0


async def test_a_follower_whose_revision_was_compacted_lists_again() -> None:
    catalog = SourceCatalog()
    catalog.commit([endpoint("a")])
    catalog.compact()
    answers = feed_of(catalog).subscribe("alpha", FollowRequest(history=HISTORY, revision=1))
    assert await anext(answers) == SnapshotBegin(history=HISTORY, revision=2)
    await answers.aclose()


async def test_a_follower_that_is_ahead_waits_for_the_controller_and_gets_nothing_twice() -> None:
    catalog = SourceCatalog()
    answers = feed_of(catalog).subscribe("alpha", FollowRequest(history=HISTORY, revision=3))
    assert await anext(answers) == Resumed(history=HISTORY, revision=1)
    assert isinstance(await anext(answers), Heartbeat)
    for name in "abc":
        catalog.commit([endpoint(name)])
    assert await anext(answers) == Delta(revision=4, changes=(endpoint("c"),))
    await answers.aclose()


async def test_join_tokens_never_leave_the_controller() -> None:
    catalog = SourceCatalog()
    catalog.commit([cluster("alpha"), token("old")])
    feed = feed_of(catalog)
    fresh, resumed = FollowerState("alpha"), FollowRequest(history=HISTORY, revision=1)
    snapshot, history = feed.subscribe("alpha", fresh.request()), feed.subscribe("alpha", resumed)
    seen = await until(snapshot, fresh, lambda: fresh.complete)
    seen += [await anext(history) for _ in range(3)]
    catalog.commit([token("new"), endpoint("a")])
    catalog.commit([gone(token("old"))])
    seen += await until(snapshot, fresh, lambda: fresh.revision == catalog.tables.revision)
    assert of_kind(seen, Delta, SnapshotRows)
    for answer in seen:
        raw = wire.encode(answer)
        assert b"JoinToken" not in raw
        assert b"5ec7e7" not in raw
    assert seen[-1] == Delta(revision=4, changes=())  # The revision grows all the same.
    await snapshot.aclose()
    await history.aclose()


@pytest.mark.parametrize(
    ("key", "hidden"),
    [
        (token("t").key, True),
        (cluster("JoinToken").key, False),
        (b"", False),
        (b"\0", False),
        (b"alpha\0JoinToken\0shop\0x", True),
    ],
)
def test_only_rows_of_hidden_kinds_are_hidden(key: bytes, hidden: bool) -> None:
    assert wire.hidden("resources", key) is hidden
    assert not wire.hidden("endpoints", key)


async def test_a_follower_that_reads_too_slowly_catches_up_from_history_and_delays_nobody() -> None:
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    slow, fast = FollowerState("alpha"), FollowerState("alpha")
    slow_answers = feed.subscribe("alpha", slow.request())
    fast_answers = feed.subscribe("alpha", fast.request())
    await until(slow_answers, slow, lambda: slow.complete)
    for number in range(ANSWERS_QUEUED_MAX + 50):
        catalog.commit([endpoint(f"e{number}")])
        await until(fast_answers, fast, lambda: fast.revision == catalog.tables.revision)
    (subscriber,) = [one for one in feed._subscribers if one.lagging]
    assert not subscriber._queue
    seen = await until(slow_answers, slow, lambda: slow.revision == catalog.tables.revision)
    revisions = [answer.revision for answer in seen if isinstance(answer, Delta)]
    assert revisions == list(range(2, catalog.tables.revision + 1))
    assert slow.tables == catalog.tables
    assert not subscriber.lagging  # From here on it is served from its queue again.
    await slow_answers.aclose()
    await fast_answers.aclose()


async def test_a_slow_follower_whose_history_is_gone_gets_a_snapshot_within_its_stream() -> None:
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    state, answers = await followed(feed)
    for number in range(ANSWERS_QUEUED_MAX + 1):
        catalog.commit([endpoint(f"e{number}")])
    catalog.compact()
    seen = await until(answers, state, lambda: state.revision == catalog.tables.revision)
    assert len(of_kind(seen, SnapshotBegin)) == 1
    assert state.tables == catalog.tables
    await answers.aclose()


async def test_followers_catch_up_when_a_snapshot_replaces_the_catalog() -> None:
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    state, answers = await followed(feed)
    catalog.listeners.clear()  # As with a snapshot, nobody is told of the single changes.
    catalog.commit([endpoint("a")])
    catalog.compact()
    feed.reset()
    await until(answers, state, lambda: state.tables == catalog.tables)
    await answers.aclose()


async def test_changes_during_a_snapshot_come_after_it() -> None:
    catalog = SourceCatalog()
    for number in range(3):
        catalog.commit(
            endpoint(f"e{number}-{row}", service=f"s{number}") for row in range(ROWS_PER_MESSAGE_MAX)
        )
    state = FollowerState("alpha")
    answers = feed_of(catalog).subscribe("alpha", state.request())
    for answer in (await anext(answers), await anext(answers)):
        state.apply(answer)
    catalog.commit([endpoint("late"), gone(endpoint("e0-0", service="s0"))])
    seen = await until(answers, state, lambda: state.revision == catalog.tables.revision)
    kinds = [type(answer) for answer in seen if not isinstance(answer, Heartbeat)]
    assert kinds[-2:] == [SnapshotEnd, Delta]
    assert state.tables == catalog.tables
    await answers.aclose()


def test_messages_stay_within_their_bounds() -> None:
    big = [endpoint(f"e{number}") for number in range(ROWS_PER_MESSAGE_MAX * 2 + 1)]
    parts = list(wire.chunks(big))
    assert [len(part) for part in parts] == [ROWS_PER_MESSAGE_MAX, ROWS_PER_MESSAGE_MAX, 1]
    assert [change for part in parts for change in part] == big
    assert list(wire.chunks([])) == []


async def test_a_revision_too_large_for_a_message_goes_out_as_a_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "DELTA_BYTES_MAX", 1_000)
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    live, answers = await followed(feed)
    before = live.request()
    catalog.commit(endpoint(f"e{number}") for number in range(50))
    seen = await until(answers, live, lambda: live.tables == catalog.tables)
    assert not of_kind(seen, Delta)
    later = feed.subscribe("alpha", before)
    assert isinstance(await anext(later), SnapshotBegin)
    await answers.aclose()
    await later.aclose()


async def test_only_followers_of_a_served_cluster_get_its_local_list() -> None:
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    feed.serve_local("alpha", rows([endpoint("local")]))
    own, other = FollowerState("alpha"), FollowerState("beta")
    own_answers = feed.subscribe("alpha", own.request())
    other_answers = feed.subscribe("beta", other.request())
    await until(own_answers, own, lambda: own.complete)
    seen = await until(other_answers, other, lambda: other.complete)
    feed.local_changed("alpha", [endpoint("more"), gone(endpoint("local"))])
    catalog.commit([endpoint("marker", owner="beta")])
    await until(own_answers, own, lambda: own.revision == catalog.tables.revision)
    seen += await until(other_answers, other, lambda: other.revision == catalog.tables.revision)
    assert own.local_served
    assert [key for key, _ in own.own.items()] == [endpoint("more").key]
    assert not of_kind(seen, LocalRows)
    assert not other.local_served
    await own_answers.aclose()
    await other_answers.aclose()


async def test_a_list_that_begins_to_be_served_reaches_those_who_follow_already() -> None:
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    state, answers = await followed(feed)
    assert not state.local_served
    feed.serve_local("alpha", [])
    await until(answers, state, lambda: state.local_served)
    await answers.aclose()


async def test_who_followed_a_list_that_is_served_no_longer_goes_on_with_what_the_catalog_says() -> None:
    catalog = SourceCatalog()
    feed = feed_of(catalog)
    catalog.commit([endpoint("one")])
    feed.serve_local("alpha", rows([endpoint("one"), endpoint("local")]))
    state = FollowerState("alpha")
    answers = feed.subscribe("alpha", state.request())
    await until(answers, state, lambda: state.local_served)
    feed.leave_local("alpha")
    feed.leave_local("alpha")
    feed.local_changed("alpha", [endpoint("late")])
    await until(answers, state, lambda: not state.local_served)
    assert {key for key, _ in state.own.items()} == {endpoint("one").key, endpoint("local").key}
    catalog.commit([endpoint("two")])
    await until(answers, state, lambda: state.revision == catalog.tables.revision)
    assert endpoint("two").key in dict(state.own.items())
    await answers.aclose()


async def test_heartbeats_say_how_new_the_controllers_knowledge_is() -> None:
    catalog = SourceCatalog()
    answers = feed_of(catalog).subscribe("alpha", FollowRequest(history=HISTORY, revision=1))
    await anext(answers)
    heartbeat = Heartbeat(revision=1, unix_ms=1_000, leader_contact_age_ms=7)
    assert [await anext(answers), await anext(answers)] == [heartbeat, heartbeat]
    await answers.aclose()


@pytest.mark.parametrize(
    ("history", "request_", "error", "text"),
    [
        pytest.param("", FollowRequest(), UnavailableError, "no catalog yet", id="no-catalog"),
        pytest.param(
            HISTORY,
            FollowRequest(history="other", revision=5),
            PreconditionError,
            "federation 'other', this is 'fed-1'",
            id="another-federation",
        ),
        pytest.param(HISTORY, FollowRequest(protocol=0), PreconditionError, "protocol 0", id="old-protocol"),
        pytest.param(
            HISTORY,
            FollowRequest(history=HISTORY, revision=-1),
            InvalidInputError,
            "revision is -1",
            id="negative-revision",
        ),
    ],
)
async def test_a_follower_that_cannot_be_served_is_told_why(
    history: str, request_: FollowRequest, error: type[Exception], text: str
) -> None:
    feed = feed_of(SourceCatalog(history))
    with pytest.raises(error, match=text):
        await anext(feed.subscribe("alpha", request_))
    assert feed.subscribers == 0


async def test_the_number_of_followers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "SUBSCRIBERS_MAX", 1)
    feed = feed_of(SourceCatalog())
    first = feed.subscribe("alpha", FollowRequest())
    await anext(first)
    with pytest.raises(LimitExceededError, match="follow another controller"):
        await anext(feed.subscribe("alpha", FollowRequest()))
    await first.aclose()
    second = feed.subscribe("alpha", FollowRequest())
    await anext(second)
    await second.aclose()


async def test_one_process_does_not_take_the_places_of_all_others() -> None:
    feed = feed_of(SourceCatalog())
    flood = [feed.subscribe("beta", FollowRequest(), name="agent.a1") for _ in range(STREAMS_EACH_MAX)]
    for answers in flood:
        await anext(answers)
    with pytest.raises(LimitExceededError, match=r"agent\.a1 of cluster beta has 64 streams here"):
        await anext(feed.subscribe("beta", FollowRequest(), name="agent.a1"))
    other = feed.subscribe("alpha", FollowRequest(), name="agent.a1")
    await anext(other)
    for answers in (*flood, other):
        await answers.aclose()
    assert feed.subscribers == 0
    again = feed.subscribe("beta", FollowRequest(), name="agent.a1")
    await anext(again)
    await again.aclose()


async def test_a_follower_is_behind_from_the_first_change_that_it_did_not_take_until_it_took_all() -> None:
    catalog = SourceCatalog()
    catalog.commit([cluster("alpha"), endpoint("a")])
    now_ms = 1_000
    feed = Feed(catalog, unix_ms=lambda: now_ms)
    catalog.listeners.append(feed.changed)
    state = FollowerState("alpha")
    answers = feed.subscribe("alpha", state.request(), name="dns.d1")
    await until(answers, state, lambda: state.complete)
    seen = await anext(answers)
    assert isinstance(seen, Heartbeat)
    assert feed.names() == {("alpha", "dns.d1")}
    async with asyncio.TaskGroup() as tasks:
        taken = tasks.create_task(anext(answers))  # The follower waits for more.
        await asyncio.sleep(0)
        assert feed.behind() == []
        catalog.commit([endpoint("b")])
        now_ms = 3_000
        catalog.commit([endpoint("c")])
        assert [(one.name, one.behind_ms) for one in feed.behind()] == [("dns.d1", 2_000)]
    state.apply(taken.result())
    await until(answers, state, lambda: state.revision == catalog.tables.revision)
    await answers.aclose()
    assert feed.behind() == []

"""Whom a follower follows, when it turns to somebody else, and what it keeps on disk meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from federation.kernel.errors import IsthmusError, PreconditionError, UnavailableError
from federation.replication import disk_copy
from federation.replication import follower as follower_module
from federation.replication import keeper as keeper_module
from federation.replication.disk_copy import FILE_NAME, DiskCopy
from federation.replication.feed import Feed
from federation.replication.follower import Follower
from federation.replication.messages import FollowAnswer, FollowRequest, Resumed, SnapshotRows
from federation.replication.source import FeedSource, Source
from federation.replication.state import FollowerState, Update
from tests.support.wait import eventually_async
from tests.unit.replication.catalog import HISTORY, SourceCatalog, endpoint, rows

WAIT_S = 60.0


class Controller:
    """A source that can be switched off, fall silent, or say nonsense; it records what it was asked."""

    def __init__(self, name: str, catalog: SourceCatalog, *, local: Sequence[str] | None = None) -> None:
        self.name = name
        self.feed = Feed(catalog, unix_ms=lambda: 0)
        catalog.listeners.append(self.feed.changed)
        if local is not None:
            self.feed.serve_local("alpha", rows(endpoint(row) for row in local))
        self.requests: list[FollowRequest] = []
        self.error: IsthmusError | None = None
        self.silent = False
        self.sent: list[FollowAnswer] = []
        self.held: list[int] = []
        self.refuses_holds = False
        self.instead: list[FollowAnswer] = []

    async def hold(self, revision: int) -> None:
        self.held.append(revision)
        if self.refuses_holds:
            raise UnavailableError("an older build")

    async def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        for answer in self.instead:
            yield answer
        async with contextlib.aclosing(FeedSource(self.feed, "alpha").follow(request)) as answers:
            async for answer in answers:
                if self.silent:
                    await asyncio.Event().wait()
                if self.error is not None:
                    raise self.error
                self.sent.append(answer)
                yield answer


@contextlib.asynccontextmanager
async def running(
    sources: Callable[[], Sequence[Source]],
    *,
    copy: DiskCopy | None = None,
    history: str = "",
    unix_ms: Callable[[], int] = lambda: 50_000,
    clock: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[tuple[Follower, list[Update]]]:
    updates: list[Update] = []
    follower = Follower(
        FollowerState("alpha", history=history),
        sources=sources,
        on_change=updates.append,
        copy=copy,
        jitter=lambda: 0.0,
        unix_ms=unix_ms,
        clock=clock,
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follower.run())
        try:
            yield follower, updates
        finally:
            task.cancel()


async def happens(condition: Callable[[], bool], message: str) -> None:
    await eventually_async(condition, timeout_s=WAIT_S, message=message)


async def store(catalog: SourceCatalog, directory: Path, *, synced_unix_ms: int = 0) -> None:
    """Leave a copy of the catalog in `directory`, as a follower of earlier would have."""
    state = FollowerState("alpha")
    answers = Feed(catalog, unix_ms=lambda: 0).subscribe("alpha", state.request())
    while not state.complete:
        state.apply(await anext(answers))
    await answers.aclose()
    with contextlib.closing(DiskCopy.open(directory)) as copy:
        copy.rewrite(state.image(synced_unix_ms=synced_unix_ms))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the same waits shorter."""
    monkeypatch.setattr(follower_module, "PREFERRED_RETRY_S", 0.02)
    monkeypatch.setattr(follower_module, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(follower_module, "BACKOFF_MAX_S", 0.01)
    monkeypatch.setattr("federation.replication.feed.HEARTBEAT_S", 0.01)


def test_the_most_preferred_controller_is_followed() -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        first, second = Controller("first", catalog), Controller("second", catalog)
        async with running(lambda: [first, second]) as (follower, updates):
            await happens(lambda: follower.status.source == "first", "the first is followed")
            catalog.commit([endpoint("a")])
            await happens(lambda: follower.state.revision == 2, "the change arrives")
        assert [update.revision for update in updates] == [1, 2]
        assert not second.requests
        assert follower.status.source == ""

    asyncio.run(scenario())


@pytest.mark.parametrize("refuses", [False, True])
def test_a_follower_says_what_it_holds_and_follows_on_where_nobody_asks(
    refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "HOLD_INTERVAL_S", 0.0)

    async def scenario() -> None:
        catalog = SourceCatalog()
        first = Controller("first", catalog)
        first.refuses_holds = refuses
        async with running(lambda: [first]) as (follower, _):
            await happens(lambda: first.held == [1], "what it came with")
            catalog.commit([endpoint("a")])
            await happens(lambda: first.held == [1, 2], "the change")
            assert follower.status.source == "first"

    asyncio.run(scenario())


def test_who_waits_for_a_revision_leaves_the_loop_to_others_until_it_comes() -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        first = Controller("first", catalog)
        async with running(lambda: [first]) as (follower, _), asyncio.TaskGroup() as tasks:
            await happens(lambda: follower.state.revision == 1, "it follows")
            waiting = tasks.create_task(follower.reached(4))
            for revision in (2, 3):
                catalog.commit([endpoint("a", sequence=revision)])
                await happens(lambda at=revision: follower.state.revision == at, "an earlier one comes")  # type: ignore[misc]
                assert not waiting.done()
            catalog.commit([endpoint("a", sequence=4)])
            await waiting

    asyncio.run(scenario())


def test_a_follower_turns_to_the_next_controller_and_resumes_there() -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        first, second = Controller("first", catalog), Controller("second", catalog)
        async with running(lambda: [first, second]) as (follower, _):
            await happens(lambda: follower.status.source == "first", "the first is followed")
            first.error = UnavailableError("gone")
            await happens(lambda: follower.status.source == "second", "the second is followed")
            catalog.commit([endpoint("a")])
            await happens(lambda: follower.state.revision == 2, "the change arrives")
        assert second.requests[0] == FollowRequest(history=HISTORY, revision=1)
        assert isinstance(second.sent[0], Resumed)
        assert not any(isinstance(answer, SnapshotRows) for answer in second.sent)

    asyncio.run(scenario())


def test_a_follower_returns_to_a_preferred_controller() -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        own, stranger = Controller("own", catalog, local=["x"]), Controller("stranger", catalog)
        own.error = UnavailableError("down")
        async with running(lambda: [own, stranger]) as (follower, _):
            await happens(lambda: follower.status.source == "stranger", "the stranger is followed")
            assert follower.status.local is False
            own.error = None
            await happens(lambda: follower.status.local, "the own list is followed")
            assert follower.status.source == "own"
            assert follower.state.own.get(endpoint("x").key) is not None
            await happens(lambda: stranger.feed.subscribers == 0, "the stranger is left")

    asyncio.run(scenario())


def test_a_follower_goes_to_the_controllers_of_a_new_home_although_the_old_ones_answer() -> None:
    """What the old home's list had left out would be missing for good: no change of the log brings it back."""

    async def scenario() -> None:
        catalog = SourceCatalog()
        catalog.commit([endpoint("x"), endpoint("y")])
        old, new = Controller("old", catalog, local=["x"]), Controller("new", catalog, local=["x", "y"])
        order: list[Source] = [old, new]
        async with running(lambda: order) as (follower, _):
            await happens(lambda: follower.status.local, "the old home's list is followed")
            await happens(lambda: set(follower.state.own) == {endpoint("x").key}, "what it has is shown")
            old.feed.leave_local("alpha")
            order.reverse()
            await happens(lambda: follower.status.source == "new", "the new home is followed")
            await happens(lambda: len(follower.state.own) == 2, "its list is taken")
            await happens(lambda: old.feed.subscribers == 0, "the old home is left")

    asyncio.run(scenario())


@pytest.mark.parametrize("left", [["other"], ["other", "another"]])
def test_a_controller_that_is_no_longer_known_is_left_for_one_that_answers(left: list[str]) -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        known = {name: Controller(name, catalog) for name in ("gone", *left)}
        names = ["gone"]
        async with running(lambda: [known[name] for name in names]) as (follower, _):
            await happens(lambda: follower.status.source == "gone", "the only one is followed")
            names[:] = left
            await happens(lambda: follower.status.source == "other", "the first of those left is followed")

    asyncio.run(scenario())


def test_a_preferred_controller_of_another_federation_does_not_disturb() -> None:
    async def scenario() -> None:
        ours, theirs = Controller("ours", SourceCatalog()), Controller("theirs", SourceCatalog("fed-2"))
        # It does not look at what the follower asks for.
        theirs.instead = [Resumed(history="fed-2", revision=1)]
        async with running(lambda: [theirs, ours], history=HISTORY) as (follower, _):
            await happens(lambda: follower.status.source == "ours", "ours is followed")
            asked = len(theirs.requests)
            await happens(lambda: len(theirs.requests) >= asked + 3, "theirs is tried again and again")
            assert len(ours.requests) == 1

    asyncio.run(scenario())


def test_a_copy_is_as_old_as_what_its_controller_knows() -> None:
    async def scenario() -> None:
        source = Controller("own", SourceCatalog())
        source.feed = Feed(SourceCatalog(), unix_ms=lambda: 0, leader_contact_age_ms=lambda: 700)
        async with running(lambda: [source]) as (follower, _):
            await happens(lambda: follower.status.age_ms == 700, "the age is the controller's")

    asyncio.run(scenario())


def test_a_clock_that_is_set_back_makes_no_copy_younger(tmp_path: Path) -> None:
    async def scenario() -> None:
        now = {"unix_ms": 50_000_000, "s": 7.0}
        source = Controller("own", SourceCatalog())
        copy = DiskCopy.open(tmp_path)
        times = {"unix_ms": lambda: int(now["unix_ms"]), "clock": lambda: now["s"]}
        async with running(lambda: [source], copy=copy, **times) as (follower, _):  # type: ignore[arg-type]  # two times
            await happens(lambda: follower.status.age_ms == 0, "it is up to date")
            source.error = UnavailableError("gone")
            await happens(lambda: follower.status.source == "", "it follows nobody")
            now.update(unix_ms=50_000_000 - 3_600_000, s=67.0)
            assert follower.status.age_ms == 60_000
            now.update(unix_ms=50_000_000 + 3_600_000)  # Ahead: which of the two is right nobody knows.
            assert follower.status.age_ms == 3_600_000
        copy.close()
        copy = DiskCopy.open(tmp_path)
        async with running(list, copy=copy, **times) as (follower, _):  # type: ignore[arg-type]  # two times
            await happens(lambda: follower.status.age_ms == 3_600_000, "as old as its disk says")
            now.update(unix_ms=50_000_000, s=68.0)
            assert follower.status.age_ms == 3_601_000
        copy.close()

    asyncio.run(scenario())


def test_a_silent_controller_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "SILENCE_MAX_S", 0.1)

    async def scenario() -> None:
        catalog = SourceCatalog()
        first, second = Controller("first", catalog), Controller("second", catalog)
        async with running(lambda: [first, second]) as (follower, _):
            await happens(lambda: follower.status.source == "first", "the first is followed")
            first.silent = True
            await happens(lambda: follower.status.source == "second", "the second is followed")
            assert follower.status.last_error == "first said nothing for 0.1 s"

    asyncio.run(scenario())


def test_a_controller_that_breaks_the_protocol_is_left() -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        liar, honest = Controller("liar", catalog), Controller("honest", catalog)
        liar.instead = [SnapshotRows(rows=(endpoint("fake"),))]
        async with running(lambda: [liar, honest]) as (follower, _):
            await happens(lambda: follower.status.source == "honest", "the honest one is followed")
        assert follower.state.tables == catalog.tables

    asyncio.run(scenario())


def test_another_federation_is_refused_and_never_replaces_the_copy(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = SourceCatalog(), SourceCatalog("fed-2")
        theirs.commit([endpoint("fake")])
        copy = DiskCopy.open(tmp_path)
        known, stranger = Controller("known", ours), Controller("stranger", theirs)
        async with running(lambda: [known, stranger], copy=copy) as (follower, updates):
            await happens(lambda: follower.status.source == "known", "ours is followed")
            await happens((tmp_path / FILE_NAME).exists, "the copy is written")
            known.error = UnavailableError("down")
            await happens(lambda: "fed-2" in follower.status.last_error, "theirs is refused")
            assert follower.status.source != "stranger"
        assert len(updates) == 1
        copy.close()
        copy = DiskCopy.open(tmp_path)
        image = copy.load()
        assert image is not None
        assert (image.history, image.tables) == (HISTORY, ours.tables)
        copy.close()

    asyncio.run(scenario())


def test_a_follower_starts_from_disk_without_any_controller_and_says_how_old_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        catalog.commit([endpoint("a")])
        await store(catalog, tmp_path, synced_unix_ms=20_000)
        copy = DiskCopy.open(tmp_path)
        async with running(list, copy=copy) as (follower, updates):
            async with asyncio.timeout(WAIT_S):
                await follower.ready.wait()
            assert follower.state.tables == catalog.tables
            assert follower.status.age_ms == 30_000
            await happens(lambda: follower.status.last_error == "no controller is known", "it says why")
        assert len(updates) == 1
        copy.close()

    asyncio.run(scenario())


def test_the_copy_of_another_federation_on_disk_ends_the_process_untouched(tmp_path: Path) -> None:
    async def scenario() -> None:
        await store(SourceCatalog("fed-2"), tmp_path)
        before = (tmp_path / FILE_NAME).read_bytes()
        copy = DiskCopy.open(tmp_path)
        follower = Follower(
            FollowerState("alpha", history=HISTORY), sources=list, on_change=lambda _: None, copy=copy
        )
        with pytest.raises(PreconditionError, match="belongs to federation 'fed-2'"):
            await follower.run()
        assert (tmp_path / FILE_NAME).read_bytes() == before
        copy.close()

    asyncio.run(scenario())


def test_what_was_followed_is_on_disk_for_the_next_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog = SourceCatalog()
        source = Controller("own", catalog, local=["x"])
        copy = DiskCopy.open(tmp_path)

        def stored(revision: int) -> bool:
            path = tmp_path / FILE_NAME
            if not path.exists():
                return False
            image, _, _ = disk_copy._read(memoryview(path.read_bytes()))
            return image.tables.revision == revision and len(image.own) == 2

        async with running(lambda: [source], copy=copy) as (follower, _):
            await happens(lambda: follower.status.local, "the own list is followed")
            catalog.commit([endpoint("a")])
            source.feed.local_changed("alpha", [endpoint("y")])
            await happens(lambda: stored(2), "the change is on disk")
        copy.close()
        async with running(list, copy=DiskCopy.open(tmp_path)) as (restarted, _):
            async with asyncio.timeout(WAIT_S):
                await restarted.ready.wait()
            assert (restarted.state.tables, restarted.state.own) == (
                follower.state.tables,
                follower.state.own,
            )

    asyncio.run(scenario())


def test_a_full_disk_does_not_stop_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "RETRY_S", 0.01)

    class FullDisk(DiskCopy):
        full = True

        def rewrite(self, image: object) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().rewrite(image)  # type: ignore[arg-type]

    async def scenario() -> None:
        catalog = SourceCatalog()
        source = Controller("own", catalog)
        copy = FullDisk.open(tmp_path)
        assert isinstance(copy, FullDisk)
        async with running(lambda: [source], copy=copy) as (follower, _):
            await happens(lambda: follower.state.complete, "the catalog is followed")
            catalog.commit([endpoint("a")])
            await happens(lambda: follower.state.revision == 2, "it goes on being followed")
            assert not (tmp_path / FILE_NAME).exists()
            copy.full = False
            catalog.commit([endpoint("b")])
            await happens((tmp_path / FILE_NAME).exists, "the copy is written when there is room")
        copy.close()

    asyncio.run(scenario())


def test_waiting_between_rounds_grows_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "BACKOFF_FIRST_S", 0.1)
    monkeypatch.setattr(follower_module, "BACKOFF_MAX_S", 5.0)

    def waits(jitter: float) -> list[float]:
        follower = Follower(
            FollowerState("alpha"), sources=list, on_change=lambda _: None, jitter=lambda: jitter
        )
        return [follower._backoff_s(failures) for failures in (0, 1, 2, 3, 6, 7, 1_000)]

    assert waits(1.0) == pytest.approx([0, 0.1, 0.2, 0.4, 3.2, 5.0, 5.0])
    assert waits(0.0) == pytest.approx([0, 0.05, 0.1, 0.2, 1.6, 2.5, 2.5])

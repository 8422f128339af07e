"""Whatever happens between a follower and its controllers, it ends up with what they have."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from discovery.core.model import Change
from discovery.core.tables import EMPTY_TABLES, Table
from federation.kernel.errors import InvalidInputError
from federation.replication import disk_copy, wire
from federation.replication import feed as feed_module
from federation.replication.disk_copy import DiskCopy
from federation.replication.feed import Feed
from federation.replication.messages import Delta, FollowAnswer, Heartbeat, LocalRows, SnapshotBegin
from federation.replication.state import FollowerState
from tests.unit.replication.catalog import SourceCatalog, cluster, endpoint, export, gone, token

OWN, FOREIGN = "alpha", "beta"

global_rows = st.one_of(
    st.builds(
        endpoint, st.sampled_from("abc"), owner=st.sampled_from([OWN, FOREIGN]), sequence=st.integers(1, 4)
    ),
    st.builds(cluster, st.sampled_from([OWN, FOREIGN])),
    st.builds(export, st.just(FOREIGN), st.sampled_from(["orders", "*"])),
    st.builds(token, st.sampled_from("xy")),
)
local_rows = st.builds(endpoint, st.sampled_from("abcd"), sequence=st.integers(1, 4))


def maybe_gone(rows: st.SearchStrategy[Change]) -> st.SearchStrategy[Change]:
    return st.builds(lambda change, keep: change if keep else gone(change), rows, st.booleans())


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(maybe_gone(global_rows), max_size=3)),
        st.tuples(st.just("local"), st.lists(maybe_gone(local_rows), min_size=1, max_size=3)),
        st.tuples(st.just("read"), st.integers(1, 12)),
        st.tuples(st.just("repeat"), st.just(0)),
        st.tuples(st.just("cut"), st.just(0)),
        st.tuples(st.just("compact"), st.just(0)),
        st.tuples(st.just("elsewhere"), st.booleans()),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=25,
)


class Scenario:
    """One follower with a disk copy; one catalog; the feeds of the controllers that serve it."""

    def __init__(self, directory: Path) -> None:
        self.catalog = SourceCatalog()
        self.local = Table()
        self.directory = directory
        self.copy = DiskCopy.open(directory)
        self.state = FollowerState(OWN)
        self.last_delta: Delta | None = None
        self.feed = self.controller(serves=True)
        self.answers = self.open()

    def controller(self, *, serves: bool) -> Feed:
        feed = Feed(self.catalog, unix_ms=lambda: 0)
        self.catalog.listeners[:] = [feed.changed]
        self.serves = serves
        if serves:
            feed.serve_local(OWN, self.local.items())
        return feed

    def open(self) -> AsyncGenerator[FollowAnswer]:
        return self.feed.subscribe(OWN, self.state.request())

    async def read(self) -> FollowAnswer:
        # Across the codec, as between processes.
        answer = wire.decode_answer(wire.encode(await anext(self.answers)))
        self.take(answer)
        return answer

    def take(self, answer: FollowAnswer) -> None:
        old, own = self.state.tables, self.state.own
        was_complete = self.state.complete
        update = self.state.apply(answer)
        if isinstance(answer, Delta):
            self.last_delta = answer
        if not self.state.complete:
            return
        # Whoever goes on by updates alone arrives at the same tables.
        assert old.with_changes(update.changes, update.revision) == self.state.tables
        if was_complete:
            assert own.set((change.key, change.value) for change in update.own) == self.state.own
        if self.copy.wants_rewrite:
            self.copy.rewrite(self.state.image(synced_unix_ms=1))
        else:
            self.copy.append([update], synced_unix_ms=1)

    async def cut(self) -> None:
        await self.answers.aclose()
        self.state.disconnected()

    async def step(self, name: str, argument: object) -> None:
        match name, argument:
            case "commit", list(changes):
                self.catalog.commit(changes)
            case "local", list(changes):
                rows = [(change.key, change.value) for change in changes]
                self.local = self.local.set(rows)
                if self.serves:
                    self.feed.local_changed(OWN, changes)
            case "read", int(count):
                for _ in range(count):
                    await self.read()
            case "repeat", _:
                # Never in the middle of a list: no controller does that, it is refused elsewhere.
                if self.last_delta is not None and self.state.complete and self.state.up_to_date:
                    self.take(self.last_delta)
            case "cut", _:
                await self.cut()
                self.answers = self.open()
            case "compact", _:
                self.catalog.compact()
            case "elsewhere", bool(serves):
                await self.cut()
                self.feed = self.controller(serves=serves)
                self.answers = self.open()
            case "restart", _:
                await self.cut()
                await self.restart()
                self.answers = self.open()

    async def restart(self) -> None:
        """The follower dies and comes back from its disk."""
        self.copy.close()
        before = self.state
        self.copy = DiskCopy.open(self.directory)
        self.state = FollowerState(OWN)
        image = self.copy.load()
        assert (image is not None) == before.complete
        if image is not None:
            self.state.restore(image)
            assert (self.state.tables, self.state.own) == (before.tables, before.own)

    async def settle(self) -> None:
        quiet = 0
        while quiet < 3:
            quiet = quiet + 1 if isinstance(await self.read(), Heartbeat) else 0


# A row that one revision, or one message, sets and removes came to stay with a follower that had never had it.
@example(steps=[("read", 1), ("commit", [export(FOREIGN, "orders"), gone(export(FOREIGN, "orders"))])])
@example(steps=[("read", 12), ("local", [endpoint("a"), gone(endpoint("a"))])])
@settings(max_examples=150)
@given(steps=steps)
def test_a_follower_ends_up_with_what_the_controllers_have(steps: list[tuple[str, object]]) -> None:
    async def scenario(directory: Path) -> None:
        world = Scenario(directory)
        try:
            for name, argument in steps:
                await world.step(name, argument)
            await world.settle()
            visible = [
                Change(table, key, value)
                for table, rows in (
                    ("resources", world.catalog.tables.resources),
                    ("endpoints", world.catalog.tables.endpoints),
                )
                for key, value in rows.items()
                if not wire.hidden(table, key)
            ]
            assert world.state.tables == EMPTY_TABLES.with_changes(visible, world.catalog.tables.revision)
            if world.serves:
                assert world.state.own == world.local
        finally:
            await world.answers.aclose()
            world.copy.close()

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(feed_module, "HEARTBEAT_S", 0.0)  # A reader never waits.
        patch.setattr(feed_module, "ANSWERS_QUEUED_MAX", 3)
        patch.setattr(wire, "ROWS_PER_MESSAGE_MAX", 2)
        patch.setattr(disk_copy, "CHANGES_BYTES_MIN", 100)
        asyncio.run(scenario(Path(directory)))


@given(data=st.binary(max_size=200))
def test_bytes_of_a_stranger_are_read_or_refused(data: bytes) -> None:
    for decode in (wire.decode_request, wire.decode_answer):
        with contextlib.suppress(InvalidInputError):  # Any other error fails the test.
            assert wire.encode(decode(data))


answers = st.one_of(
    st.builds(SnapshotBegin, history=st.text(max_size=5), revision=st.integers(0, 2**63 - 1)),
    st.builds(LocalRows, changes=st.lists(local_rows, max_size=3).map(tuple), first=st.booleans()),
    st.builds(
        Delta, revision=st.integers(0, 2**63 - 1), changes=st.lists(global_rows, max_size=3).map(tuple)
    ),
)


@given(answer=answers)
def test_an_answer_survives_the_wire(answer: FollowAnswer) -> None:
    assert wire.decode_answer(wire.encode(answer)) == answer

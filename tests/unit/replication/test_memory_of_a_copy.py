"""What an endpoint takes in a follower: within the budget, counted in bytes that Python allocated, not in pages."""

import asyncio
import gc
import tracemalloc

from bench.catalog_growth import Filled
from federation.replication.feed import Feed
from federation.replication.followed_view import FollowedView
from federation.replication.messages import FollowRequest, SnapshotEnd
from federation.replication.state import FollowerState
from federation.replication.wire import decode_answer, encode

BUDGET_BYTES = 307  # 0.3 KiB.
CLUSTERS = 10
SMALL, LARGE = 2_500, 5_000


def snapshot_of(filled: Filled) -> list[bytes]:
    """Return the messages by which a follower gets the whole catalog."""

    async def collected() -> list[bytes]:
        messages = []
        feed = Feed(filled.catalog, unix_ms=lambda: 0)
        answers = feed.subscribe(filled.names[0], FollowRequest())
        async for answer in answers:
            messages.append(encode(answer))
            if isinstance(answer, SnapshotEnd):
                break
        await answers.aclose()
        return messages

    return asyncio.run(collected())


def held_bytes(endpoints: int) -> int:
    """Return what a follower's copy and view of so many endpoints hold."""
    filled = Filled(CLUSTERS)
    filled.fill(endpoints)
    messages = snapshot_of(filled)
    state = FollowerState(filled.names[0])
    view = FollowedView(state)
    gc.collect()
    tracemalloc.start()
    try:
        for message in messages:
            update = state.apply(decode_answer(message))
        assert len(view.take(update)) == endpoints // 10
        gc.collect()
        # With the last update, which a follower holds while it computes the view.
        assert len(update.changes) > endpoints
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_an_endpoint_more_takes_no_more_than_the_budget_in_a_copy_with_its_view() -> None:
    """What a view remembers decoded is the same for both sizes, and falls out."""
    assert 0 < held_bytes(LARGE) - held_bytes(SMALL) <= BUDGET_BYTES * (LARGE - SMALL)

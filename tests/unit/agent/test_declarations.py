"""What an agent says to one controller, in which order, and what counts as safe."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.core.model import Endpoint, EndpointKey
from federation.agent import declarations as said
from federation.agent.declarations import Cursor, Declarations
from federation.api.messages import Declare


def key(name: str) -> EndpointKey:
    return EndpointKey("shop", "orders", "alpha", name)


def begun(*names: str, ready: bool = False) -> Declarations:
    return said.begin(
        7, [Endpoint(key=key(name), address="10.0.0.1", ports=(), identity="", ready=ready) for name in names]
    )


def told(declared: Declarations, cursor: Cursor) -> tuple[Declare, Cursor]:
    step = said.next_message(declared, cursor)
    assert step is not None
    return step


def test_a_stream_begins_with_the_whole_list_and_then_says_nothing_twice() -> None:
    declared = begun("b", "a")
    message, cursor = told(declared, Cursor())
    assert [row.key.name for row in message.put] == ["a", "b"]
    assert (message.number, message.complete) == (1, True)
    assert said.next_message(declared, cursor) is None


def test_an_agent_without_workloads_declares_that_its_list_is_complete() -> None:
    message, cursor = told(begun(), Cursor())
    assert (message.put, message.remove, message.complete) == ((), (), True)
    assert said.next_message(begun(), cursor) is None


def test_versions_grow_with_every_change_and_only_for_what_changed() -> None:
    before = begun("a", "b")
    after = said.with_ready(before, {key("a"): True, key("b"): False, key("unknown"): True})
    assert after.rows[key("b")] == before.rows[key("b")]
    assert after.rows[key("a")].version > max(row.version for row in before.rows.values())
    assert said.with_ready(after, {key("a"): True}) == after


def test_a_long_list_is_complete_only_in_its_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(said, "ENDPOINTS_PER_MESSAGE_MAX", 2)
    declared, cursor = begun("a", "b", "c", "d", "e"), Cursor()
    messages = []
    while (step := said.next_message(declared, cursor)) is not None:
        message, cursor = step
        messages.append(message)
    assert [len(message.put) for message in messages] == [2, 2, 1]
    assert [message.complete for message in messages] == [False, False, True]


def test_a_removal_names_a_version_newer_than_the_row() -> None:
    declared = begun("a")
    message, cursor = told(declared, Cursor())
    gone = said.without_rows(declared)
    removal, cursor = told(gone, cursor)
    assert removal.put == ()
    ((removed, incarnation, sequence),) = removal.remove
    assert removed == key("a")
    assert (incarnation, sequence) > message.put[0].version
    assert said.next_message(gone, cursor) is None


def test_a_stream_that_never_heard_of_a_row_is_not_told_of_its_end() -> None:
    message, _ = told(said.without_rows(begun("a")), Cursor())
    assert (message.put, message.remove, message.complete) == ((), (), True)


def test_an_endpoint_is_as_safe_as_the_best_acknowledgement_of_its_newest_version() -> None:
    declared = begun("a")
    _, first = told(declared, Cursor())
    _, second = told(declared, Cursor())
    assert said.level_of(key("a"), declared, [first, second]) == "declared"
    first = said.acknowledged(first, 1, "local", 0)
    assert said.level_of(key("a"), declared, [first, second]) == "local"
    second = said.acknowledged(second, 1, "global", 42)
    assert said.level_of(key("a"), declared, [first, second]) == "global"
    assert second.revision == 42
    changed = said.with_ready(declared, {key("a"): True})
    assert said.level_of(key("a"), changed, [first, second]) == "declared"


def test_an_acknowledgement_of_a_message_that_was_never_sent_counts_up_to_the_last_one() -> None:
    _, cursor = told(begun("a"), Cursor())
    assert said.acknowledged(cursor, 99, "global", 1).global_number == 1


def test_a_refused_endpoint_is_not_held_and_is_repeated_only_when_asked_to() -> None:
    declared = begun("a", "b")
    _, cursor = told(declared, Cursor())
    cursor = said.acknowledged(said.refused(cursor, key("a"), 1), 1, "global", 5)
    assert said.level_of(key("a"), declared, [cursor]) == "declared"
    assert said.level_of(key("b"), declared, [cursor]) == "global"
    assert said.next_message(declared, cursor) is None
    message, cursor = told(declared, said.retry_refused(cursor))
    assert [row.key.name for row in message.put] == ["a"]
    assert said.level_of(key("a"), declared, [said.acknowledged(cursor, 2, "global", 6)]) == "global"


def test_what_may_not_be_published_is_local_until_an_acknowledgement_says_otherwise() -> None:
    declared = begun("a", "b")
    _, cursor = told(declared, Cursor())
    cursor = said.acknowledged(cursor, 1, "local", 0)
    cursor = said.acknowledged(
        cursor, 1, "global", 5, [(key("a"), "outside the ranges"), (key("never-sent"), "x")]
    )
    assert [said.level_of(key(name), declared, [cursor]) for name in "ab"] == ["local", "global"]
    assert cursor.unpublished == {key("a"): "outside the ranges"}
    # Nothing has to be repeated: the controller holds it.
    assert said.next_message(declared, said.retry_refused(cursor)) is None
    assert said.acknowledged(cursor, 1, "local", 0).unpublished == cursor.unpublished
    assert said.level_of(key("a"), declared, [said.acknowledged(cursor, 1, "global", 6)]) == "global"


def test_a_late_refusal_of_an_older_version_changes_nothing() -> None:
    declared = begun("a")
    _, cursor = told(declared, Cursor())
    _, cursor = told(said.with_ready(declared, {key("a"): True}), cursor)
    assert said.refused(cursor, key("a"), 1) == cursor


@given(st.integers(), st.integers(min_value=0, max_value=12))
def test_whatever_is_lost_between_the_controller_ends_with_the_agents_rows(seed: int, changes: int) -> None:
    """A controller that keeps the newest version, over streams that break at any message."""
    choice = random.Random(seed)
    declared, cursor = begun("a", "b", "c"), Cursor()
    rows: dict[EndpointKey, Endpoint] = {}

    def deliver(message: Declare) -> None:
        for row in message.put:
            if row.key not in rows or rows[row.key].version < row.version:
                rows[row.key] = row
        for removed, incarnation, sequence in message.remove:
            if removed in rows and rows[removed].version < (incarnation, sequence):
                del rows[removed]
        if message.complete:
            for extra in rows.keys() - declared.rows.keys():
                del rows[extra]

    for _ in range(changes):
        declared = said.with_ready(declared, {key(choice.choice("abc")): choice.random() < 0.5})
        if choice.random() < 0.1:
            declared = said.without_rows(declared)
        if choice.random() < 0.3:
            cursor = Cursor()  # The stream broke; what was in flight is lost.
        step = said.next_message(declared, cursor)
        if step is not None:
            message, cursor = step
            if choice.random() < 0.7:
                deliver(message)
            else:
                cursor = Cursor()
    while (step := said.next_message(declared, cursor)) is not None:
        message, cursor = step
        deliver(message)
    assert rows == dict(declared.rows)
    assert msgspec.structs.replace(cursor, local_number=cursor.number).listed

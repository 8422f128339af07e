"""The state as a whole: total, equal on all members, whole in a snapshot, resumable by watches."""

import msgspec
import pytest

from discovery.core import catalog as catalog_module
from discovery.core import snapshots
from discovery.core.catalog import Catalog
from discovery.core.commands import AcquireLease, Command, Tick, Write, encode_command
from discovery.core.history import Cause, History
from discovery.core.model import Change
from discovery.core.snapshots import SNAPSHOT_CHUNK_BYTES_MAX
from federation.kernel.errors import Code, CompactedError, CorruptError, PreconditionError
from federation.kernel.limits import COMMAND_BYTES_MAX
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    key,
    put,
    put_cluster,
    put_controller,
    put_export,
)

NEXT_LEASE = AcquireLease(name="publish/alpha", holder="a", ttl_ms=1_000)
TICK = Command(request_id="r", proposer="alpha", body=Tick(now_ms=1))


def grown() -> Log:
    log = founded()
    log.lease("zeta", "somebody")
    for number in range(40):
        log.accept("beta", put_export("beta", f"ns-{number}", "*"))
    for batch in range(30):
        rows = [endpoint("beta", f"e-{batch}-{row}", service=f"s{row}") for row in range(100)]
        assert log.publish("beta", *rows).code == 0
    return log


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", Code.INVALID_ARGUMENT, id="empty"),
        pytest.param(b"\xc1", Code.INVALID_ARGUMENT, id="no-message-pack"),
        pytest.param(msgspec.msgpack.encode({"schema": 1}), Code.INVALID_ARGUMENT, id="fields-missing"),
        pytest.param(b"\x91" * 40_000, Code.INVALID_ARGUMENT, id="nested"),
        pytest.param(b"\x81\xa1x" + b"\x91" * 40_000, Code.INVALID_ARGUMENT, id="nested-in-an-unknown-field"),
        pytest.param(b"x" * (COMMAND_BYTES_MAX + 1), Code.RESOURCE_EXHAUSTED, id="too-long"),
        pytest.param(msgspec.msgpack.encode({"schema": 3, "body": {"type": "unheard-of"}}), Code.FAILED_PRECONDITION, id="newer-schema"),
        pytest.param(msgspec.msgpack.encode({"schema": 0}), Code.FAILED_PRECONDITION, id="schema-0"),
        pytest.param(encode_command(msgspec.structs.replace(TICK, request_id="")), Code.INVALID_ARGUMENT, id="no-request-id"),
        pytest.param(encode_command(msgspec.structs.replace(TICK, request_id="x" * 129)), Code.INVALID_ARGUMENT, id="long-request-id"),
        pytest.param(encode_command(msgspec.structs.replace(TICK, proposer="a/b")), Code.INVALID_ARGUMENT, id="no-cluster"),
        pytest.param(encode_command(msgspec.structs.replace(TICK, proposer="")), Code.INVALID_ARGUMENT, id="no-proposer"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_command_have_an_outcome_and_change_nothing(data, code):
    log = founded()
    before = log.catalog.digest()
    outcome = log.entry(data)
    assert outcome.code == code, outcome.message
    assert log.catalog.digest() == before


def test_a_command_of_a_newer_schema_is_refused_in_words_that_older_members_share():
    outcome = founded().entry(msgspec.msgpack.encode({"schema": 3}))
    assert outcome.message == "command has schema 3, expected 1 to 2, which every controller can apply"


def test_while_a_controller_of_the_older_build_lives_its_schema_is_the_newest():
    log = founded()
    old = put_controller("beta-1", "beta", protocol=1)
    log.accept("beta", old)
    assert log.tick(200).message == "command has schema 2, expected 1 to 1, which every controller can apply"
    tick = Command(request_id="t", proposer="alpha", body=Tick(now_ms=200), schema=1)
    assert log.entry(encode_command(tick)).code == 0
    assert log.catalog.now_ms == 200


def test_a_mistake_of_ours_is_an_outcome_and_not_the_end_of_every_member(monkeypatch):
    def broken(*_arguments: object) -> None:
        raise KeyError("oops")

    log = founded()
    before = log.catalog.tables
    monkeypatch.setattr("discovery.core.catalog.write", broken)
    outcome = log.write("alpha", put_cluster("gamma"))
    assert (outcome.code, outcome.message) == (Code.INTERNAL, "defect in the catalog: KeyError")
    assert log.catalog.tables is before


def test_requests_are_forgotten_oldest_first_and_remembered_across_a_snapshot(monkeypatch):
    monkeypatch.setattr("discovery.core.catalog.REQUESTS_KEPT_MAX", 3)
    log = founded()
    answers = [log.send("beta", create(number), request=f"r-{number}") for number in range(4)]
    restored = Catalog()
    restored.restore(log.catalog.snapshot())
    for catalog in (log.catalog, restored):
        again = Log(catalog, index=log.index)
        assert [again.send("beta", create(number), request=f"r-{number}") for number in (1, 2, 3)] == answers[
            1:
        ]
        assert again.send("beta", create(0), request="r-0").code == Code.ALREADY_EXISTS


def create(number: int) -> Write:
    return create_for("beta", f"ns-{number}")


def create_for(cluster: str, namespace: str = "shop") -> Write:
    """Answered otherwise when it is applied again."""
    target = key("ExportPolicy", "export", scope=cluster, namespace=namespace)
    return Write(operations=(put(target, {"services": ["*"]}, expected_revision=0),))


def test_equal_logs_give_equal_states_and_a_snapshot_carries_all_of_it():
    log = grown()
    replayed = Catalog()
    for index, data in log.entries:
        replayed.apply(index, data)
    restored = Catalog()
    restored.restore(log.catalog.snapshot())
    assert log.catalog.digest() == replayed.digest() == restored.digest()
    for catalog in (replayed, restored):
        granted = Log(catalog, index=log.index).send("alpha", NEXT_LEASE, request="next").lease
        assert granted is not None
        assert granted.fence == 3  # After zeta and publish/beta.
        assert catalog.tables == log.catalog.tables
        assert catalog.revision == log.catalog.revision
        assert catalog.now_ms == log.catalog.now_ms
        assert catalog.lease("publish/beta") == log.catalog.lease("publish/beta")


def test_members_go_on_alike_after_one_restored_a_snapshot():
    log = grown()
    restored = Catalog()
    restored.restore(log.catalog.snapshot())
    follower = Log(restored, index=log.index)
    log.entries.clear()
    assert log.publish("beta", endpoint("beta", "later")).code == 0
    assert log.publish("alpha", endpoint("alpha")).code == 0
    for _, data in log.entries:
        follower.entry(data)
    assert follower.catalog.digest() == log.catalog.digest()


def test_a_snapshot_is_of_the_moment_it_was_asked_for_and_comes_in_bounded_chunks():
    log = grown()
    digest = log.catalog.digest()
    chunks = []
    for chunk in log.catalog.snapshot():
        chunks.append(chunk)
        log.tick(log.catalog.now_ms + 10_000)
        log.publish("beta", endpoint("beta", f"during-{len(chunks)}"))
        log.lease("publish/alpha", f"holder-{len(chunks)}")
    assert len(chunks) > 3
    assert max(map(len, chunks)) <= SNAPSHOT_CHUNK_BYTES_MAX
    restored = Catalog()
    restored.restore(chunks)
    assert restored.digest() == digest != log.catalog.digest()


@pytest.mark.parametrize("size", [1, 7, 1_000, 10_000_000])
def test_a_snapshot_may_be_cut_anywhere(size):
    log = founded()
    whole = b"".join(log.catalog.snapshot())
    restored = Catalog()
    restored.restore(whole[at : at + size] for at in range(0, len(whole), size))
    assert restored.digest() == log.catalog.digest()


def test_a_damaged_snapshot_is_refused_and_leaves_the_state_as_it_was():
    chunks = list(founded().catalog.snapshot())
    whole = b"".join(chunks)
    catalog = grown().catalog
    before = catalog.digest()
    damaged = [whole[:at] for at in range(0, len(whole), 13)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :] for at in range(0, len(whole), 5)]
    damaged += [whole + b"x", whole + whole, whole + chunks[-1], b"".join(chunks[1:])]
    for data in damaged:
        with pytest.raises(CorruptError):
            catalog.restore([data])
    assert catalog.digest() == before


def test_a_snapshot_of_a_newer_build_is_refused_as_such(monkeypatch):
    monkeypatch.setattr(snapshots, "SNAPSHOT_FORMAT", snapshots.SNAPSHOT_FORMAT + 1)
    newer = list(founded().catalog.snapshot())
    monkeypatch.undo()
    with pytest.raises(
        PreconditionError, match="snapshot has format 3, this build reads 2: start the newer build"
    ):
        Catalog().restore(newer)


def test_a_snapshot_holds_leases_and_requests_of_any_number(monkeypatch):
    monkeypatch.setattr(snapshots, "_RECORD_BYTES", 4 * 1_024)
    monkeypatch.setattr(catalog_module, "LEASES_PER_CLUSTER_MAX", 1_000)
    log = founded()
    for number in range(300):
        assert log.lease(f"duty-{number}", "holder" * 40).code == 0
    restored = Catalog()
    restored.restore(log.catalog.snapshot())
    assert restored.digest() == log.catalog.digest()


def test_changes_are_told_once_in_order_and_a_restore_is_told_as_a_reset():
    log = founded()
    told: list[tuple[int, tuple[Change, ...]]] = []
    resets: list[int] = []
    log.catalog.on_change(lambda revision, changes: told.append((revision, changes)))
    log.catalog.on_reset(resets.append)
    start = log.catalog.revision
    log.accept("alpha", put_export("alpha", "shop", "*"))
    log.tick(5_000)
    log.write("alpha", put_export("beta", "shop", "*"))
    log.accept("alpha", put_export("alpha", "pay", "*"))
    assert told == log.catalog.history(start)
    assert [revision for revision, _ in told] == [5, 8]
    log.catalog.restore(log.catalog.snapshot())
    assert resets == [8]
    assert len(told) == 2


def test_a_callback_that_fails_changes_no_answer():
    def broken(*_arguments: object) -> None:
        raise RuntimeError("the loop is closed")

    log = founded()
    log.catalog.on_change(broken)
    with pytest.raises(RuntimeError, match="the loop is closed"):
        log.send("alpha", create_for("alpha"), request="r")
    assert log.send("alpha", create_for("alpha"), request="r").code == 0


def test_a_callback_finds_the_new_tables_and_the_change_in_the_history():
    log = founded()
    seen = []
    log.catalog.on_change(
        lambda revision, changes: seen.append((log.catalog.revision, log.catalog.history(revision - 1)))
    )
    outcome = log.accept("alpha", put_export("alpha", "shop", "*"))
    ((revision, entries),) = seen
    assert revision == outcome.revision == entries[0][0]


def test_a_revision_larger_than_the_history_is_told_to_callbacks_and_compacts_it(monkeypatch):
    monkeypatch.setattr("discovery.core.history.EVENTS_KEPT_MAX", 3)
    monkeypatch.setattr("discovery.core.history.EVENTS_KEPT_AFTER_TRIM", 2)
    log = founded()
    told = []
    log.catalog.on_change(lambda revision, changes: told.append((revision, len(changes))))
    outcome = log.publish("alpha", *(endpoint(name=f"e{number}") for number in range(4)))
    assert told == [(outcome.revision, 4)]
    with pytest.raises(CompactedError):
        log.catalog.history(outcome.revision - 1)


def test_history_is_bounded_and_says_when_it_is_compacted(monkeypatch):
    monkeypatch.setattr("discovery.core.history.EVENTS_KEPT_MAX", 8)
    monkeypatch.setattr("discovery.core.history.EVENTS_KEPT_AFTER_TRIM", 6)
    history = History(complete_after=10)
    changes = (Change("endpoints", b"k", b"v"), Change("endpoints", b"l", None))
    for revision in range(11, 16):
        history.record(revision, changes)
    assert history.after(12) == [(13, changes), (14, changes), (15, changes)]
    assert history.after(15) == history.after(99) == []
    with pytest.raises(CompactedError, match="history before revision 12 is gone: list again"):
        history.after(11)
    history.record(16, changes * 5)
    assert history.after(16) == []
    with pytest.raises(CompactedError):
        history.after(15)


def test_a_history_of_large_rows_is_shorter(monkeypatch):
    monkeypatch.setattr("discovery.core.history.EVENTS_BYTES_MAX", 1_000)
    monkeypatch.setattr("discovery.core.history.EVENTS_BYTES_AFTER_TRIM", 800)
    history = History(complete_after=0)
    changes = (Change("resources", b"k" * 10, b"v" * 90),)
    cause = Cause(proposer="alpha", actor="", now_ms=0, before=(b"b" * 100,))
    for revision in range(1, 50):
        history.record(revision, changes, cause)
        assert len(history.kept()) <= 5  # Of 200 bytes each.
    assert [revision for revision, _ in history.kept()] == [45, 46, 47, 48, 49]
    assert (history.complete_after, history.cause(44)) == (44, None)
    # Small ones have room again, as many as there may be.
    for revision in range(50, 150):
        history.record(revision, (Change("endpoints", b"k", None),))
    assert [revision for revision, _ in history.kept()] == list(range(47, 150))
    history.record(150, (Change("resources", b"k", b"v" * 2_000),))
    assert history.kept() == []


def test_a_restored_catalog_has_no_history_before_its_revision():
    log = founded()
    log.catalog.restore(log.catalog.snapshot())
    assert log.catalog.history(log.catalog.revision) == []
    with pytest.raises(CompactedError):
        log.catalog.history(log.catalog.revision - 1)

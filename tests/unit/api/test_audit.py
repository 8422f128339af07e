"""The audit trail: one record for each change and each refusal, bounded in memory and on disk."""

import msgspec
import pytest

from discovery.core.commands import Command, PublishEndpoints, RemoveCluster, Write, encode_command
from federation.api import audit as audit_module
from federation.api.audit import OBJECTS_NAMED_MAX, REFUSALS_EACH_MAX, REPEATED_MS, AuditRecord, AuditTrail
from federation.app.audit_file import FILES_MAX, AuditFile
from federation.kernel.errors import Code, NotAllowedError
from tests.unit.discovery.builders import Log, endpoint, founded, put_export, put_grant


class World:
    """A federation whose log is audited, on a clock of the test's own."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.log = founded()
        self.trail = AuditTrail(unix_ms=lambda: self.now_ms)
        self.log.catalog.on_judged(self.trail.judged)

    def last(self) -> AuditRecord:
        return self.trail.take()[-1]


def test_a_change_has_one_record_that_says_who_asked_and_what_was_touched():
    world = World()
    body = Write(operations=(put_export("alpha", "shop", "*"), put_grant("alpha", "shop", "*")))
    command = Command(request_id="r1", proposer="alpha", body=body, actor="spiffe://alpha.test/operator")
    world.log.entry(encode_command(command))
    assert world.trail.take() == [
        AuditRecord(
            unix_ms=1_000,
            index=world.log.index,
            layer="log",
            action="write",
            result="done",
            proposer="alpha",
            actor="spiffe://alpha.test/operator",
            request="r1",
            objects=(
                "put clusters/alpha/ExportPolicy/shop/export",
                "put clusters/alpha/Grant/shop/grant",
            ),
            count=2,
        )
    ]


def test_a_foreign_write_is_recorded_and_counted_as_not_allowed():
    world = World()
    outcome = world.log.write("beta", put_export("alpha", "shop", "*"))
    record = world.last()
    assert (record.result, record.proposer, record.reason, record.message) == (
        "refused",
        "beta",
        "not-allowed",
        outcome.message,
    )
    assert record.objects == ("put clusters/alpha/ExportPolicy/shop/export",)
    assert dict(world.trail.refused) == {("log", "not-allowed"): 1}


def test_what_changes_nothing_leaves_no_record():
    world = World()
    for _ in range(2):
        world.log.write("alpha", put_export("alpha", "shop", "*"))
    world.log.tick(200)
    world.log.entry(world.log.entries[-2][1])  # An answer given again.
    assert [record.action for record in world.trail.take()] == ["write"]


def test_a_lease_is_news_when_its_holder_changes():
    world = World()
    for holder in ("one", "one", "two"):  # The second extends it, the third has to wait.
        world.log.lease("publish/alpha", holder)
    world.log.wait(1_000)
    world.log.lease("publish/alpha", "two")
    assert [record.objects for record in world.trail.take()] == [
        ("publish/alpha by one",),
        ("publish/alpha by two",),
    ]


def test_a_large_batch_is_one_record_of_bounded_size():
    world = World()
    world.log.publish("alpha", *(endpoint(name=f"e{number}") for number in range(100)))
    record = world.last()
    assert (record.action, record.count, len(record.objects)) == ("publish", 100, OBJECTS_NAMED_MAX)
    assert record.objects[0] == "put shop/orders/alpha/e0"


def test_an_entry_that_cannot_be_read_is_recorded_too():
    world = World()
    world.log.entry(b"\xc1")
    assert (world.last().action, world.trail.refused) == ("unreadable", {("log", "invalid"): 1})


def test_a_refusal_that_repeats_is_counted_and_recorded_once_in_a_while():
    world = World()
    for _ in range(50):
        world.log.write("beta", put_export("alpha", "shop", "*"))
    assert len(world.trail.take()) == 1
    world.log.write("beta", put_grant("alpha", "shop", "*"))
    assert len(world.trail.take()) == 1  # Another one is no repetition.
    world.now_ms += audit_module.REPEATED_MS
    world.log.write("beta", put_export("alpha", "shop", "*"))
    assert world.last().repeated == 49
    assert world.trail.refused["log", "not-allowed"] == 52


def test_records_that_nobody_writes_are_bounded_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(audit_module, "RECORDS_QUEUED_MAX", 3)
    world = World()
    for number in range(5):
        world.log.write("alpha", put_export("alpha", f"ns-{number}", "*"))
    assert (len(world.trail.take()), world.trail.recorded, world.trail.dropped) == (3, 3, 2)


def test_refusals_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(audit_module, "REFUSALS_REMEMBERED_MAX", 2)
    trail = AuditTrail(unix_ms=lambda: 0)
    for what in ("a", "b", "c", "a"):
        trail.refuse("agent", "declare", Code.PERMISSION_DENIED, "no", actor="alpha/a1", what=what)
    assert len(trail.take()) == 4  # The first was forgotten meanwhile.


@pytest.mark.parametrize("proposer", ["", "delta"])
def test_who_is_refused_ever_other_things_pushes_nobody_elses_records_out(proposer):
    now_ms = 0
    trail = AuditTrail(unix_ms=lambda: now_ms)
    denied = NotAllowedError("no")

    def refuse(number: int) -> None:
        if proposer:  # Who asked is a mirror's own word.
            body = RemoveCluster(cluster=f"c{number}", removed_by="me")
            trail.refuse_body(body, denied, proposer=proposer, actor=f"operator {number}")
        else:
            trail.refuse("agent", "declare", denied.code, "no", actor="alpha/a1", what=f"e{number}")

    for number in range(3 * REFUSALS_EACH_MAX):
        refuse(number)
    assert len(trail.take()) == REFUSALS_EACH_MAX
    assert sum(trail.refused.values()) == 3 * REFUSALS_EACH_MAX
    trail.refuse("agent", "declare", denied.code, "no", actor="alpha/a2", what="e1")
    assert len(trail.take()) == 1
    now_ms = REPEATED_MS
    refuse(0)
    assert len(trail.take()) == 1


# -- on disk ------------------------------------------------------------------------------------------------


def lines(path):
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def test_after_a_restart_the_replayed_log_is_not_recorded_again(tmp_path):
    world = World()
    file = AuditFile(tmp_path / "audit", world.trail)
    for number in range(3):
        world.log.write("alpha", put_export("alpha", f"ns-{number}", "*"))
    file.write(world.trail.take())
    assert len(lines(file.path)) == 3

    again = AuditTrail(unix_ms=lambda: 2_000)
    file = AuditFile(tmp_path / "audit", again)
    file.resume()
    replayed = Log()
    replayed.catalog.on_judged(again.judged)
    for _, entry in world.log.entries:
        replayed.entry(entry)
    assert again.take() == []
    new = Write(operations=(put_export("alpha", "new", "*"),))
    assert replayed.send("alpha", new, request="new").code == 0
    assert len(again.take()) == 1


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_a_crash_has_cut_harms_no_other(tmp_path, cut):
    world = World()
    file = AuditFile(tmp_path, world.trail)
    for number in range(2):
        world.log.write("alpha", put_export("alpha", f"ns-{number}", "*"))
    file.write(world.trail.take())
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-cut])
    file.resume()
    assert world.trail.after_index == world.log.index - (1 if cut > 1 else 0)
    world.trail.after_index = 0
    world.log.write("alpha", put_export("alpha", "new", "*"))
    file.write(world.trail.take())
    assert msgspec.json.decode(file.path.read_bytes().splitlines()[-1])["objects"] == [
        "put clusters/alpha/ExportPolicy/new/export"
    ]


def test_files_are_bounded_in_size_and_number(tmp_path):
    world = World()
    file = AuditFile(tmp_path, world.trail, file_bytes_max=1_000)
    for number in range(60):
        world.log.write("alpha", put_export("alpha", f"ns-{number}", "*"))
        file.write(world.trail.take())
    files = sorted(tmp_path.iterdir())
    assert len(files) == FILES_MAX
    assert all(path.stat().st_size <= 1_000 for path in files)
    assert lines(file.path)[-1]["objects"] == ["put clusters/alpha/ExportPolicy/ns-59/export"]
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_refuses_costs_records_and_nothing_else(tmp_path):
    world = World()
    (tmp_path / "audit").write_text("a file where the folder should be")
    file = AuditFile(tmp_path / "audit", world.trail)
    world.log.write("alpha", put_export("alpha", "shop", "*"))
    file.write(world.trail.take())
    assert world.trail.dropped == 1


def test_a_batch_with_the_fence_of_an_old_holder_is_a_refused_precondition():
    world = World()
    world.log.publish("alpha", endpoint())
    world.log.send("alpha", PublishEndpoints(cluster="alpha", fence=0, put=(endpoint(version=(2, 1)),)))
    assert world.last().reason == "precondition"

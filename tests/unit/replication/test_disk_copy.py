"""The copy on disk: what was written comes back, what was damaged is never guessed at."""

import stat
from pathlib import Path

import pytest

from discovery.core.model import Change
from discovery.core.tables import EMPTY_TABLES, Table
from federation.kernel.errors import CorruptError, PreconditionError
from federation.replication import disk_copy
from federation.replication.disk_copy import DAMAGED_NAME, FILE_NAME, DiskCopy
from federation.replication.frames import HEADER_BYTES, frame, read_frames
from federation.replication.state import Image, Update
from tests.unit.replication.catalog import HISTORY, cluster, endpoint, federation, gone, rows

BASE = (federation(HISTORY), cluster("alpha"), endpoint("a"), endpoint("b", owner="beta"))
OWN = endpoint("a", sequence=2)


def image(*changes: Change, own: tuple[Change, ...] = (), revision: int = 5, synced: int = 1_000) -> Image:
    return Image(
        history=HISTORY,
        cluster="alpha",
        tables=EMPTY_TABLES.with_changes(changes, revision),
        own=Table().set(rows(own)),
        synced_unix_ms=synced,
    )


def written(directory: Path, *updates: Update) -> Path:
    """Return the file after a base and updates, each appended alone."""
    copy = DiskCopy.open(directory)
    copy.rewrite(image(*BASE, own=(OWN,)))
    for number, update in enumerate(updates):
        copy.append([update], synced_unix_ms=2_000 + number)
    copy.close()
    return directory / FILE_NAME


def loaded(directory: Path) -> Image | None:
    copy = DiskCopy.open(directory)
    try:
        return copy.load()
    finally:
        copy.close()


FIRST = Update(revision=6, changes=(endpoint("c"), gone(endpoint("a"))), own=(endpoint("c"),))
SECOND = Update(revision=7, changes=(gone(endpoint("c")),), own=(gone(OWN),))


def test_a_copy_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written(tmp_path, FIRST, SECOND)
    expected = image(*BASE[:2], endpoint("b", owner="beta"), own=(endpoint("c"),), revision=7, synced=2_001)
    assert loaded(tmp_path) == expected


def test_there_is_no_copy_before_the_first_write(tmp_path: Path) -> None:
    copy = DiskCopy.open(tmp_path)
    assert copy.load() is None
    assert copy.wants_rewrite
    copy.append([FIRST], synced_unix_ms=1)
    assert not (tmp_path / FILE_NAME).exists()
    copy.close()


def test_a_write_cut_short_anywhere_costs_only_itself(tmp_path: Path) -> None:
    whole = written(tmp_path, FIRST, SECOND).read_bytes()
    before = len(written(tmp_path, FIRST).read_bytes())
    after_first = image(
        *BASE[:2],
        endpoint("b", owner="beta"),
        endpoint("c"),
        own=(OWN, endpoint("c")),
        revision=6,
        synced=2_000,
    )
    changed_end = [end for end, _ in read_frames(memoryview(whole))][-2]
    for size in range(before, changed_end):
        (tmp_path / FILE_NAME).write_bytes(whole[:size])
        assert loaded(tmp_path) == after_first, size
        assert (tmp_path / FILE_NAME).stat().st_size == before
    assert not (tmp_path / DAMAGED_NAME).exists()


def test_after_a_cut_write_the_copy_goes_on_where_it_was_sound(tmp_path: Path) -> None:
    path = written(tmp_path, FIRST)
    path.write_bytes(path.read_bytes() + frame(b"half of this")[:-3])
    copy = DiskCopy.open(tmp_path)
    copy.load()
    copy.append([SECOND], synced_unix_ms=9_000)
    copy.close()
    after = loaded(tmp_path)
    assert after is not None
    assert (after.tables.revision, after.synced_unix_ms) == (7, 9_000)


def test_blocks_that_a_power_cut_left_empty_are_a_cut_write(tmp_path: Path) -> None:
    path = written(tmp_path, FIRST)
    path.write_bytes(path.read_bytes() + bytes(4096))
    after = loaded(tmp_path)
    assert after is not None
    assert after.tables.revision == 6


def test_any_flipped_bit_before_the_last_record_sets_the_copy_aside(tmp_path: Path) -> None:
    whole = written(tmp_path, FIRST).read_bytes()
    ends = [0, *(end for end, _ in read_frames(memoryview(whole)))]
    for position in range(ends[-2]):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        (tmp_path / FILE_NAME).write_bytes(damaged)
        assert loaded(tmp_path) is None, position
        assert (tmp_path / DAMAGED_NAME).read_bytes() == damaged
        assert not (tmp_path / FILE_NAME).exists()


def test_a_flipped_bit_in_the_last_payload_costs_only_that_record(tmp_path: Path) -> None:
    whole = written(tmp_path, FIRST).read_bytes()
    ends = [0, *(end for end, _ in read_frames(memoryview(whole)))]
    for position in range(ends[-2] + HEADER_BYTES, ends[-1]):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        (tmp_path / FILE_NAME).write_bytes(damaged)
        after = loaded(tmp_path)
        assert after is not None
        assert (after.tables.revision, after.synced_unix_ms) == (6, 1_000)


def test_a_copy_of_another_format_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_copy, "FORMAT", 2)
    written(tmp_path)
    monkeypatch.undo()
    assert loaded(tmp_path) is None
    assert (tmp_path / DAMAGED_NAME).exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"short", frame(b"no record"), frame(b"\x91\xa3xyz")])
def test_a_file_without_a_base_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert loaded(tmp_path) is None


def test_the_copy_is_written_anew_when_changes_outgrow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_copy, "CHANGES_BYTES_MIN", 0)
    copy = DiskCopy.open(tmp_path)
    copy.rewrite(image(*BASE))
    base_bytes = (tmp_path / FILE_NAME).stat().st_size
    assert not copy.wants_rewrite
    sequence = 2
    while not copy.wants_rewrite:
        copy.append(
            [Update(revision=sequence, changes=(endpoint("a", sequence=sequence),))], synced_unix_ms=1
        )
        sequence += 1
    assert base_bytes < (tmp_path / FILE_NAME).stat().st_size - base_bytes < 2 * base_bytes
    copy.rewrite(image(*BASE))
    assert (tmp_path / FILE_NAME).stat().st_size == base_bytes
    assert not copy.wants_rewrite
    copy.close()


def test_an_update_too_large_for_a_record_asks_for_a_rewrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_copy, "PAYLOAD_BYTES_MAX", 100)
    copy = DiskCopy.open(tmp_path)
    monkeypatch.undo()
    copy.rewrite(image(*BASE))
    monkeypatch.setattr(disk_copy, "PAYLOAD_BYTES_MAX", 100)
    copy.append([FIRST], synced_unix_ms=1)
    assert copy.wants_rewrite
    copy.close()
    assert loaded(tmp_path) == image(*BASE)


def test_only_its_owner_can_read_the_copy(tmp_path: Path) -> None:
    path = written(tmp_path / "copy")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_one_directory_serves_one_process(tmp_path: Path) -> None:
    copy = DiskCopy.open(tmp_path)
    with pytest.raises(PreconditionError, match="in use by another process"):
        DiskCopy.open(tmp_path)
    copy.close()
    DiskCopy.open(tmp_path).close()


def test_a_frame_longer_than_any_of_ours_is_damage() -> None:
    data = bytearray(frame(b"x" * 10) + frame(b"y"))
    data[3] = 0xFF
    with pytest.raises(CorruptError, match="record at byte 0 has a damaged header"):
        list(read_frames(memoryview(data)))

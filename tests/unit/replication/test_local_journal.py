"""The journal of declarations: what was written comes back, what is not sound or not ours is refused."""

import stat
from pathlib import Path

import pytest

from discovery.core.declarations import Withdrawn
from discovery.core.model import EndpointKey, pack
from federation.replication import local_journal
from federation.replication.frames import HEADER_BYTES, read_frames
from federation.replication.local_journal import FILE_NAME, FOLDER, REFUSED_NAME, Entry, LocalJournal
from tests.unit.discovery.builders import endpoint

ROWS = {row.key.encode(): pack(row) for row in (endpoint(name="a"), endpoint(name="b"))}
A, B = ROWS
GONE = Withdrawn(key=EndpointKey.decode(B), agent="agent-1", until=(1, 5))


def journal(folder: Path, *, controller: str = "alpha-c1", federation: str = "fed-1") -> LocalJournal:
    return LocalJournal(folder, controller=controller, federation=federation)


def written(folder: Path, *news: dict[bytes, Entry | None]) -> Path:
    """Return the file after a base of ROWS and news, each appended alone."""
    one = journal(folder)
    one.rewrite(ROWS)
    for part in news:
        one.append(part)
    return folder / FOLDER / FILE_NAME


def test_what_was_written_comes_back_with_the_last_entry_of_each_row(tmp_path: Path) -> None:
    newer = pack(endpoint(name="a", version=(1, 2)))
    written(tmp_path, {A: newer, B: GONE}, {A: None}, {A: newer})
    assert journal(tmp_path).load() == {A: newer, B: GONE}
    assert stat.S_IMODE((tmp_path / FOLDER / FILE_NAME).stat().st_mode) == 0o600


def test_there_is_nothing_before_the_first_write(tmp_path: Path) -> None:
    assert journal(tmp_path).load() == {}
    assert journal(tmp_path).wants_rewrite


def test_a_rewrite_that_fails_is_still_wanted_and_costs_nothing_that_was_there(tmp_path: Path) -> None:
    path, one = written(tmp_path), journal(tmp_path)
    assert one.load() == ROWS
    assert not one.wants_rewrite
    path.with_suffix(".new").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        one.rewrite({A: ROWS[A]})
    assert one.wants_rewrite  # An append would leave out what was to be written now.
    assert journal(tmp_path).load() == ROWS


def test_a_write_cut_short_anywhere_costs_only_itself(tmp_path: Path) -> None:
    path = written(tmp_path, {B: GONE})
    whole = path.read_bytes()
    *_, before, _last = (end for end, _ in read_frames(memoryview(whole)))
    for size in range(before, len(whole)):
        path.write_bytes(whole[:size])
        one = journal(tmp_path)
        assert one.load() == ROWS
        assert one.wants_rewrite is (size > before)  # What follows a torn record could not be read.


def test_a_flipped_bit_is_refused_or_costs_the_last_write(tmp_path: Path) -> None:
    path = written(tmp_path, {B: GONE}, {A: None})
    whole = path.read_bytes()
    *_, before, _last = (end for end, _ in read_frames(memoryview(whole)))
    for offset in range(0, before, 7):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        assert journal(tmp_path).load() == {}
        assert (tmp_path / FOLDER / REFUSED_NAME).exists()
        assert not path.exists()


@pytest.mark.parametrize(
    ("writer", "reason"),
    [
        pytest.param({"controller": "beta-c1"}, "of controller beta-c1, expected alpha-c1", id="controller"),
        pytest.param({"federation": "fed-2"}, "of federation fed-2, expected fed-1", id="federation"),
    ],
)
def test_a_journal_of_another_is_refused(
    tmp_path: Path, writer: dict[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal(tmp_path, **writer).rewrite(ROWS)
    assert journal(tmp_path).load() == {}
    assert reason in capsys.readouterr().out
    assert (tmp_path / FOLDER / REFUSED_NAME).exists()


def test_a_later_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_journal, "FORMAT", 2)
    written(tmp_path)
    monkeypatch.undo()
    assert journal(tmp_path).load() == {}
    assert "of format 2, expected 1" in capsys.readouterr().out


def test_a_row_under_anothers_key_is_refused(tmp_path: Path) -> None:
    journal(tmp_path).rewrite({A: ROWS[B]})
    assert journal(tmp_path).load() == {}


def test_a_file_without_a_head_is_refused_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    head, *_ = (end for end, _ in read_frames(memoryview(whole)))
    path.write_bytes(whole[head:])
    assert journal(tmp_path).load() == {}
    path.write_bytes(bytes(HEADER_BYTES))
    assert journal(tmp_path).load() == {}


def test_dead_entries_are_written_away_when_they_outgrow_the_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_journal, "DEAD_BYTES_MIN", 1_000)
    one = journal(tmp_path)
    one.rewrite(ROWS)
    rounds = 0
    while not one.wants_rewrite:
        one.append({B: GONE})
        rounds += 1
    assert rounds > 5
    one.rewrite({B: GONE})
    assert not one.wants_rewrite
    assert journal(tmp_path).load() == {B: GONE}


def test_more_than_there_is_room_for_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_journal, "LIVING_BYTES_MAX", len(A) + len(ROWS[A]))
    one = journal(tmp_path)
    one.rewrite(ROWS)
    assert journal(tmp_path).load() == {A: ROWS[A]}
    one.append({A: None, B: ROWS[B]})
    assert journal(tmp_path).load() == {B: ROWS[B]}
    one.append({B: pack(endpoint(name="b", address="10.11.112.113", version=(10**9, 10**9)))})
    assert journal(tmp_path).load() == {}  # It has grown, and an older one would say what is over.


def test_a_file_that_is_far_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    monkeypatch.setattr(local_journal, "FILE_BYTES_MAX", 10)
    assert journal(tmp_path).load() == {}

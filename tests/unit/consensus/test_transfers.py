"""The leader's side of a snapshot copy: a window, answers, and beginning anew."""

from pathlib import Path

import pytest

from consensus.core.messages import Append, Message, SnapshotChunk, SnapshotProgress
from consensus.core.snapshots import Manifest
from consensus.runtime.snapshots import OutgoingSnapshot, SnapshotWriter
from consensus.runtime.transfers import WINDOW_BYTES, Transfers
from tests.unit.consensus.builders import ALPHA

TERM = 4


class Sent:
    """Takes frames, or refuses them."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, member_id: str, message: Message) -> bool:
        self.messages.append(message)
        return True

    def backlog_bytes(self, member_id: str) -> int:
        return 0

    def chunks(self) -> list[SnapshotChunk]:
        found = [message for message in self.messages if isinstance(message, SnapshotChunk)]
        self.messages.clear()
        return found


class OneSnapshot:
    """The part of a store that transfers use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        chunks = iter([bytes([number]) * 250_000 for number in range(20)])
        writer = SnapshotWriter(directory, Manifest(index=50, term=3, voters=(ALPHA,)), chunks)
        while not writer.step():
            pass

    def outgoing(self) -> OutgoingSnapshot:
        return OutgoingSnapshot(self.directory, 50)


def progress(offset: int, index: int = 50) -> SnapshotProgress:
    return SnapshotProgress(term=TERM, index=index, offset=offset)


@pytest.fixture
def wire() -> Sent:
    return Sent()


@pytest.fixture
def transfers(tmp_path: Path, wire: Sent) -> Transfers:
    return Transfers(OneSnapshot(tmp_path), wire)


def test_the_whole_file_arrives_in_order_with_at_most_a_window_on_its_way(
    tmp_path: Path, transfers: Transfers, wire: Sent
) -> None:
    received = b""
    transfers.send("beta", TERM)
    while chunks := wire.chunks():
        assert sum(len(chunk.data) for chunk in chunks) <= WINDOW_BYTES
        for chunk in chunks:
            assert chunk.offset == len(received)
            received += chunk.data
        transfers.advance("beta", progress(len(received)))
    assert received == (tmp_path / "snapshot").read_bytes()
    assert "beta" in transfers
    transfers.arrived("beta", 49)
    assert "beta" in transfers
    transfers.arrived("beta", 50)
    assert "beta" not in transfers


def test_a_full_window_leaves_heartbeats(transfers: Transfers, wire: Sent) -> None:
    transfers.send("beta", TERM)
    wire.messages.clear()
    transfers.send("beta", TERM)
    assert wire.messages == [Append(term=TERM, commit_index=0, prev_index=0, prev_term=0)]


def test_a_newer_snapshot_does_not_change_a_copy_on_its_way(
    tmp_path: Path, transfers: Transfers, wire: Sent
) -> None:
    before = (tmp_path / "snapshot").read_bytes()
    transfers.send("beta", TERM)
    received = b"".join(chunk.data for chunk in wire.chunks())
    (tmp_path / "other").write_bytes(b"newer")
    (tmp_path / "other").replace(tmp_path / "snapshot")
    transfers.advance("beta", progress(len(received)))
    received += b"".join(chunk.data for chunk in wire.chunks())
    assert before.startswith(received)


@pytest.mark.parametrize(
    "offset", [pytest.param(0, id="lost"), pytest.param(1 << 40, id="beyond-what-was-sent")]
)
def test_a_member_that_lost_its_copy_gets_it_from_the_beginning(
    transfers: Transfers, wire: Sent, offset: int
) -> None:
    transfers.send("beta", TERM)
    transfers.advance("beta", progress(offset))
    assert "beta" not in transfers
    wire.messages.clear()
    transfers.send("beta", TERM)
    assert wire.chunks()[0].offset == 0


def test_answers_about_another_snapshot_or_from_others_are_ignored(transfers: Transfers, wire: Sent) -> None:
    transfers.send("beta", TERM)
    wire.messages.clear()
    transfers.advance("gamma", progress(100))
    transfers.advance("beta", progress(100, index=49))
    assert wire.messages == []
    transfers.end_all()
    assert "beta" not in transfers


def test_a_copy_goes_on_where_a_broken_connection_ended_the_one_before(
    tmp_path: Path, transfers: Transfers, wire: Sent
) -> None:
    held = WINDOW_BYTES + 100
    transfers.send("beta", TERM)
    wire.messages.clear()
    transfers.advance("beta", progress(held))
    received = b""
    while chunks := wire.chunks():
        assert chunks[0].offset == held + len(received)
        received += b"".join(chunk.data for chunk in chunks)
        transfers.advance("beta", progress(held + len(received)))
    assert received == (tmp_path / "snapshot").read_bytes()[held:]


def test_a_copy_whose_last_answer_was_lost_ends_when_the_member_says_that_it_holds_none(
    tmp_path: Path, transfers: Transfers, wire: Sent
) -> None:
    transfers.send("beta", TERM)
    transfers.missed("beta")
    assert "beta" in transfers, "pieces of it are not sent yet"
    transfers.advance("beta", progress((tmp_path / "snapshot").stat().st_size))
    transfers.missed("beta")
    assert "beta" not in transfers

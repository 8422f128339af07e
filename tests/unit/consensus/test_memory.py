"""Which of a member's directories is believed when words of several arrive, in whatever order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from consensus.core.contract import Counters
from consensus.core.messages import Appended, Message
from consensus.core.promises import Standing
from consensus.core.timing import Timing
from consensus.runtime.memory import DIRECTORIES_LEFT_MAX, Memory
from consensus.runtime.store import Store
from tests.unit.consensus.builders import ALPHA, BETA, GAMMA

TIMING = Timing()
SILENT_S = TIMING.connection_silent_ms / 1000


class ByHand:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s

    def fraction(self) -> float:
        return 0.5

    def unix_ms(self) -> int:
        return 0


class Nobody:
    def send(self, member_id: str, message: Message) -> bool:
        return False

    def backlog_bytes(self, member_id: str) -> int:
        return 0


class Hearer:
    """Alpha's memory, and words of beta's directories."""

    def __init__(self, store: Store) -> None:
        self.clock = ByHand()
        self.memory = Memory(ALPHA.id, store=store, wire=Nobody(), clock=self.clock, timing=TIMING)

    def hears(self, directory: str, *, after_s: float = 0.01) -> bool:
        self.clock.time_s += after_s
        since = Standing(incarnation=directory, run=1, term=1, last_index=1)
        return self.memory.admit(BETA.id, Appended(term=1, next_index=2, matched=True, since=since))


@pytest.fixture
def hearer(tmp_path: Path) -> Iterator[Hearer]:
    store = Store(
        tmp_path,
        founding_voters=(ALPHA, BETA, GAMMA),
        machine=_Nothing(),
        counters=Counters(),
        snapshot_after_bytes=1 << 20,
    )
    yield Hearer(store)
    store.close()


class _Nothing:
    def apply(self, index: int, command: bytes) -> bytes:
        return b""

    def snapshot(self) -> Iterator[bytes]:
        yield b""

    def restore(self, chunks: object) -> None:
        pass


def test_late_words_of_a_directory_that_was_left_are_not_believed(hearer: Hearer) -> None:
    assert hearer.hears("old")
    assert hearer.hears("new")
    for _ in range(5):
        assert not hearer.hears("old")
        assert hearer.hears("new", after_s=SILENT_S / 2)
    assert hearer.memory.incarnation(BETA.id) == "new"


def test_late_words_do_not_silence_the_directory_that_goes_on_for_longer_than_they_can_be_late(
    hearer: Hearer,
) -> None:
    """The hearer began after the change, so it could not know which of the two is the old one."""
    assert hearer.hears("new")
    assert hearer.hears("old")
    assert not hearer.hears("new")
    assert hearer.hears("new", after_s=SILENT_S)
    assert not hearer.hears("old"), "and now it is known"
    assert hearer.memory.incarnation(BETA.id) == "new"


def test_a_member_may_change_its_directory_more_often_than_is_remembered(hearer: Hearer) -> None:
    names = [f"directory {number}" for number in range(2 * DIRECTORIES_LEFT_MAX)]
    assert all(hearer.hears(name) for name in names)
    assert not any(hearer.hears(name) for name in names[-DIRECTORIES_LEFT_MAX:-1])
    assert hearer.hears(names[-1])

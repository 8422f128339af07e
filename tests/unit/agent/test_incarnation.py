"""The number of a start grows, whatever happens to the clock or the file."""

from pathlib import Path

from federation.agent.agent import INCARNATION_FILE, _Incarnation, next_incarnation
from federation.agent.state_file import write_state


def test_each_start_has_a_larger_number(tmp_path: Path) -> None:
    numbers = [next_incarnation(tmp_path) for _ in range(5)]
    assert numbers == sorted(set(numbers))


def test_a_clock_that_was_set_back_does_not_make_an_older_start(tmp_path: Path) -> None:
    future = 32_503_680_000_000  # The year 3000.
    write_state(tmp_path / INCARNATION_FILE, "isthmus incarnation", _Incarnation(incarnation=future))
    assert next_incarnation(tmp_path) == future + 1


def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / INCARNATION_FILE).write_bytes(b"{")
    assert next_incarnation(tmp_path) > 1_700_000_000_000

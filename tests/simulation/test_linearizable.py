"""The two checkers of histories: they accept what an atomic register could have done, and nothing else."""

import json
import random
from pathlib import Path

import pytest

from tests.simulation.history import End, Function, Operation, events, write_edn, write_json_lines
from tests.simulation.linearizable import check_versions, search


def op(
    f: Function,
    value: str | None,
    begin: float,
    end: float = float("inf"),
    *,
    expected: str | None = None,
    how: End = "ok",
    version: int | None = None,
    process: int = 0,
) -> Operation:
    return Operation(
        process=process,
        f=f,
        key="k",
        value=value,
        expected=expected,
        invoke_s=begin,
        return_s=end,
        type=how,
        version=version,
    )


def atomic_history(seed: int, operations: int, *, callers: int = 5) -> list[Operation]:
    """Return what callers of a truly atomic register saw; some never learned what became of their write."""
    rng = random.Random(seed)
    free = [0.0] * callers
    calls = []
    for _ in range(operations):
        caller = min(range(callers), key=lambda number: free[number])
        begin = free[caller] + rng.expovariate(1)
        free[caller] = begin + rng.expovariate(1)
        calls.append((rng.uniform(begin, free[caller]), begin, free[caller], caller))
    value: str | None = None
    version = 0
    history = []
    for number, (_instant, begin, end, caller) in enumerate(sorted(calls)):
        if rng.random() < 0.5:
            history.append(op("read", value, begin, end, version=version, process=caller))
            continue
        value, version = f"v{number}", version + 1
        if rng.random() < 0.1:
            history.append(op("write", value, begin, how="info", process=caller))
        else:
            history.append(op("write", value, begin, end, version=version, process=caller))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_what_an_atomic_register_did_is_linearizable(seed: int) -> None:
    history = atomic_history(seed, 80)
    assert check_versions(history) == []
    assert search(history) is True


@pytest.mark.parametrize("seed", range(20))
def test_a_read_of_an_overwritten_value_is_noticed_by_both(seed: int) -> None:
    history = [operation for operation in atomic_history(seed, 80) if operation.type == "ok"]
    writes = sorted((o for o in history if o.f == "write"), key=lambda o: o.return_s)
    old, new = writes[0], next(o for o in writes if o.invoke_s > writes[0].return_s)
    late = max(o.return_s for o in history) + 1
    history.append(op("read", old.value, late, late + 1, version=old.version))
    assert new.version is not None
    assert check_versions(history) != []
    assert search(history) is False


WRONG = {
    "a value nobody wrote": [op("read", "x", 0, 1, version=3)],
    "a value whose write was refused": [
        op("write", "x", 0, 1, how="fail"),
        op("read", "x", 2, 3, version=3),
    ],
    "nothing, after a write was finished": [
        op("write", "x", 0, 1, version=2),
        op("read", None, 2, 3, version=0),
    ],
    "two values of one version": [
        op("write", "x", 0, 5, version=2),
        op("write", "y", 0, 5, version=2),
        op("read", "x", 6, 7, version=2),
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_versions_refuse_a_read_of(name: str) -> None:
    assert check_versions(WRONG[name]) != []


def test_a_compare_and_swap_succeeds_only_on_the_value_it_names() -> None:
    first = op("write", "a", 0, 1)
    assert search([first, op("cas", "b", 2, 3, expected="a"), op("read", "b", 4, 5)]) is True
    assert search([first, op("cas", "b", 2, 3, expected="z")]) is False
    both = [op("cas", "b", 2, 4, expected="a"), op("cas", "c", 2, 4, expected="a")]
    assert search([first, *both]) is False


def test_an_unknown_write_may_have_happened_at_any_time_or_never() -> None:
    unknown = op("write", "b", 0, how="info")
    assert search([unknown, op("read", None, 1, 2), op("read", "b", 3, 4)]) is True
    assert search([unknown, op("read", None, 1, 2)]) is True
    assert search([unknown, op("read", "b", 1, 2), op("read", None, 3, 4)]) is False


def test_calls_at_the_instant_of_a_return_overlap_with_it() -> None:
    assert search([op("write", "a", 0, 1), op("read", None, 1, 2)]) is True


def test_a_search_gives_up_after_its_budget() -> None:
    many = [op("write", f"v{number}", 0, 10) for number in range(12)]
    assert search([*many, op("read", "nobody's", 11, 12)], steps_max=1_000) is None


def test_a_history_is_written_as_json_lines_and_as_jepsens_edn(tmp_path: Path) -> None:
    history = [
        op("write", "a", 0, 0.5, version=7),
        op("cas", "b", 1, 2, expected="a", process=1, version=8),
        op("read", "b", 1.5, 3, version=8, process=2),
        op("write", "c", 2.5, how="info", process=3),
    ]
    write_json_lines(tmp_path / "h.jsonl", history)
    write_edn(tmp_path / "h.edn", history)
    lines = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert [line["type"] for line in lines] == [event.type for event in events(history)]
    assert lines[-2]["value"] == "b"
    assert (tmp_path / "h.edn").read_text().splitlines() == [
        '{:index 0 :time 0 :process 0 :type :invoke :f :write :value ["k" "a"]}',
        '{:index 1 :time 500000000 :process 0 :type :ok :f :write :value ["k" "a"]}',
        '{:index 2 :time 1000000000 :process 1 :type :invoke :f :cas :value ["k" ["a" "b"]]}',
        '{:index 3 :time 1500000000 :process 2 :type :invoke :f :read :value ["k" nil]}',
        '{:index 4 :time 2000000000 :process 1 :type :ok :f :cas :value ["k" ["a" "b"]]}',
        '{:index 5 :time 2500000000 :process 3 :type :invoke :f :write :value ["k" "c"]}',
        '{:index 6 :time 3000000000 :process 2 :type :ok :f :read :value ["k" "b"]}',
        '{:index 7 :time -1 :process 3 :type :info :f :write :value ["k" "c"]}',
    ]

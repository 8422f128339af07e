"""Rounds become figures of both stores side by side, or of ours alone where there is no etcd."""

from pathlib import Path

import pytest

from bench.consensus import Rounds, figures, prepare_stores
from bench.session import Session
from bench.stores import ETCD, OURS
from chaos.lab import tools

SYNCED = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]


def rounds(*took_ms: list[float]) -> Rounds:
    """Each round took 2 s, and 4 s of CPU of the members, 1 s of the writer."""
    filled = Rounds()
    for one in took_ms:
        filled.add(one, 2.0, 4.0, 1.0)
    return filled


def test_a_round_gives_quantiles_rate_and_cpu_of_each_write() -> None:
    taken = rounds([float(number) for number in range(1, 201)])

    assert taken == Rounds(
        p50_ms=[100.0], p99_ms=[198.0], per_s=[100.0], cpu_us=[20_000.0], writer_cpu_us=[5_000.0]
    )


def test_ours_stand_beside_etcds_of_the_same_round() -> None:
    stores = {OURS: rounds([2.0], [9.0]), ETCD: rounds([1.0], [3.0])}

    found = {figure.name: figure for figure in figures(SYNCED, {64: stores}, {})}

    ours, theirs = found["64 in flight, p50"], found["etcd, 64 in flight, p50"]
    assert (ours.value, ours.ratio, ours.ratio_to) == (5.5, 2.5, theirs.name)
    assert (theirs.value, theirs.ratio) == (2.0, None)
    assert found["64 in flight, CPU of the members"].ratio == 1


def test_without_etcd_ours_stand_alone() -> None:
    found = figures(SYNCED, {1: {OURS: rounds([2.0], [4.0])}}, {1: rounds([2.0], [2.0])})

    assert [(figure.name, figure.value, figure.ratio) for figure in found if figure.unit == "ms"] == [
        ("bare fdatasync p50", 3.0, None),
        ("1 in flight, p50", 3.0, None),
        ("1 in flight, p99", 3.0, None),
        ("1 in flight within the process, p50", 2.0, 0.75),
        ("1 in flight within the process, p99", 2.0, None),
    ]


def test_a_machine_without_etcd_measures_ours_and_says_where_etcd_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "UNPACKED_TOOLS", tmp_path)
    with Session(tmp_path, print) as session:
        stores, notes = prepare_stores(session, tmp_path / "stores")

    assert ETCD not in stores
    assert OURS in stores
    assert "program etcd is not on PATH" in notes[0]
    assert "Debian package etcd-server" in notes[0]

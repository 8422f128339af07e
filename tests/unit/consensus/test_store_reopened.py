"""A store that is opened anew, after a full disk, around a state machine that is further than the log on disk."""

from pathlib import Path

from consensus.core.contract import Counters
from consensus.core.membership import KIND_COMMAND
from consensus.core.records import Entry
from consensus.runtime.snapshots import snapshot_path, verify
from consensus.runtime.store import Progress, Store
from tests.unit.consensus.builders import ALPHA, BETA, GAMMA
from tests.unit.consensus.test_snapshots import Words

APPLIED = 5
OLD_TERM, NEW_TERM = 1, 2


def opened(directory: Path, machine: Words, progress: Progress | None = None) -> Store:
    return Store(
        directory,
        founding_voters=(ALPHA, BETA, GAMMA),
        machine=machine,
        counters=Counters(),
        snapshot_after_bytes=1,
        progress=progress,
    )


def extend(store: Store, term: int, last: int) -> None:
    for index in range(store.journal.last_index + 1, last + 1):
        store.journal.append(Entry(index, term, KIND_COMMAND + b"%d of term %d" % (index, term)))


def apply(store: Store, last: int) -> None:
    store.journal.commit(last)
    while store.applied_index < last:
        store.apply_next()


def test_a_snapshot_never_takes_its_term_from_a_log_that_the_leader_is_to_cut_back(tmp_path: Path) -> None:
    """It would call committed what a former leader had left there, against every other member (members/200115)."""
    machine = Words()
    store = opened(tmp_path, machine)
    extend(store, OLD_TERM, 9)
    store.journal.flush()
    store.journal.truncate(2)
    extend(store, NEW_TERM, 9)
    apply(store, APPLIED)
    progress = store.progress
    store.close()  # Without a flush: there was no room.

    store = opened(tmp_path, machine, progress)
    assert store.journal.term_at(APPLIED) == OLD_TERM
    for _ in range(3):
        store.step_snapshot()
    assert not snapshot_path(tmp_path).exists()
    assert store.journal.commit_index < APPLIED

    store.journal.truncate(2)
    extend(store, NEW_TERM, 9)
    apply(store, APPLIED)
    while not snapshot_path(tmp_path).exists():
        store.step_snapshot()
    manifest = verify(snapshot_path(tmp_path))
    assert (manifest.index, manifest.term) == (APPLIED, NEW_TERM)
    assert machine.words == [b"%d of term %d" % (index, NEW_TERM) for index in range(2, APPLIED + 1)]
    store.close()

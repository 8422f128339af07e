"""When the state of a backup is taken: between two entries, after every write that was finished before."""

from collections.abc import Callable

import pytest

from discovery.core.catalog import Catalog
from federation.app.backup import StateTaker, count_rows
from federation.kernel.errors import UnavailableError
from tests.unit.discovery.builders import Log, endpoint, founded, put_export, put_token


class AppliedLog:
    """A member of which the log is applied only when somebody waits for a barrier: the writes of others first."""

    def __init__(self, log: Log, *, behind: Callable[[], object]) -> None:
        self.log = log
        self._behind = behind
        self._callbacks: list[Callable[[int], None]] = []
        self.is_available = True

    def on_applied(self, callback: Callable[[int], None]) -> None:
        self._callbacks.append(callback)

    async def barrier(self) -> None:
        if not self.is_available:
            raise UnavailableError("no leader")
        self._behind()
        self.log.index += 1
        for callback in self._callbacks:
            callback(self.log.index)


def taker(applied: AppliedLog, catalog: Catalog) -> StateTaker:
    return StateTaker(engine=applied, proposer=applied, catalog=catalog)


async def test_a_write_that_was_finished_elsewhere_is_in_the_backup_although_this_member_lagged() -> None:
    log = founded()
    waiting = [put_export("alpha", "shop", "*")]
    applied = AppliedLog(log, behind=lambda: waiting and log.accept("alpha", waiting.pop()))

    index, state = await taker(applied, log.catalog).take()

    assert count_rows(state)["ExportPolicy"] == 1
    assert state.tables.revision == log.catalog.revision < index


async def test_what_is_written_afterwards_is_not_in_it() -> None:
    log = founded()
    applied = AppliedLog(log, behind=lambda: None)

    index, state = await taker(applied, log.catalog).take()
    log.accept("alpha", put_export("alpha", "shop", "*"))
    await applied.barrier()

    assert "ExportPolicy" not in count_rows(state)
    assert state.tables.revision < index < log.catalog.revision


async def test_without_a_quorum_there_is_no_backup() -> None:
    log = founded()
    applied = AppliedLog(log, behind=lambda: None)
    applied.is_available = False
    with pytest.raises(UnavailableError):
        await taker(applied, log.catalog).take()


def test_counts_name_each_kind_and_the_endpoints() -> None:
    log = founded()
    log.accept("alpha", put_token("t", "alpha", "a" * 64))
    log.publish("alpha", endpoint(name="o1"), endpoint(name="o2"))
    assert count_rows(log.catalog.state()) == {
        "Cluster": 3,
        "Controller": 2,
        "Federation": 1,
        "JoinToken": 1,
        "TrustDomain": 2,
        "Endpoint": 2,
    }

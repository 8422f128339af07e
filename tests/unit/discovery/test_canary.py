"""The sync canary: a source that comes back with much less than it had removes nothing at first."""

import pytest

from discovery.core.canary import BELIEVED_ROWS
from discovery.core.declarations import Declaration
from discovery.core.local import LocalTable
from discovery.core.model import Endpoint
from discovery.core.specs import ClusterSpec
from federation.kernel.errors import NotFoundError
from tests.unit.discovery.builders import endpoint

SPEC = ClusterSpec(role="primary", trust_domain="alpha.test")
HAD = 30


class Source:
    """One agent and the table that believes it, or not."""

    def __init__(self, had: int = HAD) -> None:
        self.table = LocalTable("alpha")
        self.sequence = 0
        self.restart(*range(had))

    def rows(self, numbers: tuple[int, ...]) -> tuple[Endpoint, ...]:
        return tuple(
            endpoint(name=f"e{number}", version=(self.incarnation, self.sequence)) for number in numbers
        )

    def restart(self, *numbers: int) -> None:
        """Say hello, and list these."""
        self.sequence += 1
        self.incarnation = self.sequence
        self.table.hello("agent-1", self.incarnation)
        self.say(*numbers, complete=True)

    def say(self, *numbers: int, complete: bool = False, remove: tuple[int, ...] = ()) -> None:
        said = Declaration(
            agent="agent-1",
            incarnation=self.incarnation,
            sequence=self.sequence,
            put=self.rows(numbers),
            remove=tuple(row.key for row in self.rows(remove)),
            complete=complete,
        )
        assert self.table.declare(said, SPEC).refused == ()

    def standing(self) -> set[int]:
        return {int(key.decode().rpartition("\0e")[2]) for key in self.table.endpoints()}

    def withheld(self) -> int:
        return sum(len(doubt.missing) for doubt in self.table.doubted().values())


@pytest.mark.parametrize("left", [(), (0,), tuple(range(14))])
def test_a_list_that_leaves_out_most_of_what_was_there_removes_nothing(left):
    source = Source()
    source.restart(*left)
    assert source.standing() == set(range(HAD))
    assert source.withheld() == HAD - len(left)


@pytest.mark.parametrize(
    ("had", "left"),
    [
        pytest.param(HAD, tuple(range(15)), id="half-is-believed"),
        pytest.param(BELIEVED_ROWS, (), id="a-few-are-believed"),
        pytest.param(HAD, tuple(range(HAD)), id="nothing-missing"),
    ],
)
def test_a_list_that_leaves_out_little_is_believed(had, left):
    source = Source(had)
    source.restart(*left)
    assert source.standing() == set(left)
    assert source.withheld() == 0


def test_the_same_list_after_the_pause_is_believed_and_not_before():
    source = Source()
    source.restart(0)
    source.restart(0)
    assert source.standing() == set(range(HAD))
    source.table.ripen("agent-1")
    assert source.standing() == set(range(HAD))
    source.restart(0)
    assert source.standing() == {0}
    assert source.withheld() == 0


def test_a_source_that_finds_its_rows_again_during_the_pause_keeps_them():
    source = Source()
    source.restart()
    source.sequence += 1
    source.say(*range(20))  # Its sync goes on: one by one they come back.
    assert source.withheld() == HAD - 20
    source.table.ripen("agent-1")
    source.restart(*range(20))
    assert source.standing() == set(range(20))  # What was missing twice.


def test_another_list_with_other_rows_missing_starts_the_pause_anew():
    source = Source()
    source.restart(0)
    source.table.ripen("agent-1")
    source.restart(1)  # Now row 0 is missing, which was there before.
    assert source.standing() == set(range(HAD))
    source.table.ripen("agent-1")
    source.restart(1)
    assert source.standing() == {1}


def test_a_withdrawal_by_name_is_never_doubted():
    source = Source()
    source.sequence += 1
    source.say(remove=tuple(range(HAD)))
    assert source.standing() == set()


def test_a_withdrawal_by_name_during_the_pause_counts():
    source = Source()
    source.restart()
    source.sequence += 1
    source.say(remove=(3, 4))
    assert source.standing() == set(range(HAD)) - {3, 4}
    assert source.withheld() == HAD - 2


def test_an_operator_may_believe_the_list_at_once():
    source = Source()
    source.restart(0)
    changes = source.table.confirm("agent-1")
    assert len(changes) == HAD - 1
    assert source.standing() == {0}
    with pytest.raises(NotFoundError, match="agent agent-1 of cluster alpha left nothing out"):
        source.table.confirm("agent-1")


def test_an_agent_that_dies_during_the_pause_ends_as_any_other():
    source = Source()
    source.restart(0)
    source.table.agent_lost("agent-1")
    source.table.expire("agent-1")
    assert source.standing() == set()
    assert source.withheld() == 0


def test_what_is_withheld_stays_as_it_was():
    source = Source()
    before = dict(source.table.endpoints().items())
    source.restart()
    assert dict(source.table.endpoints().items()) == before

"""Draining a cluster: the ramp, who may begin one, and what each must not count on."""

import pytest

from discovery.core.commands import Delete
from discovery.core.drains import counted_out, is_under_way, roll_back, start, step
from federation.kernel.errors import Code
from tests.unit.discovery.builders import Log, founded, key, put_cluster, put_drain

OK = 0


def drain(started_ms: int = 0, share_percent: int = 100, *, step_percent: int = 25, rolled_back: str = ""):
    begun = start(
        step_percent=step_percent, every_ms=1_000, forced=False, started_by="admin", now_ms=started_ms
    )
    while begun.share_percent > share_percent:
        begun = step(begun, now_ms=begun.stepped_ms + 1_000)
    return roll_back(begun, rolled_back, now_ms=started_ms) if rolled_back else begun


@pytest.mark.parametrize(
    ("step_percent", "times_ms", "shares"),
    [
        pytest.param(25, [0, 999, 1_000, 2_000, 3_000], [75, 75, 50, 25, 0], id="a-step-when-it-is-due"),
        pytest.param(40, [0, 1_000, 2_000, 3_000], [60, 20, 0, 0], id="never-below-nothing"),
        pytest.param(100, [0], [0], id="at-once"),
        pytest.param(25, [0, 60_000, 60_001], [75, 50, 50], id="one-at-a-time-however-late"),
    ],
)
def test_a_drain_goes_down_in_steps(step_percent, times_ms, shares):
    found = start(step_percent=step_percent, every_ms=1_000, forced=False, started_by="admin", now_ms=0)
    seen = []
    for now_ms in times_ms:
        found = step(found, now_ms=now_ms)
        seen.append(found.share_percent)
    assert seen == shares
    assert is_under_way(found) == (shares[-1] > 0)


def test_a_drain_that_was_rolled_back_stays_so_and_says_why():
    given_up = roll_back(drain(share_percent=50), "nobody else", now_ms=5_000)
    assert given_up.share_percent == 100
    assert given_up.rolled_back == "nobody else"
    assert step(given_up, now_ms=60_000) is given_up


@pytest.mark.parametrize(
    ("drains", "expected"),
    [
        pytest.param({"beta": drain(0, 50)}, {"beta"}, id="of-one-that-is-asked-for-all-others-count"),
        pytest.param({"alpha": drain(5), "beta": drain(3)}, {"beta"}, id="who-began-before"),
        pytest.param({"alpha": drain(5), "beta": drain(7)}, set(), id="not-who-began-after"),
        pytest.param({"alpha": drain(5), "beta": drain(7, 0)}, {"beta"}, id="but-who-is-drained"),
        pytest.param({"beta": drain(5), "alpha": drain(5)}, set(), id="at-once-the-first-by-name-goes-on"),
        pytest.param({"alpha": drain(5), "beta": drain(3, rolled_back="why")}, set(), id="who-was-rolled-back-counts"),
    ],
)  # fmt: skip
def test_a_drain_does_not_count_on_those_that_go_before_it(drains, expected):
    assert counted_out("alpha", drains) == expected


def test_of_two_drains_at_most_one_is_in_the_others_way():
    both = {"alpha": drain(5), "beta": drain(5)}
    assert [counted_out(name, both) for name in ("alpha", "beta")] == [set(), {"alpha"}]


def small_federation() -> Log:
    log = founded()  # alpha, beta and alpha's remote delta.
    log.accept("alpha", put_cluster("gamma", role="witness"))
    return log


@pytest.mark.parametrize(
    ("proposer", "operation", "expected"),
    [
        pytest.param("alpha", put_drain("beta"), OK, id="by-any-primary"),
        pytest.param("gamma", put_drain("beta"), OK, id="by-a-witness"),
        pytest.param("delta", put_drain("beta"), Code.PERMISSION_DENIED, id="not-by-a-remote"),
        pytest.param("alpha", put_drain("delta"), OK, id="of-a-remote"),
        pytest.param("alpha", put_drain("epsilon"), Code.FAILED_PRECONDITION, id="unknown-cluster"),
        pytest.param("alpha", put_drain("gamma"), Code.FAILED_PRECONDITION, id="a-witness-has-no-traffic"),
        pytest.param("alpha", put_drain("beta", 101), Code.INVALID_ARGUMENT, id="more-than-all"),
        pytest.param("alpha", put_drain("beta", -1), Code.INVALID_ARGUMENT, id="less-than-nothing"),
        pytest.param("alpha", put_drain("beta", stepPercent=0), Code.INVALID_ARGUMENT, id="no-step"),
        pytest.param("alpha", put_drain("beta", everyMs=-1), Code.INVALID_ARGUMENT, id="back-in-time"),
        pytest.param("alpha", put_drain("beta", rolledBack="x" * 1_001), Code.INVALID_ARGUMENT, id="a-long-reason"),
    ],
)  # fmt: skip
def test_who_may_drain_what(proposer, operation, expected):
    assert small_federation().write(proposer, operation).code == expected


def test_the_last_cluster_that_is_not_drained_stays_unless_forced():
    log = small_federation()
    log.accept("alpha", put_drain("alpha", 0))
    log.accept("alpha", put_drain("delta", 75))
    refused = log.write("alpha", put_drain("beta"))
    assert refused.code == Code.FAILED_PRECONDITION
    assert "last one" in refused.message
    log.accept("alpha", put_drain("beta", forced=True))


def test_a_drain_that_was_given_up_leaves_room_for_another():
    log = small_federation()
    log.accept("alpha", put_drain("alpha", 100, rolledBack="nobody else"), put_drain("delta", 0))
    log.accept("alpha", put_drain("beta"))


def test_an_end_of_a_drain_is_the_end_of_its_row():
    log = small_federation()
    log.accept("beta", put_drain("alpha", 50))
    log.accept("beta", Delete(key=key("Drain", "alpha")))
    assert log.catalog.tables.resource(key("Drain", "alpha")) is None

"""A move that is taken back to a home which is gone goes on to the one that lives; nothing of it holds for ever."""

import pytest

from discovery.core.commands import Command, RemoveCluster, ResumeRehoming, SweepRemoved, encode_command
from discovery.core.rehoming import endpoints_of
from federation.kernel.errors import Code
from tests.unit.discovery.builders import (
    Log,
    key,
    put,
    put_cluster,
    put_controller,
    put_trust_domain,
)
from tests.unit.discovery.test_rehoming import (
    ADMIN,
    AFTER,
    BACK,
    COMMIT,
    OK,
    RETURNED,
    accept,
    changed_gateway,
    moving,
    orders,
    spec_of,
)

RESUME = ResumeRehoming(cluster="delta", reason="alpha is missed")
FORCED = ResumeRehoming(cluster="delta", reason="the operator says so", forced=True)
BOTH = {"controlLost": True, "dataLost": True}
CONTROL = {"controlLost": True}


def returning() -> Log:
    """delta returns to alpha; its orders had changed already. gamma has joined, and observes."""
    log = moving()
    log.accept(
        "alpha", put_cluster("gamma"), put_trust_domain("gamma.test"), put_controller("gamma-1", "gamma")
    )
    assert log.publish("delta", orders("beta.test", 2), proposer="alpha").code == OK
    accept(log, "alpha", BACK)
    return log


def miss(log: Log, observer: str, subject: str, what: dict[str, bool]) -> None:
    log.accept(observer, put(key("Observation", subject, scope=observer), what))


def remove(log: Log, proposer: str, cluster: str) -> None:
    log.accept(proposer, put(key("Member", cluster), {"standing": "removed"}))
    accept(log, proposer, RemoveCluster(cluster=cluster, removed_by=ADMIN, forced=True))


def test_a_return_to_a_home_that_is_gone_goes_on_to_the_other_one():
    log = returning()
    assert log.send("beta", RETURNED).code == Code.FAILED_PRECONDITION  # Nobody can change back.
    for observer in ("beta", "gamma"):
        miss(log, observer, "alpha", BOTH)
    accept(log, "beta", RESUME)
    spec = spec_of(log)
    assert (spec.shown_trust_domain, spec.trust_domains) == ("beta.test", ("alpha.test", "beta.test"))
    assert spec.rehoming is not None
    assert (spec.rehoming.state, spec.rehoming.reason) == ("moving", RESUME.reason)
    log.wait(2_000)  # The lease of alpha's publisher ends.
    assert log.publish("delta", changed_gateway(), proposer="beta").code == OK
    accept(log, "beta", COMMIT)
    spec = spec_of(log)
    assert (spec.home, spec.trust_domain, spec.trust_domains) == (*AFTER, ("beta.test",))
    remove(log, "beta", "alpha")  # No longer a home.


@pytest.mark.parametrize(
    ("observer", "what", "resumed"),
    [
        pytest.param("beta", CONTROL, True, id="the-new-home-does-not-hear-it"),
        pytest.param("gamma", CONTROL, False, id="another-cluster-does-not-hear-it"),
        pytest.param("beta", {"dataLost": True}, False, id="only-its-gateways-are-away"),
    ],
)
def test_one_that_lives_is_returned_to_unless_the_new_home_misses_it(
    observer: str, what: dict[str, bool], resumed: bool
):
    log = returning()
    refused = log.send("beta", RESUME)
    assert (refused.code, "whose controllers are not missed" in refused.message) == (
        Code.FAILED_PRECONDITION,
        True,
    )
    miss(log, observer, "alpha", what)
    assert log.send("beta", RESUME).code == (OK if resumed else Code.FAILED_PRECONDITION)


def test_an_operator_of_the_new_home_goes_on_by_force_where_nobody_else_could_tell():
    log = returning()
    accept(log, "beta", FORCED)
    assert spec_of(log).shown_trust_domain == "beta.test"


@pytest.mark.parametrize(
    ("proposer", "code", "message"),
    [
        ("alpha", Code.PERMISSION_DENIED, "only beta, which it returns from, may go on"),
        ("gamma", Code.PERMISSION_DENIED, "has no say in it"),
        ("delta", Code.PERMISSION_DENIED, "has no say in it"),
    ],
)
def test_nobody_else_resumes_a_move_not_even_by_force(proposer: str, code: Code, message: str):
    log = returning()
    outcome = log.send(proposer, FORCED)
    assert (outcome.code, message in outcome.message) == (code, True)


def test_what_does_not_return_is_not_resumed():
    log = moving()
    assert "is moving, not returning" in log.send("beta", FORCED).message
    rows = (orders("beta.test", 2), changed_gateway())
    assert log.publish("delta", *rows, proposer="alpha").code == OK
    accept(log, "beta", COMMIT)
    assert "is not moving" in log.send("beta", FORCED).message


def test_a_move_that_goes_on_may_be_taken_back_and_go_on_again():
    log = returning()
    for _ in range(2):
        accept(log, "beta", FORCED)
        accept(log, "beta", BACK)
    assert log.publish("delta", orders("alpha.test", 3), proposer="alpha").code == OK
    accept(log, "alpha", RETURNED)
    assert spec_of(log).trust_domains == ("alpha.test",)


def test_of_a_move_whose_both_homes_are_gone_nothing_is_left_once_the_cluster_is_removed():
    log = returning()
    for cluster in ("delta", "alpha", "beta"):
        remove(log, "gamma", cluster)
        accept(log, "gamma", SweepRemoved(cluster=cluster, rows_max=1_000))
    assert not list(endpoints_of(log.catalog.tables, "delta"))
    log.accept("gamma", put_cluster("delta", role="remote", home="gamma", trustDomain="gamma.test", epoch=2))
    assert spec_of(log).homes == ("gamma",)


def test_older_builds_are_waited_for():
    log = returning()
    data = encode_command(Command(request_id="old", proposer="beta", body=FORCED, schema=1))
    outcome = log.entry(data)
    assert (outcome.code, "finish the upgrade first" in outcome.message) == (Code.FAILED_PRECONDITION, True)

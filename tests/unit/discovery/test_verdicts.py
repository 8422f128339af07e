"""Verdicts in the catalog: computed from observations by the state machine, forged by nobody, damped."""

import msgspec
import pytest

from discovery.core.catalog import Catalog
from discovery.core.commands import Command, Delete, Put, Write, encode_command
from discovery.core.model import Change
from discovery.core.specs import VerdictSpec, VerdictStatus
from discovery.core.verdicts import (
    DAMPING_WINDOW_MS,
    HOLD_MS_MAX,
    HOLD_MS_MIN,
    VERDICT_CHANGES_MAX,
    hold_ms,
    verdict_key,
)
from federation.kernel.errors import Code
from tests.unit.discovery.builders import Log, founded, key, put, put_cluster, put_trust_domain

FORGED = "a verdict follows from observations, nobody writes it"


def three() -> Log:
    """Primaries alpha, beta and gamma, and delta, remote with home alpha."""
    log = founded()
    log.accept("alpha", put_cluster("gamma"), put_trust_domain("gamma.test"))
    return log


def four() -> Log:
    """The same, and zeta, another primary."""
    log = three()
    spec = {"role": "primary", "trustDomain": "zeta.test"}
    log.accept("alpha", put(key("Cluster", "zeta"), spec), put_trust_domain("zeta.test"))
    return log


def observe(observer: str, subject: str, **lost: bool) -> Put:
    return put(key("Observation", subject, scope=observer), lost or {"controlLost": True, "dataLost": True})


def withdraw(observer: str, subject: str) -> Delete:
    return Delete(key=key("Observation", subject, scope=observer))


def verdict(log: Log, cluster: str = "beta") -> VerdictSpec | None:
    row = log.catalog.tables.resource(verdict_key(cluster))
    return None if row is None else msgspec.json.decode(row.spec, type=VerdictSpec)


def state(log: Log, cluster: str = "beta") -> str:
    found = verdict(log, cluster)
    return "ok" if found is None else found.state


def status(log: Log) -> VerdictStatus:
    row = log.catalog.tables.resource(verdict_key("beta"))
    assert row is not None
    return msgspec.json.decode(row.status, type=VerdictStatus)


def die(log: Log) -> None:
    for observer in ("alpha", "gamma"):
        log.accept(observer, observe(observer, "beta"))


def live(log: Log) -> None:
    for observer in ("alpha", "gamma"):
        log.accept(observer, withdraw(observer, "beta"))


def test_two_observers_make_a_verdict_and_either_lifts_it_at_once():
    log = three()
    log.tick(5_000)
    log.accept("alpha", observe("alpha", "beta"))
    assert verdict(log) == VerdictSpec(
        state="data-degraded", since_ms=5_000, control_lost_by=("alpha",), data_lost_by=("alpha",)
    )
    log.tick(6_000)
    log.accept("gamma", observe("gamma", "beta"))
    both = ("alpha", "gamma")
    assert verdict(log) == VerdictSpec(state="dead", since_ms=6_000, control_lost_by=both, data_lost_by=both)
    log.accept("gamma", observe("gamma", "beta", dataLost=True))
    assert verdict(log) == VerdictSpec(
        state="data-degraded", since_ms=6_000, control_lost_by=("alpha",), data_lost_by=both
    )
    live(log)
    assert verdict(log) == VerdictSpec(state="ok", since_ms=6_000)
    assert [change.state for change in status(log).changes] == [
        "data-degraded",
        "dead",
        "data-degraded",
        "ok",
    ]


def test_one_partition_of_one_observer_kills_nobody_however_long_it_lasts():
    log = three()
    log.accept("alpha", observe("alpha", "beta"))
    log.wait(2 * HOLD_MS_MAX)
    assert state(log) == "data-degraded"


@pytest.mark.parametrize(
    ("proposer", "operation", "code", "message"),
    [
        pytest.param("alpha", observe("gamma", "beta"), Code.PERMISSION_DENIED, "cluster alpha may not observe in the name of gamma", id="in-anothers-name"),
        pytest.param("alpha", observe("delta", "beta"), Code.PERMISSION_DENIED, "cluster alpha may not observe in the name of delta", id="in-the-name-of-its-remote"),
        pytest.param("alpha", observe("alpha", "alpha"), Code.PERMISSION_DENIED, "a cluster does not observe itself", id="about-itself"),
        pytest.param("delta", observe("delta", "beta"), Code.PERMISSION_DENIED, "delta is remote: only primaries and witnesses observe", id="by-a-remote"),
        pytest.param("alpha", observe("alpha", "omega"), Code.FAILED_PRECONDITION, "cluster omega has not joined", id="about-a-stranger"),
        pytest.param("omega", observe("omega", "beta"), Code.FAILED_PRECONDITION, "cluster omega has not joined", id="by-a-stranger"),
        pytest.param("alpha", observe("alpha", "beta", dataLost=False), Code.INVALID_ARGUMENT, "nothing is lost: delete the row instead", id="of-nothing"),
        pytest.param("alpha", put(verdict_key("beta"), {"state": "dead", "sinceMs": 1}), Code.PERMISSION_DENIED, FORGED, id="a-forged-verdict"),
        pytest.param("beta", put(verdict_key("beta"), {"state": "ok", "sinceMs": 1}), Code.PERMISSION_DENIED, FORGED, id="a-verdict-on-itself"),
    ],
)  # fmt: skip
def test_an_observer_speaks_for_itself_about_others_and_nobody_writes_a_verdict(
    proposer, operation, code, message
):
    log = three()
    outcome = log.write(proposer, operation)
    assert outcome.code == code, outcome.message
    assert message in outcome.message
    assert verdict(log) is None


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(put(verdict_key("beta"), {"state": "ok", "sinceMs": 1}), id="spec"),
        pytest.param(Put(key=verdict_key("beta"), status=b"{}"), id="status"),
        pytest.param(Delete(key=verdict_key("beta")), id="delete"),
    ],
)
@pytest.mark.parametrize("proposer", ["alpha", "beta"])
def test_a_verdict_that_stands_is_changed_by_no_command(proposer, operation):
    log = three()
    die(log)
    outcome = log.write(proposer, operation)
    assert (outcome.code, FORGED in outcome.message) == (Code.PERMISSION_DENIED, True)
    assert state(log) == "dead"


@pytest.mark.parametrize("operation", [withdraw("gamma", "beta"), observe("gamma", "beta", dataLost=True)])
def test_nobody_changes_what_another_observed(operation):
    log = three()
    die(log)
    assert log.write("alpha", operation).code == Code.PERMISSION_DENIED
    assert state(log) == "dead"


def test_a_verdict_leaves_with_its_cluster_and_so_do_the_observations_about_it():
    log = three()
    log.accept("beta", observe("beta", "gamma", dataLost=True))
    assert state(log, "gamma") == "data-degraded"
    die(log)
    log.accept("alpha", Delete(key=key("Cluster", "beta")))
    kinds = [row.split(b"\0")[1:] for row, _ in log.catalog.tables.resources.items()]
    assert not [parts for parts in kinds if parts[0] == b"Observation"]
    assert [parts[2] for parts in kinds if parts[0] == b"Verdict"] == [b"gamma"]
    assert state(log, "gamma") == "ok"


def test_the_first_death_is_found_at_once_and_each_later_one_waits_longer():
    assert [hold_ms((0,) * deaths, 1) for deaths in range(8)] == [
        0, 10_000, 20_000, 40_000, 80_000, 160_000, HOLD_MS_MAX, HOLD_MS_MAX,
    ]  # fmt: skip
    assert hold_ms((0, 0, 600_000), DAMPING_WINDOW_MS + 1) == HOLD_MS_MIN


def test_a_second_death_is_held_back_by_federation_time_and_told_by_a_tick():
    log = three()
    die(log)
    live(log)
    die(log)
    assert state(log) == "data-degraded"
    log.wait(HOLD_MS_MIN - 1)
    assert state(log) == "data-degraded"
    told: list[tuple[int, tuple[Change, ...]]] = []
    log.catalog.on_change(lambda revision, changes: told.append((revision, changes)))
    log.wait(1)
    assert state(log) == "dead"
    ((revision, (change,)),) = told
    assert (revision, change.key) == (log.index, verdict_key("beta").encode())
    assert log.catalog.revision == log.index
    live(log)
    assert state(log) == "ok"


def test_a_hold_ends_when_the_evidence_does():
    log = three()
    die(log)
    live(log)
    die(log)
    log.wait(HOLD_MS_MIN - 1)
    log.accept("alpha", withdraw("alpha", "beta"))
    log.accept("alpha", observe("alpha", "beta"))
    log.wait(HOLD_MS_MIN - 1)
    assert state(log) == "data-degraded"
    log.wait(1)
    assert state(log) == "dead"


def test_a_clock_that_jumps_by_years_ends_no_hold():
    log = three()
    die(log)
    live(log)
    die(log)
    assert log.tick(10**12).code == 0
    assert state(log) == "data-degraded"


def test_a_snapshot_keeps_a_hold_and_its_history():
    log = three()
    die(log)
    live(log)
    die(log)
    copy = Catalog()
    copy.restore(log.catalog.snapshot())
    other = Log(copy, index=log.index)
    for one in (log, other):
        one.wait(HOLD_MS_MIN)
        assert state(one) == "dead"
    assert copy.digest() == log.catalog.digest()


def test_history_and_deaths_are_bounded():
    log = three()
    for _ in range(VERDICT_CHANGES_MAX):
        die(log)
        log.wait(HOLD_MS_MAX)
        live(log)
    assert len(status(log).changes) == VERDICT_CHANGES_MAX
    assert status(log).changes[-1].state == "ok"
    assert status(log).flips > VERDICT_CHANGES_MAX


def test_only_what_changed_is_written():
    log = three()
    die(log)
    revision = log.catalog.revision
    log.accept("alpha", observe("alpha", "beta"))
    log.wait(60_000)
    log.accept("alpha", put_cluster("alpha"))
    assert log.catalog.revision == revision


def test_a_remote_cluster_goes_silent_with_its_home_and_comes_back_with_it():
    log = three()
    for observer in ("beta", "gamma"):
        log.accept(observer, observe(observer, "alpha", controlLost=True))
    assert state(log, "delta") == "control-lost"
    log.accept("beta", withdraw("beta", "alpha"))
    assert state(log, "delta") == "ok"


def test_what_a_cluster_said_before_its_member_was_removed_kills_nobody():
    """It hears the log no longer, and cannot take back what it said: gamma's word would be the word of one."""
    log = four()
    log.accept("alpha", observe("alpha", "beta"))
    log.accept("gamma", put(key("Member", "alpha"), {"standing": "removed"}))
    log.accept("gamma", observe("gamma", "beta"))
    found = verdict(log)
    assert found is not None
    assert (found.state, found.control_lost_by) == ("data-degraded", ("gamma",))


def test_a_verdict_lifts_when_the_member_is_removed_whose_word_made_it():
    log = three()
    die(log)
    assert state(log) == "dead"
    log.accept("gamma", put(key("Member", "alpha"), {"standing": "removed"}))
    assert state(log) == "data-degraded"
    # When it comes back it speaks for itself again, and takes back what is no longer so.
    log.accept("gamma", put(key("Member", "alpha"), {"standing": "learner"}))
    log.accept("alpha", withdraw("alpha", "beta"))
    log.wait(HOLD_MS_MAX)
    assert state(log) == "data-degraded"


def test_who_has_no_eyes_is_no_part_of_the_majority_that_must_miss_a_cluster():
    """Two of the three that observe are enough, though there are more primaries."""
    log = four()
    for name in ("one", "two"):
        spec = {"role": "primary", "trustDomain": f"{name}.test"}
        log.accept("alpha", put(key("Cluster", name), spec), put_trust_domain(f"{name}.test"))
        log.accept("alpha", put(key("Member", name), {"standing": "removed"}))
    die(log)
    assert state(log) == "dead"


def test_an_older_schema_knows_no_observations():
    """A member of the build before would refuse them, and answer unlike the others."""
    log = three()
    body = Write(operations=(observe("alpha", "beta"),))
    outcome = log.entry(encode_command(Command(request_id="old", proposer="alpha", body=body, schema=1)))
    assert (outcome.code, verdict(log)) == (Code.FAILED_PRECONDITION, None)
    assert "not every controller knows this kind" in outcome.message

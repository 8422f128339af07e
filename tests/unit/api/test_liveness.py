"""What people are told of verdicts: the status of a cluster, and what the doctor finds."""

from typing import Any

import pytest

from discovery.core.model import Change, Resource, pack
from discovery.core.tables import EMPTY_TABLES, Tables
from discovery.core.verdicts import verdict_key
from federation.api.doctor import Finding, problems
from federation.api.liveness import examine_clusters, states
from tests.unit.discovery.builders import put, resource
from tests.unit.discovery.test_verdicts import die, three

QUORUM = Finding(check="quorum", level="warning", subject="alpha", message="one member")


def holding(*rows: Resource) -> Tables:
    changes = tuple(Change("resources", row.key.encode(), pack(row)) for row in rows)
    return EMPTY_TABLES.with_changes(changes, 1)


def verdict(state: str, **spec: Any) -> Resource:
    return resource(put(verdict_key("beta"), {"state": state, "sinceMs": 1, **spec}))


@pytest.mark.parametrize(
    ("row", "level", "said", "next_step"),
    [
        pytest.param(
            verdict("dead", controlLostBy=["alpha", "gamma"], dataLostBy=["alpha", "gamma"]),
            "problem",
            "cluster beta is dead: controllers missed by alpha, gamma; gateways missed by alpha, gamma",
            "start its controllers and gateways",
            id="dead",
        ),
        pytest.param(
            verdict("data-degraded", dataLostBy=["gamma"]),
            "warning",
            "cluster beta is data-degraded: gateways missed by gamma",
            "open their port 15443",
            id="data-degraded",
        ),
        pytest.param(
            verdict("control-lost", controlLostBy=["gamma"]),
            "warning",
            "cluster beta is control-lost: controllers missed by gamma",
            "open their control port 7444",
            id="control-lost",
        ),
        pytest.param(
            verdict("control-lost"),
            "warning",
            "cluster beta is control-lost: its home is silent",
            "",
            id="remote",
        ),
    ],
)
def test_the_doctor_names_a_cluster_that_is_not_well_and_the_next_step(row, level, said, next_step):
    found = examine_clusters(holding(row), ())
    assert [(one.check, one.level, one.subject, one.message) for one in found] == [
        ("clusters", level, "beta", said)
    ]
    assert next_step in found[0].next_step


def test_a_dead_cluster_comes_before_what_others_found():
    found = examine_clusters(holding(verdict("dead")), [QUORUM])
    assert [one.check for one in found] == ["clusters", "quorum"]
    assert len(problems(found)) == 1


@pytest.mark.parametrize("rows", [[], [verdict("ok")]])
def test_clusters_that_are_well_are_no_finding(rows):
    found = examine_clusters(holding(*rows), [QUORUM])
    assert [(one.check, one.level) for one in found] == [("quorum", "warning"), ("clusters", "ok")]


def test_the_status_of_a_cluster_says_what_is_held_of_it_and_what_was():
    log = three()
    log.tick(1_000)
    die(log)
    found = states(log.catalog.tables)
    assert found.keys() == {"beta"}
    beta = found["beta"]
    assert (beta["state"], beta["stateSinceMs"], beta["held"]) == ("dead", 1_000, False)
    assert beta["controlLostBy"] == beta["dataLostBy"] == ("alpha", "gamma")
    history = beta["history"]
    assert isinstance(history, tuple)
    assert [change.state for change in history] == ["data-degraded", "dead"]

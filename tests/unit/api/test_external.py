"""What the doctor says of addresses outside of the mesh."""

import msgspec
import pytest
from msgspec.structs import replace

from discovery.core.condition import Condition
from discovery.core.specs import ExternalServiceStatus
from federation.api.doctor import Finding
from federation.api.external import FINDINGS_TOLD_MAX, examine_external
from tests.unit.api.test_liveness import QUORUM, holding
from tests.unit.discovery.builders import put_cluster, put_external, resource, with_states

BETA = resource(put_cluster("beta"))


def declared(name: str = "orders", **states: str):
    return with_states(
        resource(put_external("beta", "shop", name, "203.0.113.5", "203.0.113.6")),
        **{"a5": "ok", "a6": "ok", **states},
    )


def found(*rows) -> list[Finding]:
    return [one for one in examine_external(holding(BETA, *rows), [QUORUM]) if one is not QUORUM]


@pytest.mark.parametrize(
    ("states", "level", "said"),
    [
        ({}, "ok", "nothing found"),
        ({"a5": "degraded"}, "warning", "203.0.113.5 is degraded, missed by alpha"),
        ({"a5": "unhealthy"}, "warning", "203.0.113.5 is unhealthy, missed by alpha"),
        ({"a5": "unhealthy", "a6": "degraded"}, "warning", "; 203.0.113.6 is degraded, missed by alpha"),
        ({"a5": "unhealthy", "a6": "unhealthy"}, "problem", "external service orders.shop of cluster beta: "),
    ],
)
def test_a_service_with_nothing_left_is_a_problem_and_a_missed_address_a_warning(states, level, said):
    (finding,) = found(declared(**states))
    assert finding.level == level
    assert said in finding.message


def test_an_address_in_a_range_that_another_cluster_got_later_is_a_warning():
    row = declared()
    overlap = Condition(
        type="Conflict", status="True", reason="RangeOverlap", message="address 203.0.113.5 lies in it"
    )
    status = msgspec.json.decode(row.status, type=ExternalServiceStatus)
    (finding,) = found(replace(row, status=msgspec.json.encode(replace(status, conditions=(overlap,)))))
    assert (finding.level, finding.message) == (
        "warning",
        "external service orders.shop of cluster beta: address 203.0.113.5 lies in it",
    )
    healed = replace(overlap, status="False", message="")
    (finding,) = found(replace(row, status=msgspec.json.encode(replace(status, conditions=(healed,)))))
    assert finding.level == "ok"


def test_many_services_are_told_in_short_and_the_worst_first():
    rows = [declared(f"s{number}", a5="degraded") for number in range(FINDINGS_TOLD_MAX + 5)]
    told = found(*rows, declared("worst", a5="unhealthy", a6="unhealthy"))
    assert len(told) == FINDINGS_TOLD_MAX + 1
    assert told[0].subject == "worst.shop of cluster beta"
    assert "6 more findings of external services" in [one.message for one in told]

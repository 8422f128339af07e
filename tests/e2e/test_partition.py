"""Faults of the network between clusters, a gateway that dies, a drain that fails, and impostors, on one laboratory behind an emulated WAN.

A cluster is cut off for 20 s: each side goes on and grows alone, then they become one again. A link that carries one
direction only, and one that goes up and down, disturb nobody who is not behind it. Needs root.
"""

import os
from collections.abc import Iterator

import msgspec
import pytest

from chaos.lab.federation import Lab
from chaos.lab.namespaces import why_not
from chaos.load.dns_watch import Check
from chaos.load.records import Record, Result
from chaos.scenarios.catalogue import CATALOGUE
from chaos.scenarios.network import PARTITION_S
from chaos.scenarios.stage import read_log, record_path
from chaos.session import in_networks

pytestmark = pytest.mark.timeout(300)

# What each scenario must show, beside that no request fails. A check that is no longer made fails here.
RULES = {
    "gateway-kill": ("calls of catalogue move to the gateway of gamma",),
    # Before any scenario that brings alpha a service of its own, which would keep it from being drained.
    "failing-drain": (
        "assignments, gateways and dns of delta follow a step of the drain",
        "the command says whose callers saw what fail, how often, and exits with 1",
        "callers fail under the drain, and 50 times in a row not after it",
        "status and history tell why the drain was rolled back",
        "dns while alpha is drained and gets its traffic back",
    ),
    "partition": (
        "a service that is new in alpha is called on its side",
        "a service that is new in beta is called on its side",
        "the other side is out of reach meanwhile",
        "the majority has a leader and writes",
        "the minority refuses writes and says why",
        "terms do not grow while cut",
        "healing elects nobody",
        "reconnects are bounded",
        "endpoints are equal everywhere after healing",
        "no endpoint is missing after healing",
        "no endpoint vanished even for a moment",
    ),
    "one-way-partition": (
        "a leader that is not heard loses its lead",
        "one election replaces it",
        "a follower that does not hear disturbs nobody",
        "endpoints are equal everywhere after healing",
        "no endpoint is missing after healing",
        "no endpoint vanished even for a moment",
    ),
    "flapping-link": (
        "reconnects are bounded",
        "a flapping link elects nobody",
        "endpoints are equal everywhere after healing",
        "no endpoint is missing after healing",
        "no endpoint vanished even for a moment",
    ),
    "impostor": (
        "an older copy gives up its vote and brings nothing back",
        "an emptied directory does not vote before it has caught up",
        "cluster join of a stranger is refused",
        "cluster join --again of a stranger is refused",
        "both are in the audit trail",
        "a stranger at the address is refused by all and named by the doctor",
        "endpoints are equal everywhere after healing",
        "no endpoint is missing after healing",
        "no endpoint vanished even for a moment",
        "dns meanwhile",
    ),
}
SCENARIOS = {entry.name: entry.scenario for entry in CATALOGUE}


class Outcome(msgspec.Struct, frozen=True):
    result: Result
    checks: dict[str, Check]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    assert why_not() == ""
    with in_networks(tmp_path_factory.mktemp("lab"), print) as lab:
        lab.build()
        yield lab


@pytest.fixture(scope="module", params=RULES)
def outcome(request: pytest.FixtureRequest, lab: Lab) -> Outcome:
    result, checks = SCENARIOS[request.param].run(lab, print, 0.0)
    print(msgspec.json.encode(result).decode())
    for line in failures(lab, result.name):
        print(line)
    for check in checks:
        print(f"{check.name}: {check.passed}: {check.detail}")
    return Outcome(result, {check.name: check for check in checks})


def failures(lab: Lab, name: str) -> list[str]:
    """Return who failed, how, and how long after the fault it was sent."""
    record = msgspec.json.decode(record_path(lab.directory, name).read_bytes(), type=Record)
    lines = [line for caller in record.planned for line in read_log(lab.directory / f"{name}.{caller}.jsonl")]
    return [
        f"{line.caller} calls {line.service} {line.due_s - record.fault_s:.2f} s after the fault:"
        f" {line.status} after {line.took_ms:.0f} ms {line.error}"
        for line in sorted(lines, key=lambda line: line.due_s)
        if not line.ok
    ]


def test_no_request_within_a_side_fails_under_full_load(outcome: Outcome, lab: Lab) -> None:
    assert failures(lab, outcome.result.name) == []
    assert outcome.result.failed == 0
    assert outcome.result.valid


def test_every_rule_is_checked_and_holds(outcome: Outcome) -> None:
    assert set(outcome.checks) == set(RULES[outcome.result.name])
    assert [check for check in outcome.checks.values() if not check.passed] == []


def test_the_partition_lasts_as_long_as_it_says(outcome: Outcome, lab: Lab) -> None:
    if outcome.result.name != "partition":
        return
    record = msgspec.json.decode(record_path(lab.directory, "partition").read_bytes(), type=Record)
    assert record.restarted_s - record.fault_s >= PARTITION_S

"""Workload groups: what may stand in one, and whose it is."""

import json
from typing import Any

import pytest

from discovery.core.commands import Delete
from discovery.core.kinds import decode_spec
from discovery.core.specs import GROUP_LABELS_MAX, GROUP_PORTS_MAX, GroupPort, GroupProbe, WorkloadGroupSpec
from federation.kernel.errors import Code, InvalidInputError
from tests.unit.discovery.builders import founded, key, put

GOOD: dict[str, Any] = {
    "serviceAccount": "orders",
    "service": "orders",
    "ports": [{"name": "http", "port": 80}],
}
GROUP = key("WorkloadGroup", "orders", scope="delta", namespace="shop")


def decode(spec: dict[str, Any]) -> Any:
    return decode_spec("WorkloadGroup", json.dumps(spec).encode(), where="here")


def test_a_group_needs_little_and_says_the_rest_by_defaults() -> None:
    assert decode(GOOD) == WorkloadGroupSpec(
        service_account="orders",
        service="orders",
        ports=(GroupPort(name="http", port=80, protocol="http"),),
        probe=GroupProbe(kind="tcp", interval="1s", timeout="1s", failures=2, successes=1),
        labels={},
        weight=1,
    )


def ports(*entries: tuple[str, int]) -> dict[str, Any]:
    return {"ports": [{"name": name, "port": port} for name, port in entries]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serviceAccount": "A"}, "here: spec.serviceAccount: 'A' is not a name"),
        ({"service": "a.b"}, "here: spec.service: 'a.b' is not a name"),
        ({"service": 1}, "here: spec: expected `str`, got `int` - at `$.service`"),
        ({"ports": []}, f"here: spec.ports has 0 entries, expected 1 to {GROUP_PORTS_MAX}"),
        (ports(*((f"p{n}", n + 1) for n in range(33))), "here: spec.ports has 33 entries"),
        (ports(("http", 0)), "here: spec.ports[0].port is 0, expected a port from 1 to 65535"),
        (ports(("a", 1), ("b", 65_536)), "here: spec.ports[1].port is 65536"),
        (ports(("H", 80)), "here: spec.ports[0].name: 'H' is not a name"),
        (ports(("a", 80), ("b", 81), ("a", 82)), "here: spec.ports[2].name: 'a' is given twice"),
        (ports(("a", 80), ("b", 80)), "here: spec.ports[1].port: 80 is given twice"),
        ({"ports": [{"name": "a", "port": 1, "protocol": "udp"}]}, "invalid enum value 'udp' - at `$.ports[0].protocol`"),
        ({"probe": {"kind": "exec"}}, "invalid enum value 'exec' - at `$.probe.kind`"),
        ({"probe": {"interval": "1"}}, "here: spec.probe.interval: '1' is not a duration"),
        ({"probe": {"timeout": "99ms"}}, "here: spec.probe.timeout: '99ms' is shorter than 100ms"),
        ({"probe": {"path": "up"}}, "here: spec.probe.path: 'up' does not start with a slash"),
        ({"probe": {"failures": 0}}, "here: spec.probe.failures is 0, expected at least 1"),
        ({"probe": {"successes": -1}}, "here: spec.probe.successes is -1, expected at least 1"),
        ({"probe": {"httpGet": {}}}, "unknown field `httpGet` - at `$.probe`"),
        ({"weight": 0}, "here: spec.weight is 0, expected 1 to 1000"),
        ({"weight": 1_001}, "here: spec.weight is 1001"),
        ({"labels": {"": "x"}}, "here: spec.labels['']: expected a name"),
        ({"labels": {"a": "x" * 64}}, "here: spec.labels['a']: expected a name, and a value of at most 63"),
        ({"labels": {"a": "\n"}}, "here: spec.labels['a']"),
        ({"labels": {"a": 1}}, "expected `str`, got `int` - at `$.labels[...]`"),
        ({"labels": {str(n): "" for n in range(17)}}, f"here: spec.labels has 17 entries, at most {GROUP_LABELS_MAX}"),
        ({"labels": {"n" * 1_025: ""}}, "here: spec.labels have 1025 bytes, at most 1024"),
        ({"template": {}}, "unknown field `template`"),
    ],
)  # fmt: skip
def test_what_a_group_cannot_say_is_refused_naming_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode({**GOOD, **changes})
    assert message.lower() in caught.value.message.lower()
    assert len(caught.value.message) < 300


def test_a_group_is_its_clusters_or_its_homes_to_write() -> None:
    log = founded()
    assert log.write("beta", put(GROUP, GOOD)).code == Code.PERMISSION_DENIED
    log.accept("alpha", put(GROUP, GOOD))  # Home of delta.
    assert log.write("beta", Delete(key=GROUP)).code == Code.PERMISSION_DENIED
    row = log.catalog.tables.resource(GROUP)
    assert row is not None
    assert (row.owner, row.generation) == ("delta", 1)


def test_the_state_machine_refuses_a_malformed_group_whoever_proposes_it() -> None:
    log = founded()
    outcome = log.write("alpha", put(GROUP, {**GOOD, "weight": 0}))
    assert outcome.code == Code.INVALID_ARGUMENT
    assert "spec.weight is 0" in outcome.message
    assert log.catalog.tables.resource(GROUP) is None

"""The redirection as text: who is captured, what is not, and that nothing of a configuration becomes a rule."""

import msgspec
import pytest

from federation.agent.capture_rules import Capture, capture_rules
from federation.agent.config import CAPTURE_ENTRIES_MAX, AgentConfig
from federation.kernel.configfile import decode_config
from federation.kernel.errors import InvalidInputError

A1 = Capture(agent="a1", address="10.0.0.1", port=15001, exempt_users=(998,))


def chain(rules: str, name: str) -> list[str]:
    """Return the lines of one chain."""
    lines = rules.split(f"chain {name} {{\n")[1].splitlines()
    return [line.strip() for line in lines[: lines.index("  }")]]


def changed(**fields: object) -> Capture:
    return msgspec.structs.replace(A1, **fields)


def test_an_agent_without_users_takes_everybody_but_those_who_are_exempt() -> None:
    rules = capture_rules([A1])
    assert chain(rules, "output")[1:] == [
        "meta nfproto != ipv4 return",
        "meta l4proto != tcp return",
        "meta skuid { 998 } return",
        "goto agent_0",
    ]
    assert chain(rules, "agent_0") == [
        'comment "a1"',
        "ip daddr 241.0.0.0/8 meta l4proto tcp dnat ip to 10.0.0.1:15001",
        'oifname "lo" return',
        "meta l4proto tcp dnat ip to 10.0.0.1:15001",
    ]


def test_agents_with_users_are_asked_before_the_one_for_everybody_else() -> None:
    second = changed(agent="b1", address="10.0.0.2", users=(1001, 1002), exempt_users=(997, 998))
    assert chain(capture_rules([A1, second]), "output")[3:] == [
        "meta skuid { 997, 998 } return",
        "meta skuid { 1001, 1002 } goto agent_1",
        "goto agent_0",
    ]


def test_what_is_excluded_is_excluded_once() -> None:
    rules = capture_rules(
        [changed(exclude_ranges=("10.1.0.0/16", "10.0.0.0/8", "192.0.2.1/32"), exclude_ports=(25, 22, 22))]
    )
    assert chain(rules, "agent_0")[3:5] == [
        "ip daddr { 10.0.0.0/8, 192.0.2.1/32 } return",
        "tcp dport { 22, 25 } return",
    ]


def test_the_table_of_an_earlier_time_is_replaced_in_one_step() -> None:
    assert capture_rules([A1]).splitlines()[:3] == [
        "table inet isthmus",
        "delete table inet isthmus",
        "table inet isthmus {",
    ]


@pytest.mark.parametrize(
    ("captures", "message"),
    [
        pytest.param([A1, changed(agent="b1")], "both take everybody's connections", id="everybody"),
        pytest.param(
            [changed(users=(7, 8)), changed(agent="b1", users=(8,))],
            "both take the connections of user 8",
            id="a-user",
        ),
    ],
)
def test_a_connection_has_one_agent(captures: list[Capture], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        capture_rules(captures)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param('exclude_ranges = ["10.0.0.0/8; drop"]', "is not an IPv4 range", id="a-rule"),
        pytest.param('exclude_ranges = ["10.0.0.1/8"]', "is not an IPv4 range", id="host-bits"),
        pytest.param('exclude_ranges = ["fd00::/8"]', "is not an IPv4 range", id="ipv6"),
        pytest.param("exclude_ports = [0]", "0 is no port", id="port"),
        pytest.param(f"exclude_ports = {[1] * (CAPTURE_ENTRIES_MAX + 1)}", "more than 256", id="too-many"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(keys: str, message: str) -> None:
    text = f'id = "a1"\ndata_dir = "/d"\naddress = "10.0.0.1"\n[capture]\n{keys}\n'
    with pytest.raises(InvalidInputError, match=message):
        decode_config(text, AgentConfig, path="agent.toml")

"""What a configuration may say: every mistake is named with file, key and what was expected."""

from collections.abc import Callable
from typing import Any

import pytest

from federation.app.config import ControllerConfig, DnsConfig, JoinConfig
from federation.kernel.configfile import Section, decode_config
from federation.kernel.errors import InvalidInputError

CLUSTER = '[cluster]\nname = "alpha"\ntrust_domain = "alpha.example"\n'
LISTEN = '[listen]\nraft = "10.0.0.1:7443"\ncontrol = "10.0.0.1:7444"\napi = "10.0.0.1:7445"\nmetrics = "10.0.0.1:7446"\n'
CONTROLLER = f'id = "c1"\ndata_dir = "/data"\n{CLUSTER}{LISTEN}'
REMOTE = '[cluster]\nname = "delta"\nrole = "remote"\nhome = "alpha"\n'
DNS = 'id = "d1"\ndata_dir = "/data"\nlisten = ["10.0.0.1:53"]\n'


def read(text: str, schema: type[Section]) -> Any:
    return decode_config(text, schema, path="file.toml")


def swap(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def test_the_smallest_controller_has_every_default() -> None:
    config = read(CONTROLLER, ControllerConfig)
    assert (config.cluster.role, config.raft.round_trip, config.agents.lease) == ("primary", "20ms", "15s")


def test_a_witness_is_a_controller() -> None:
    text = swap(CONTROLLER, "[cluster]\n", '[cluster]\nrole = "witness"\n')
    assert read(text, ControllerConfig).cluster.role == "witness"


def test_a_remote_cluster_is_described_without_keys_and_ports() -> None:
    assert read(REMOTE, JoinConfig).cluster.home == "alpha"


def test_dns_may_listen_on_several_addresses() -> None:
    text = swap(DNS, '"10.0.0.1:53"', '"10.0.0.1:53", "[fd00::1]:53"')
    assert read(text, DnsConfig).listen == ("10.0.0.1:53", "[fd00::1]:53")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "c1"', 'id = "C1"', "id: 'C1' is not a name"),
        ('id = "c1"\n', "", "object missing required field `id`"),
        ('data_dir = "/data"\n', "", "object missing required field `data_dir`"),
        (CLUSTER, "", "object missing required field `cluster`"),
        (LISTEN, "", "object missing required field `listen`"),
        ('id = "c1"', 'id = "c1"\ncolour = 1', "object contains unknown field `colour`"),
        (CLUSTER, f"{CLUSTER}colour = 1\n", "object contains unknown field `colour` - at `$.cluster`"),
        (LISTEN, f'{LISTEN}http = "10.0.0.1:80"\n', "object contains unknown field `http` - at `$.listen`"),
        ('name = "alpha"', 'name = "alpha.b"', "cluster.name: 'alpha.b' is not a name"),
        ('name = "alpha"', f'name = "{"x" * 64}"', "cluster.name: 'xxxxxxxxxxxxxxxxxxxx'... has 64 characters"),
        ('trust_domain = "alpha.example"', "", 'cluster.trust_domain is missing: expected a name such as "alpha.example.org"'),
        ('trust_domain = "alpha.example"', 'trust_domain = "Alpha"', "cluster.trust_domain: 'Alpha' is not a name"),
        ("[cluster]\n", '[cluster]\nrole = "king"\n', "cluster.role: 'king' is not one of primary, remote, witness"),
        ("[cluster]\n", '[cluster]\nrole = "remote"\nhome = "beta"\n', "cluster.role: a remote cluster runs no controller"),
        ("[cluster]\n", '[cluster]\nrole = "remote"\n', "cluster.home: a remote cluster names its home"),
        ("[cluster]\n", '[cluster]\nhome = "beta"\n', "cluster.home: a remote cluster names its home, others have none"),
        ("[cluster]\n", '[cluster]\nranges = ["10.0.0.0/33"]\n', "cluster.ranges: '10.0.0.0/33' is not a network such as 10.0.0.0/8"),
        ("[cluster]\n", '[cluster]\nranges = ["10.0.0.1/8"]\n', "cluster.ranges: '10.0.0.1/8' is not a network"),
        ("[cluster]\n", '[cluster]\nranges = "10.0.0.0/8"\n', "expected `array`, got `str` - at `$.cluster.ranges`"),
        ("10.0.0.1:7443", "10.0.0.1", "listen.raft: '10.0.0.1' is not an address: expected host:port"),
        ("10.0.0.1:7444", "10.0.0.1:0", "listen.control: '10.0.0.1:0' is not an address"),
        ("10.0.0.1:7445", "10.0.0.1:65536", "listen.api: '10.0.0.1:65536' is not an address"),
        ("10.0.0.1:7446", ":7446", "listen.metrics: ':7446' is not an address"),
        (LISTEN, f'{LISTEN}[raft]\nround_trip = "20"\n', "raft.round_trip: '20' is not a duration"),
        (LISTEN, f"{LISTEN}[raft]\nround_trip = 20\n", "expected `str`, got `int` - at `$.raft.round_trip`"),
        (LISTEN, f'{LISTEN}[raft]\nround_trip = "251ms"\n', "raft.round_trip: '251ms' is outside 1ms to 250ms"),
        (LISTEN, f'{LISTEN}[raft]\nround_trip = "0ms"\n', "raft.round_trip: '0ms' is outside 1ms to 250ms"),
        (LISTEN, f'{LISTEN}[agents]\nlease = "1999ms"\n', "agents.lease: '1999ms' is too short: expected at least 2s"),
        (LISTEN, f'{LISTEN}[agents]\nlease = "15sec"\n', "agents.lease: '15sec' is not a duration"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_controllers_configuration_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read(swap(CONTROLLER, old, new), ControllerConfig)
    assert caught.value.message.startswith(f"file.toml: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"10.0.0.1:53"', ""), "listen is empty: expected at least one address"),
        (lambda text: text.replace(":53", ""), "listen: '10.0.0.1' is not an address"),
        (lambda text: text + 'metrics = "x"\n', "metrics: 'x' is not an address"),
        (lambda text: text.replace("d1", "D 1"), "id: 'D 1' is not a name"),
        (lambda text: text + 'cluster = "alpha"\n', "object contains unknown field `cluster`"),
    ],
)
def test_a_mistake_in_a_dns_configuration_is_named(change: Callable[[str], str], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read(change(DNS), DnsConfig)
    assert caught.value.message.startswith(f"file.toml: {message}")

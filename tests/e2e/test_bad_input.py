"""What a process finds damaged or taken when it starts: a clear error, and nothing else stops.

One cluster of real processes. What single packages can show is in tests/integration.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.lab import envoys, topology
from chaos.lab.federation import Lab
from chaos.lab.loopback import claim_block
from chaos.lab.processes import LabProcess
from chaos.lab.topology import demo_topology
from chaos.load.dns_watch import ask_dns
from tests.support.wait import eventually

WAIT_S = 60.0
CLUSTER, AGENT = "alpha", "alpha-1"
INBOUND_PORT = 15006  # Of the agent's first workload.

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with claim_block() as block:
        alpha = demo_topology(block.prefix)[0]
        with Lab((alpha,), tmp_path_factory.mktemp("lab"), print) as lab:
            lab.build()
            cache = lab.data_dir(CLUSTER, AGENT) / "xds.cache"
            eventually(cache.exists, timeout_s=60.0, message="the agent has a copy of its configuration")
            yield lab


@contextmanager
def others_go_on(lab: Lab, victim: str) -> Iterator[LabProcess]:
    """Stop one process for the block; every other one must still be the same and run after it."""
    pids = {name: process.pid for name, process in lab.processes.items() if name != f"{CLUSTER}/{victim}"}
    process = lab.processes[f"{CLUSTER}/{victim}"]
    process.kill()
    yield process
    assert pids == {name: one.pid for name, one in lab.processes.items() if one is not process}
    assert [name for name in pids if not lab.processes[name].running()] == []


def serves(lab: Lab) -> bool:
    return lab.call(CLUSTER, "catalogue")[0] == 200


def flip_byte(path: Path) -> None:
    """Damage one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_an_agent_with_a_damaged_cache_says_so_and_gets_its_configuration_anew(lab: Lab) -> None:
    cache = lab.data_dir(CLUSTER, AGENT) / "xds.cache"
    with others_go_on(lab, AGENT) as agent:
        flip_byte(cache)
        logged_bytes = agent.log_bytes()
        agent.start()
        eventually(
            lambda: agent.logged("configuration on disk not used", since_bytes=logged_bytes) and serves(lab),
            timeout_s=WAIT_S,
            message=lambda: f"the agent serves again\n{agent.tail()}",
        )
        assert agent.logged(str(cache), since_bytes=logged_bytes)
        assert cache.with_name("xds.cache.bad").exists()
        # The Envoy is fed by the new agent, and the copy is sound again.
        eventually(
            lambda: envoys.xds_pid(cache.parent) == agent.pid and cache.exists(),
            timeout_s=WAIT_S,
            message="the cache is written anew",
        )


@pytest.mark.parametrize("damage", [flip_byte, cut_short])
def test_a_dns_process_with_a_damaged_copy_never_answers_from_what_it_cannot_trust(
    lab: Lab, damage: Callable[[Path], None]
) -> None:
    copy = lab.data_dir(CLUSTER, "dns") / "catalog" / "catalog.copy"
    with others_go_on(lab, "dns") as process:
        damage(copy)
        logged_bytes = process.log_bytes()
        process.start()
        eventually(
            lambda: not ask_dns(lab, CLUSTER, "catalogue", timeout_s=0.2),
            timeout_s=WAIT_S,
            message=lambda: f"dns answers again\n{process.tail()}",
        )
        # A flipped byte spoils the base or a later record; what follows it is dropped either way.
        assert process.logged("stored copy", since_bytes=logged_bytes)
        assert any(process.logged(text, since_bytes=logged_bytes) for text in ("damaged", "cut record")), (
            process.tail()
        )


PORTS = [
    pytest.param("gateway", lambda alpha: (alpha.gateway, topology.GATEWAY_PORT), id="gateway"),
    pytest.param(AGENT, lambda alpha: (alpha.agents[0].address, INBOUND_PORT), id="agent-inbound"),
]


@pytest.mark.parametrize(("victim", "address_of"), PORTS)
def test_a_process_whose_port_is_taken_names_it_and_ends_and_starts_when_it_is_free(
    lab: Lab, victim: str, address_of: Callable[[topology.ClusterPlan], tuple[str, int]]
) -> None:
    host, port = address_of(lab.clusters[CLUSTER])
    with others_go_on(lab, victim) as process:
        logged_bytes = process.log_bytes()
        with socket.create_server((host, port)):
            process.start()
            eventually(
                lambda: not process.running(),
                timeout_s=WAIT_S,
                message=lambda: f"{victim} gives up\n{process.tail()}",
            )
            assert process.terminate() == 1
        assert process.logged("isthmus: ", since_bytes=logged_bytes)
        assert process.logged(f"{host}:{port}", since_bytes=logged_bytes), process.tail()
        assert not process.logged("Traceback", since_bytes=logged_bytes), process.tail()
        data_dir = lab.data_dir(CLUSTER, victim)
        assert envoys.envoy_pid(data_dir) == 0, "its Envoy went with it"
        process.start()
        eventually(
            lambda: envoys.envoy_pid(data_dir) != 0 and serves(lab),
            timeout_s=WAIT_S,
            message=lambda: f"{victim} serves\n{process.tail()}",
        )

"""The laboratory's plans: addresses of their own, and a shop that outlives any cluster with a controller."""

import ipaddress
from pathlib import Path

import pytest
import yaml

from chaos.lab import topology
from chaos.lab.configs import agent_config, dns_config, manifests
from chaos.lab.topology import ClusterPlan, demo_topology, routed_topology
from federation.agent.config import AgentConfig
from federation.kernel.configfile import decode_config

DEMO = demo_topology("127.200.0")


@pytest.mark.parametrize("clusters", [DEMO, routed_topology("10.77")], ids=["loopback", "routed"])
def test_every_process_has_an_address_of_its_own_in_its_clusters_range(
    clusters: tuple[ClusterPlan, ...],
) -> None:
    addresses = [address for cluster in clusters for address in cluster.addresses]

    assert len(set(addresses)) == len(addresses)
    assert all(
        ipaddress.ip_address(address) in ipaddress.ip_network(cluster.cidr)
        for cluster in clusters
        for address in cluster.addresses
    )


def test_three_members_and_a_remote_cluster() -> None:
    assert [(one.name, one.role, one.region, one.home) for one in DEMO] == [
        ("alpha", "primary", "eu-west", ""),
        ("beta", "primary", "us-east", ""),
        ("gamma", "primary", "onprem", ""),
        ("delta", "remote", "eu-west", "alpha"),
    ]


@pytest.mark.parametrize("victim", [one.name for one in DEMO if one.controller])
def test_every_service_outlives_any_cluster_that_a_disaster_kills(victim: str) -> None:
    left = {service for cluster in DEMO if cluster.name != victim for service in cluster.services}

    assert left == set(topology.SERVICES)


def test_a_purchase_crosses_clusters_wherever_it_begins() -> None:
    homes = {
        service: [cluster.name for cluster in DEMO if service in cluster.services]
        for service in topology.SERVICES
    }

    assert homes["payments"] == ["delta"]
    assert homes["frontend"] == [cluster.name for cluster in DEMO]
    assert all(1 < len(homes[service]) < len(DEMO) for service in ("catalogue", "orders"))


@pytest.mark.parametrize("agent", [pytest.param(one, id=one.name) for plan in DEMO for one in plan.agents])
def test_an_agent_says_what_it_serves_or_leaves_that_to_its_group(agent: topology.AgentPlan) -> None:
    config = decode_config(agent_config(agent, Path("data")), AgentConfig, path="agent.toml")

    assert [one.service for one in config.workload] == (
        [] if agent.group else [one.service for one in agent.workloads]
    )
    assert (config.group is not None) is bool(agent.group)


def test_on_premises_every_machine_enrolls_by_a_group_that_says_what_it_serves() -> None:
    gamma = DEMO[2]
    groups = [
        one["spec"]
        for one in yaml.safe_load_all(manifests(gamma, ("alpha.example",)))
        if one["kind"] == "WorkloadGroup"
    ]

    assert all(agent.group for agent in gamma.agents)
    assert tuple(group["service"] for group in groups) == gamma.groups


def test_captured_clusters_are_resolved_at_the_port_that_resolvers_ask() -> None:
    captured = routed_topology("10.77", capture=True)[0]

    assert f"{captured.dns}:53" in dns_config(captured, Path("data"))
    assert f"{DEMO[0].dns}:5353" in dns_config(DEMO[0], Path("data"))


def test_agents_that_share_a_network_capture_the_connections_of_users_of_their_own() -> None:
    for cluster in routed_topology("10.77", capture=True):
        captures = [
            decode_config(agent_config(agent, Path("data")), AgentConfig, path="agent.toml").capture
            for agent in cluster.agents
        ]
        assert all(one.enabled for one in captures)
        assert len({one.users for one in captures}) == len(captures)
        assert () not in {one.users for one in captures}


def test_on_loopback_nothing_is_captured() -> None:
    assert {agent.user for cluster in DEMO for agent in cluster.agents} == {0}

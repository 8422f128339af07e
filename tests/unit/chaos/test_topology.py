"""The laboratory's plans: every process has an address of its own, within its cluster's range."""

import ipaddress

import pytest

from chaos.lab.topology import ClusterPlan, demo_topology, routed_topology


@pytest.mark.parametrize(
    "clusters", [demo_topology("127.200.0"), routed_topology("10.77")], ids=["loopback", "routed"]
)
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

"""A cluster dies, or one observer loses sight of it: what three real controllers make of it, and DNS with them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.faults.network import cut_off, one_way
from chaos.lab.namespaces import Namespaces, why_not
from chaos.lab.topology import routed_topology
from tests.integration.liveness.world import Addresses, World, three_at, world_at
from tests.support.loopback import LoopbackBlock

CLUSTERS = routed_topology("10.83")[:3]


def serve_orders(world: World) -> None:
    """Every cluster has a gateway; beta alone has an instance of `orders`, which alpha's DNS knows."""
    for name in world.addresses:
        world.start_parts(name, "gateway")
    world.start_parts("beta", "agent")
    world.share_orders("beta", on_loss="withdraw")
    for name in ("alpha", "beta"):
        world.start_dns(name)
    world.until(lambda: world.ask_dns("beta") == "NOERROR", "beta's DNS knows its own orders")
    world.until(lambda: world.ask_dns("alpha") == "NOERROR", "alpha's DNS knows orders of beta")


def has_a_say(world: World, cluster: str) -> bool:
    """Whether the gateway of a cluster has told its controller what it sees of beta's."""
    _, metrics = world.installations[cluster].plain("/metrics")
    return b'isthmus_observer_gateways{cluster="beta"} 1.0' in metrics


def test_a_killed_cluster_is_found_dead_and_withdrawn_until_it_returns(
    tmp_path: Path, loopback: Callable[[], LoopbackBlock]
) -> None:
    with world_at(tmp_path, three_at(loopback())) as world:
        serve_orders(world)
        # From here on it is the gateways' word on data paths that counts.
        world.until(lambda: has_a_say(world, "alpha") and has_a_say(world, "gamma"), "gateways see beta's")
        killed_s = time.monotonic()
        world.kill("beta")
        world.until(lambda: world.ask_dns("alpha") == "NXDOMAIN", "orders is withdrawn from alpha's DNS")
        print(f"withdrawn {time.monotonic() - killed_s:.2f} s after the kill")
        verdict = world.verdict("beta")
        assert (verdict["state"], verdict["controlLostBy"], verdict["dataLostBy"]) == (
            "dead",
            ["alpha", "gamma"],
            ["alpha", "gamma"],
        )
        world.start_controller("beta")
        world.start_parts("beta", "gateway", "agent")
        world.until(lambda: world.ask_dns("alpha") == "NOERROR", "orders is back in alpha's DNS")
        world.until(lambda: world.verdict("beta")["state"] == "ok", "nobody misses beta")


def test_what_one_observer_cannot_hear_is_not_dead_and_what_nobody_hears_is(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    assert why_not() == ""
    hosts = {
        one.name: Addresses(controller=one.controller, gateway=one.gateway, dns=one.dns) for one in CLUSTERS
    }
    round_trip = f"{CLUSTERS[0].round_trip_ms}ms"
    with (
        Namespaces(CLUSTERS) as networks,
        world_at(tmp_path, hosts, place=networks, round_trip=round_trip) as world,
    ):
        serve_orders(world)

        def missed_by_alpha() -> bool:
            verdict = world.verdict("beta", asked="gamma")
            return (verdict.get("controlLostBy"), verdict.get("dataLostBy")) == (["alpha"], ["alpha"])

        with one_way(networks, "beta", "alpha"):
            world.until(missed_by_alpha, "alpha says that it misses beta in both planes")
            assert world.verdict("beta", asked="gamma")["state"] == "data-degraded"
        world.until(lambda: world.verdict("beta")["state"] == "ok", "alpha hears beta again")
        assert "dead" not in [change["state"] for change in world.verdict("beta")["changes"]]
        assert world.ask_dns("alpha") == "NOERROR"

        began_s = time.monotonic()
        with cut_off(networks, "beta"):
            world.until(lambda: world.ask_dns("alpha") == "NXDOMAIN", "nobody hears beta: it is withdrawn")
            print(f"withdrawn {time.monotonic() - began_s:.2f} s after it was cut off")
            assert world.verdict("beta")["state"] == "dead"
            assert world.ask_dns("beta") == "NOERROR"  # Its own services it sees as they are (F4).
        world.until(lambda: world.ask_dns("alpha") == "NOERROR", "orders is back in alpha's DNS")
        # By now it has read what was held of it meanwhile.
        world.until(lambda: world.verdict("beta", asked="beta").get("changes"), "beta has caught up")
        assert world.ask_dns("beta") == "NOERROR"

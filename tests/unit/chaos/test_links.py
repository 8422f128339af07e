"""A link keeps each packet for its delay within the jitter, in order, and loses the share that it is told to."""

from pathlib import Path
from random import Random

import pytest

from chaos.lab import regions
from chaos.lab.configs import controller_config
from chaos.lab.links import Link, Links
from chaos.lab.topology import demo_topology, routed_topology
from federation.app.config import ControllerConfig, RaftSection
from federation.kernel.configfile import decode_config

PACKETS = 10_000


def links(link: Link, *, queues: int = 1) -> Links:
    made = Links(queues, Random(1))
    for queue in range(queues):
        made.change(queue, link)
    return made


@pytest.mark.parametrize(
    ("link", "earliest_s", "latest_s"),
    [
        pytest.param(Link(), 0.0, 0.0, id="at-once"),
        pytest.param(Link(delay_ms=40), 0.040, 0.040, id="delay"),
        pytest.param(Link(delay_ms=40, jitter_ms=5), 0.035, 0.045, id="delay-and-jitter"),
    ],
)
def test_a_packet_goes_on_after_the_delay_and_not_before(
    link: Link, earliest_s: float, latest_s: float
) -> None:
    for packet in range(100):
        one = links(link)
        assert one.take(0, packet, 10.0)
        due_s = one.next_due_s()
        assert due_s is not None
        assert 10.0 + earliest_s <= due_s <= 10.0 + latest_s
        assert list(one.release(due_s - 1e-6)) == []
        assert [held.packet for held in one.release(due_s)] == [packet]
        assert one.next_due_s() is None


def test_packets_of_a_link_stay_in_order_whatever_the_jitter() -> None:
    one = links(Link(delay_ms=40, jitter_ms=40))
    for packet in range(PACKETS):
        one.take(0, packet, packet / PACKETS)
    assert [held.packet for held in one.release(10.0)] == list(range(PACKETS))


def test_a_slow_link_does_not_hold_up_another() -> None:
    both = links(Link(), queues=2)
    both.change(0, Link(delay_ms=500))
    both.take(0, 1, 0.0)
    both.take(1, 2, 0.0)
    assert [(held.queue, held.packet) for held in both.release(0.0)] == [(1, 2)]


def test_a_change_does_not_let_later_packets_overtake_earlier_ones() -> None:
    one = links(Link(delay_ms=500))
    one.take(0, 1, 0.0)
    one.change(0, Link())
    one.take(0, 2, 0.1)
    assert [held.packet for held in one.release(0.5)] == [1, 2]


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.3, 1.0])
def test_the_share_of_packets_that_a_link_loses_is_what_it_was_told(loss: float) -> None:
    one = links(Link(loss=loss))
    lost = sum(not one.take(0, packet, 0.0) for packet in range(PACKETS))
    assert lost / PACKETS == pytest.approx(loss, abs=0.02)
    assert len(list(one.release(0.0))) == PACKETS - lost


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param({"loss": 1.1}, "loss is 1.1", id="loss-above-all"),
        pytest.param({"loss": -0.1}, "loss is -0.1", id="loss-below-none"),
        pytest.param({"delay_ms": 1, "jitter_ms": 2}, "jitter_ms is 2", id="jitter-above-delay"),
        pytest.param({"delay_ms": -1}, "jitter_ms is 0 at delay_ms -1", id="delay-below-zero"),
    ],
)
def test_what_no_link_can_do_is_refused(fields: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Link(**fields)


def test_regions_are_apart_the_same_both_ways_and_near_themselves() -> None:
    assert regions.round_trip_ms("eu-west", "us-east") == regions.round_trip_ms("us-east", "eu-west") == 80
    assert regions.round_trip_ms("eu-west", "eu-west") == regions.SAME_REGION_MS
    assert regions.longest_round_trip_ms(["eu-west", "us-east", "onprem", "eu-west"]) == 90
    assert regions.longest_round_trip_ms(["eu-west"]) == regions.SAME_REGION_MS
    assert regions.longest_round_trip_ms([]) == regions.SAME_REGION_MS


def test_half_the_round_trip_is_spent_each_way_with_little_jitter() -> None:
    for one in routed_topology("10.77"):
        for other in routed_topology("10.77"):
            link = regions.link(one.region, other.region)
            assert 2 * link.delay_ms == regions.round_trip_ms(one.region, other.region)
            assert 0 < link.jitter_ms <= 0.1 * link.delay_ms


def test_members_are_told_a_round_trip_that_covers_the_longest_between_them() -> None:
    clusters = routed_topology("10.77")
    longest_ms = regions.longest_round_trip_ms(one.region for one in clusters if one.controller)
    for cluster in clusters:
        assert longest_ms < cluster.round_trip_ms <= 1.2 * longest_ms
    written = controller_config(clusters[0], Path("/data"))
    config = decode_config(written, ControllerConfig, path="controller.toml")
    assert config.raft.round_trip == f"{clusters[0].round_trip_ms}ms"
    on_loopback = decode_config(
        controller_config(demo_topology("127.1.2")[0], Path("/data")),
        ControllerConfig,
        path="controller.toml",
    )
    assert on_loopback.raft == RaftSection()

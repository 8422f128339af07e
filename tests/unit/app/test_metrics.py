"""Figures of the log: what Prometheus reads is what the engine counted."""

import re
from types import SimpleNamespace

from prometheus_client import CollectorRegistry, generate_latest

from certs.runtime.clock import utc_now
from consensus.core.contract import LATENCY_BOUNDS_US, Counters, Histogram, PeerStatus, Status
from discovery.core.catalog import Catalog
from federation.api.audit import AuditTrail
from federation.app.metrics import ControllerCollector
from federation.app.traces import Tracer

LEADER = Status(
    id="alpha",
    role="leader",
    term=3,
    leader="alpha",
    commit_index=90,
    applied_index=88,
    members=("alpha", "beta"),
    connected=("beta",),
    journal_bytes=1,
    snapshot_index=0,
    last_leader_contact_ms_ago=0,
    last_index=100,
    peers=(
        PeerStatus(id="beta", is_voter=True, match_index=95, last_contact_ms_ago=1_500),
        PeerStatus(id="gamma", is_voter=False, match_index=0, last_contact_ms_ago=None),
    ),
)


def scraped(status: Status, counters: Counters) -> dict[str, float]:
    parts = SimpleNamespace(
        engine=SimpleNamespace(status=lambda: status, counters=lambda: counters),
        catalog=Catalog(),
        feed=SimpleNamespace(subscribers=0),
        xds=SimpleNamespace(status=tuple),
        traces=SimpleNamespace(tracer=Tracer(clock=lambda: 0.0, unix_ms=lambda: 0)),
        audit=AuditTrail(),
        registries={},
        snapshot_unix_ms=lambda: 0,
        credentials=SimpleNamespace(leaf=SimpleNamespace(not_after=utc_now())),
    )
    registry = CollectorRegistry()
    registry.register(ControllerCollector(parts))
    text = generate_latest(registry).decode()
    return {name: float(value) for name, value in re.findall(r"^(isthmus\S+) (\S+)$", text, re.MULTILINE)}


def test_a_leader_shows_how_far_each_of_the_others_is() -> None:
    found = scraped(LEADER, Counters())

    assert found["isthmus_raft_applied_lag_entries"] == 2
    assert found['isthmus_raft_peer_lag_entries{member="beta"}'] == 5
    assert found['isthmus_raft_peer_lag_entries{member="gamma"}'] == 100
    assert found['isthmus_raft_peer_contact_age_seconds{member="beta"}'] == 1.5
    assert 'isthmus_raft_peer_contact_age_seconds{member="gamma"}' not in found
    assert (found['isthmus_raft_role{role="leader"}'], found['isthmus_raft_role{role="follower"}']) == (1, 0)


def test_a_duration_counts_in_its_bucket_and_in_all_above() -> None:
    counters = Counters()
    for duration_us in (250, 251, 10_000_000):
        counters.journal_sync.observe(duration_us)
    found = scraped(LEADER, counters)

    bucket = 'isthmus_raft_journal_sync_seconds_bucket{le="%s"}'
    assert [found[bucket % bound] for bound in ("0.00025", "0.0005", "2.5", "+Inf")] == [1, 2, 2, 3]
    assert found["isthmus_raft_journal_sync_seconds_count"] == counters.journal_syncs == 3
    assert found["isthmus_raft_journal_sync_seconds_sum"] == 10.000501


def test_a_histogram_has_a_place_for_every_duration() -> None:
    histogram = Histogram()
    for duration_us in (0, *LATENCY_BOUNDS_US, LATENCY_BOUNDS_US[-1] + 1):
        histogram.observe(duration_us)
    assert histogram.counts == [2, *(1 for _ in LATENCY_BOUNDS_US[1:]), 1]

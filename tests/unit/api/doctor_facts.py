"""A healthy federation of alpha, which leads, beta and gamma, as facts for the doctor."""

from typing import Any

from msgspec.structs import replace

from consensus.core.contract import PeerStatus
from federation.api.health import AgentsHealth, Health, MemberHealth

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
MEMBERS = ("alpha", "beta", "gamma")


def healthy(cluster: str) -> Health:
    leads = cluster == "alpha"
    return Health(
        controller=f"{cluster}-c1",
        cluster=cluster,
        version="0.1.0",
        unix_ms=NOW_MS,
        started_unix_ms=NOW_MS - DAY_MS,
        incarnation=1,
        revision=90,
        role="leader" if leads else "follower",
        term=2,
        leader="alpha",
        last_index=100,
        commit_index=100,
        applied_index=100,
        journal_bytes=1_000,
        leader_contact_ms=10,
        voters=MEMBERS,
        leaf_expires_ms=NOW_MS + DAY_MS,
        intermediate_expires_ms=NOW_MS + 7 * DAY_MS,
        root_expires_ms=NOW_MS + 3_650 * DAY_MS,
        disk_free_bytes=1 << 34,
        disk_total_bytes=1 << 36,
        peers=(peer("beta"), peer("gamma")) if leads else (),
        agents=(AgentsHealth(cluster=cluster, live=3),),
    )


def peer(member: str, **changes: Any) -> PeerStatus:
    return replace(PeerStatus(id=member, is_voter=True, match_index=100, last_contact_ms_ago=20), **changes)


def member(cluster: str) -> MemberHealth:
    return MemberHealth(
        id=cluster,
        controller=f"{cluster}-c1",
        raft="10.0.0.1:7443",
        is_witness=False,
        health=healthy(cluster),
        clock_error_ms=2,
    )

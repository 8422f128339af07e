"""What a leader knows of the other copies of its log, and what follows from it."""

from collections.abc import Iterable

from msgspec import Struct

from consensus.core.contract import PeerStatus


class Replica(Struct, frozen=True):
    """Another member or a learner; times are the engine's clock."""

    id: str
    is_voter: bool
    is_connected: bool
    match_index: int
    answered_s: float | None  # Its last answer, or when this leadership began.


def majority_time_s(answered_s: Iterable[float], now_s: float) -> float:
    """Return when a majority of the voters, this leader among them, had last answered; the others' answers are given."""
    times = sorted([now_s, *answered_s], reverse=True)
    return times[len(times) // 2]


def answering(replicas: Iterable[Replica], since_s: float) -> set[str]:
    """Return the other voters that answered since then."""
    return {replica.id for replica in replicas if replica.is_voter and (replica.answered_s or 0.0) >= since_s}


def peer_statuses(replicas: Iterable[Replica], now_s: float) -> tuple[PeerStatus, ...]:
    """Return what the status says of them, by name."""
    return tuple(
        PeerStatus(
            id=replica.id,
            is_voter=replica.is_voter,
            match_index=replica.match_index,
            last_contact_ms_ago=(
                None if replica.answered_s is None else max(0, int((now_s - replica.answered_s) * 1000))
            ),
        )
        for replica in sorted(replicas, key=lambda replica: replica.id)
    )

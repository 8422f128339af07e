"""What a member publishes of itself after each turn: cheap to make, turned into a Status when somebody asks."""

from msgspec import Struct

from consensus.core.contract import Role, Status
from consensus.core.membership import Membership, voter_ids
from consensus.runtime.replicas import Replica, peer_statuses


class View(Struct, frozen=True, kw_only=True):
    """One moment of a member; times are the engine's clock. See Status for what the fields mean."""

    id: str
    role: Role
    membership: Membership
    term: int = 0
    leader: str | None = None
    commit_index: int = 0
    applied_index: int = 0
    directory: str = ""
    connected: tuple[str, ...] = ()
    journal_bytes: int = 0
    snapshot_index: int = 0
    problem: str = ""
    last_index: int = 0
    replicas: tuple[Replica, ...] = ()  # Of a leader.
    contact_s: float | None = None  # When a leader was last heard; for a leader, its quorum.
    complete_s: float | None = None  # As of when the local state is complete,
    under_way_ms: int = 0  # but for the time that a leader's word takes.

    def status(self, now_s: float) -> Status:
        """Return what callers may know; ages grow even when the engine stands still."""
        return Status(
            id=self.id,
            role=self.role,
            term=self.term,
            leader=self.leader,
            commit_index=self.commit_index,
            applied_index=self.applied_index,
            members=voter_ids(self.membership.voters),
            learners=voter_ids(self.membership.learners),
            directory=self.directory,
            voting_directories=self.membership.incarnations,
            connected=self.connected,
            journal_bytes=self.journal_bytes,
            snapshot_index=self.snapshot_index,
            last_leader_contact_ms_ago=_age_ms(self.contact_s, now_s),
            state_age_ms=_age_ms(self.complete_s, now_s, more_ms=self.under_way_ms),
            problem=self.problem,
            last_index=self.last_index,
            peers=peer_statuses(self.replicas, now_s),
        )


def _age_ms(time_s: float | None, now_s: float, *, more_ms: int = 0) -> int | None:
    return None if time_s is None else max(0, int((now_s - time_s) * 1000)) + more_ms

"""Bugs, each of them one that consensus implementations have had. The checks must notice every one.

They are subclasses and wrappers of the ports; the engine itself has no switch for any of them.
"""

from collections.abc import Sequence
from pathlib import Path

import pysyncobj.syncobj
from msgspec import Struct
from msgspec.structs import replace
from pysyncobj.node import Node

from consensus.core.contract import Applied
from consensus.core.messages import Append, Appended
from consensus.core.proposals import Proposal, finish_all
from consensus.core.records import Base
from consensus.runtime.hardened import HardenedRaft
from consensus.runtime.library import Net
from consensus.runtime.member import Member
from consensus.runtime.proposer import Proposer
from consensus.runtime.store import Store
from discovery.core.catalog import Catalog
from discovery.core.commands import AcquireLease, LeaseGrant
from discovery.core.draft import Draft
from discovery.core.leases import LeaseTime
from discovery.core.model import Change
from tests.simulation.checks import Checks
from tests.simulation.disk import SimDisk
from tests.simulation.machine import WatchedCatalog
from tests.simulation.member import Parts
from tests.simulation.scripts import FullWhileCutBack, KilledBeforeTheSync, LateAnswers, TwoCandidates
from tests.simulation.world import World


class SkipsTheSync(SimDisk):
    """fdatasync returns and did nothing."""

    def sync_data(self, descriptor: int) -> None:
        self._operation()


class BelievesThePageCache(SimDisk):
    """A file that is opened again counts as durable, whatever its last process had synced."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._reopened: set[int] = set()

    def open_append(self, path: Path) -> int:
        descriptor = super().open_append(path)
        self._reopened.add(descriptor)
        return descriptor

    def sync(self, descriptor: int) -> None:
        if descriptor not in self._reopened:
            super().sync(descriptor)


class _RaftMember(Member):
    raft_type: type[HardenedRaft]

    def _make_raft(self, store: Store, net: Net) -> HardenedRaft:
        raft = super()._make_raft(store, net)
        raft.__class__ = self.raft_type
        return raft


def _with_raft(raft: type[HardenedRaft]) -> Parts:
    return Parts(member=type(f"Member{raft.__name__}", (_RaftMember,), {"raft_type": raft}))


class _ProposerMember(Member):
    proposer_type: type[Proposer]

    def _make_raft(self, store: Store, net: Net) -> HardenedRaft:
        raft = super()._make_raft(store, net)
        raft.proposer.__class__ = self.proposer_type
        return raft


def _with_proposer(proposer: type[Proposer]) -> Parts:
    return Parts(member=type(f"Member{proposer.__name__}", (_ProposerMember,), {"proposer_type": proposer}))


class AnswersBeforeTheQuorum(Proposer):
    """The leader acknowledges what it has appended."""

    def _append(self, group: list[Proposal], command: bytes, term: int) -> None:
        finish_all(group, Applied(index=self._journal.last_index + 1, term=term, result=b""))
        super()._append(group, command, term)


class ReadsWithoutBarrier(Proposer):
    """Whoever is asked answers from its own state."""

    def _answer_now(self, group: list[Proposal]) -> None:
        finish_all(group, Applied(index=self._store.applied_index, term=self._journal.term, result=b""))

    def _append(self, group: list[Proposal], command: bytes, term: int) -> None:
        if group[0].kind == "barrier":
            self._answer_now(group)
        else:
            super()._append(group, command, term)

    def _forward(self, group: list[Proposal], leader: str | None, now_s: float) -> None:
        if group[0].kind == "barrier":
            self._answer_now(group)
        else:
            super()._forward(group, leader, now_s)


class AcceptsStaleReplies(HardenedRaft):
    """An answer to an earlier leadership counts for this one."""

    def _on_appended(self, sender: str, message: Appended) -> None:
        super()._on_appended(sender, replace(message, term=max(message.term, self.term)))


class CountsLearners(HardenedRaft):
    """What a learner holds counts for a voter."""

    def _on_appended(self, sender: str, message: Appended) -> None:
        super()._on_appended(sender, message)
        if Node(sender) in self._SyncObj__readonlyNodes:
            for node in self._SyncObj__otherNodes:
                super()._on_appended(node.id, message)


class CommitsUnverified(HardenedRaft):
    """A follower takes the leader's commit index for its own log, whatever that holds."""

    def _on_append(self, sender: str, message: Append) -> None:
        super()._on_append(sender, message)
        commit = min(message.commit_index, self._journal.last_index)
        if message.term == self.term and commit > self.commit_index:
            self._SyncObj__raftCommitIndex = commit


class TruncatesWithoutConflict(HardenedRaft):
    """Each append removes everything behind what it brings, as the library does."""

    def _on_append(self, sender: str, message: Append) -> None:
        end = message.prev_index + len(message.entries)
        fits = self._journal.term_at(message.prev_index) == message.prev_term
        if message.term == self.term and fits and self.commit_index < end < self._journal.last_index:
            self._journal.truncate(end + 1)
        super()._on_append(sender, message)


class _CampaignsAtOnce(HardenedRaft):
    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802 # the library's name
        if not self.is_voter or self._store.applied_index < self.commit_index:
            return False
        self._votes = set()
        return True


class ForgetsTheVote(_RaftMember):
    """After a restart the vote of the term is free again. Without pre-vote: with it a term has one candidate."""

    raft_type = _CampaignsAtOnce

    def open_store(self) -> Store:
        store = super().open_store()
        store.journal.voted_for = None
        return store


class DropsTheJournalBelowASnapshot(Member):
    """A snapshot newer than the journal's base makes the whole journal worthless (pysyncobj's D1)."""

    def open_store(self) -> Store:
        store = super().open_store()
        journal, index = store.journal, store.snapshot_index
        if index > journal.base.index:
            term = journal.term_at(index) or 0
            journal.commit_index = index
            journal.rewrite(Base(index=index, term=term, voters=store.voters), [])
        return store


class AppliesTwiceAfterRestart(Member):
    """The first entry behind a snapshot is the last one in it."""

    def open_store(self) -> Store:
        store = super().open_store()
        if store.applied_index > store.journal.base.index:
            store.applied_index -= 1
        return store


class _OwnTimeCatalog(Catalog):
    def _acquire(self, draft: Draft, proposer: str, request: AcquireLease) -> LeaseGrant:
        replicated = self._lease_time
        own_ms = int(pysyncobj.syncobj.monotonicTime() * 1000)
        self._lease_time = LeaseTime(now_ms=own_ms, ticked_ms=own_ms)
        try:
            return super()._acquire(draft, proposer, request)
        finally:
            self._lease_time = replicated


class ExpiresLeasesByItsOwnClock(WatchedCatalog):
    """Each member judges a lease by its own time instead of the replicated one."""

    def __init__(self, name: str, checks: Checks) -> None:
        super().__init__(name, checks)
        self.catalog = _OwnTimeCatalog()


class _RepeatingCatalog(Catalog):
    def history(self, after_revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        news = super().history(after_revision)
        return [*news[:1], *news] if len(news) > 1 else news


class DeliversAnEventTwice(WatchedCatalog):
    """A watch that catches up gets its first event twice."""

    def __init__(self, name: str, checks: Checks) -> None:
        super().__init__(name, checks)
        self.catalog = _RepeatingCatalog()


class _SkippingCatalog(Catalog):
    def history(self, after_revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        news = super().history(after_revision)
        return news[1:] if len(news) > 1 else news


class SkipsAnEvent(WatchedCatalog):
    """A watch that catches up misses its first event."""

    def __init__(self, name: str, checks: Checks) -> None:
        super().__init__(name, checks)
        self.catalog = _SkippingCatalog()


class _LeftoverStore(Store):
    def step_snapshot(self) -> None:
        self._applied_term = self.journal.term_at(self.applied_index) or self._applied_term
        super().step_snapshot()


class SnapshotsNameTheLogsTerm(Member):
    """A snapshot takes its term from the log, which may have something else there than the state machine."""

    def open_store(self) -> Store:
        store = super().open_store()
        store.__class__ = _LeftoverStore
        return store


class Bug(Struct, frozen=True, kw_only=True):
    """A planted bug, what provokes it, the seeds within which it must show, and as what."""

    parts: Parts
    seeds: int
    rules: tuple[str, ...]
    plan: str = "mixed"
    world: type[World] = World


_DURABLE = "committed means durable at a majority"
_STAY = "committed entries stay"
_COMPLETE = "a leader has every committed entry"
_STOPS = "nobody stops without a fault"
_PREFIX = "equal applied prefixes"
_ALL = "a watch delivers all"
_CONVERGES = "a healed federation converges"

BUGS: dict[str, Bug] = {
    "skips the sync": Bug(parts=Parts(disk=SkipsTheSync), seeds=3, rules=(_DURABLE,)),
    "believes the page cache": Bug(
        parts=Parts(disk=BelievesThePageCache), world=KilledBeforeTheSync, seeds=2, rules=(_DURABLE,)
    ),
    "answers before the quorum": Bug(
        parts=_with_proposer(AnswersBeforeTheQuorum), seeds=3, rules=("acknowledged means committed",)
    ),
    "reads without barrier": Bug(
        parts=_with_proposer(ReadsWithoutBarrier), seeds=5, rules=("no stale read behind a barrier",)
    ),
    "accepts stale replies": Bug(
        parts=_with_raft(AcceptsStaleReplies),
        plan="elections",
        world=LateAnswers,
        seeds=2,
        rules=(_DURABLE, _STAY),
    ),
    "counts learners": Bug(
        parts=_with_raft(CountsLearners), plan="members", seeds=10, rules=(_DURABLE, _STAY)
    ),
    "commits unverified": Bug(
        parts=_with_raft(CommitsUnverified), seeds=10, rules=(_PREFIX, _STAY, _COMPLETE)
    ),
    "truncates without conflict": Bug(
        parts=_with_raft(TruncatesWithoutConflict),
        plan="elections",
        seeds=20,
        rules=(_DURABLE, _STAY, _COMPLETE),
    ),
    "forgets the vote": Bug(
        parts=Parts(member=ForgetsTheVote),
        plan="elections",
        world=TwoCandidates,
        seeds=12,
        rules=("one vote in a term", "one leader in a term"),
    ),
    "drops the journal": Bug(
        parts=Parts(member=DropsTheJournalBelowASnapshot),
        plan="disk",
        seeds=40,
        # The last: those who notice that they forgot give up their votes, until nobody can lead.
        rules=(_COMPLETE, _STAY, _DURABLE, _STOPS, "one vote in a term", _CONVERGES),
    ),
    "names the log's term in snapshots": Bug(
        parts=Parts(member=SnapshotsNameTheLogsTerm),
        plan="elections",
        world=FullWhileCutBack,
        seeds=5,
        rules=(_STOPS, _STAY),
    ),
    "applies twice after a restart": Bug(
        parts=Parts(member=AppliesTwiceAfterRestart),
        plan="disk",
        seeds=10,
        rules=("each entry is applied once",),
    ),
    "expires leases by its own clock": Bug(
        parts=Parts(machine=ExpiresLeasesByItsOwnClock),
        seeds=5,
        rules=(_PREFIX, "equal watches", "equal states in the end"),
    ),
    "delivers an event twice": Bug(
        parts=Parts(machine=DeliversAnEventTwice), seeds=3, rules=("a watch delivers once, in order",)
    ),
    "skips an event": Bug(parts=Parts(machine=SkipsAnEvent), seeds=3, rules=(_ALL,)),
}

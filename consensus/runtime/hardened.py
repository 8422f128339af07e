"""pysyncobj 0.3.17 with its unsafe parts replaced: the only module that touches its private names.

Kept of the library: the tick, elections and votes, the commit rule. Replaced, because as shipped it
loses acknowledged writes (the package's README lists how): log storage, every message handler but
the vote's, replication, snapshots, apply, the command queue and membership.

    message  --receive--> journal in memory --+
    proposal --tick-----> journal in memory --+--finish_cycle--> fdatasync --> acknowledgements leave

Appends leave before the leader's own fdatasync; its own copy counts in the next cycle, behind it
(Ongaro, "Consensus: Bridging Theory and Practice", section 10.2.1). So an idle write costs one
fdatasync and one round trip, and whatever comes meanwhile shares the next one.
"""

from collections.abc import Callable
from typing import Any

import structlog
from pysyncobj import SyncObj

from consensus.core.contract import Counters, MemberAddress, Role
from consensus.core.elections import Elections
from consensus.core.membership import KIND_MEMBERSHIP, voter_ids
from consensus.core.messages import (
    Append,
    Appended,
    Forgotten,
    Message,
    PreVote,
    PreVoteAnswer,
    Propose,
    Proposed,
    Refused,
    RequestVote,
    SnapshotChunk,
    SnapshotProgress,
    TimeoutNow,
    VoteGranted,
)
from consensus.core.promises import Promise
from consensus.core.proposals import ProposalTable
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK, Clock
from consensus.runtime.following import Acknowledgements, Freshness, Match, follow_log
from consensus.runtime.library import (
    LogForLibrary,
    NoPoller,
    Peer,
    VotesForLibrary,
    Wire,
    check_version,
    library_settings,
)
from consensus.runtime.memory import Memory
from consensus.runtime.proposer import Proposer
from consensus.runtime.replicas import Replica, majority_time_s
from consensus.runtime.sending import Heartbeat, News, send_entries, sooner
from consensus.runtime.store import Store
from consensus.runtime.transfers import Transfers

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2  # pysyncobj's _RAFT_STATE.
ROLES: tuple[Role, ...] = ("follower", "candidate", "leader")

APPLY_SLICE_S = 0.02  # Heartbeats go on during a long replay.

_log = structlog.get_logger(__name__)


class HardenedRaft(SyncObj):  # type: ignore[misc] # the library has no types
    """One member's Raft state. All methods belong to the engine's thread.

    `receive` takes messages, `doTick(0)` runs timers, commits, applies and takes proposals,
    `finish_cycle` makes durable what both recorded and lets the acknowledgements leave.
    """

    _SyncObj__raftLeader: Any
    _SyncObj__otherNodes: Any
    _SyncObj__readonlyNodes: Any
    _SyncObj__raftElectionDeadline: Any

    def __init__(
        self,
        me: MemberAddress,
        *,
        store: Store,
        wire: Wire,
        timing: Timing,
        proposals: ProposalTable,
        counters: Counters,
        applied: Callable[[int], None],
        voters_changed: Callable[[], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_version()
        self._me = me
        self._clock = clock
        self._store = store
        self._journal = store.journal
        self._wire = wire
        self._timing = timing
        self._proposals = proposals
        self._counters = counters
        self._applied_callback = applied
        self._voters_changed = voters_changed
        self._memory = Memory(me.id, store=store, wire=wire, clock=clock, timing=timing)
        self._votes_out = VotesForLibrary(wire, lambda: self._memory.since)
        self._elections = Elections(timeout_s=timing.election_min_ms / 1000)
        self._transfers = Transfers(store, wire)
        self.proposer = Proposer(me.id, table=proposals, store=store, wire=wire, timing=timing)
        self._votes: set[str] = set()
        self._learners: set[str] = set()
        self._probing: set[str] = set()  # Followers whose log end is not known: they get no entries.
        self._acknowledgements = Acknowledgements()
        self._freshness = Freshness()
        self._news = News()
        # The library's __init__ looks at every attribute, so ours are set before it.
        others = [Peer(voter.id) for voter in store.voters if voter.id != me.id]
        super().__init__(Peer(me.id), others, library_settings(timing), transport=self._votes_out)
        self._poller = NoPoller()
        self._SyncObj__serializer: Any = None  # It would pickle: any use of it must fail.
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__raftLog: Any = LogForLibrary(store.journal)
        self._SyncObj__raftCurrentTerm = max(store.journal.term, store.journal.last_term)
        self._SyncObj__votedForNodeId = store.journal.voted_for
        self._SyncObj__raftCommitIndex = store.journal.commit_index
        self._SyncObj__raftLastApplied = store.applied_index
        if not others:  # Nobody else can lead: there is nobody to wait for.
            self._SyncObj__raftElectionDeadline = clock.now_s()

    # What the engine reads.

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """Newest entry known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def is_leader(self) -> bool:
        """True while this member believes that it leads."""
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def is_voter(self) -> bool:
        """True when the applied membership gives this member, on this directory, a vote."""
        return self._memory.has_vote

    @property
    def problem(self) -> str:
        """For Status."""
        return self._memory.problem

    @property
    def role(self) -> Role:
        """For Status."""
        if self.is_voter:
            return ROLES[self._SyncObj__raftState]
        return "learner" if self._me.id in voter_ids(self._store.membership.learners) else "joining"

    @property
    def leader_id(self) -> str | None:
        """The leader that this member knows of, possibly a former one."""
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def leader_contact_s(self) -> float | None:
        """When a leader was last heard; for a leader, when a majority last answered it."""
        if not self.is_leader:
            return self._elections.heard_s
        answers = self._SyncObj__lastResponseTime
        others = [answers.get(node, 0.0) for node in self._SyncObj__otherNodes]
        return majority_time_s(others, self._clock.now_s())

    def complete_as_of_s(self, contact_s: float | None) -> float | None:
        """As of when the local state is complete, but for the time that a leader's word takes.

        `contact_s` is `leader_contact_s` of this moment.
        """
        if self.has_finished_election:
            self._freshness.told(self.commit_index, contact_s or 0.0)
        return self._freshness.as_of_s(self._store.applied_index)

    def replicas(self) -> list[Replica]:
        """Return the other copies of the log as a leader knows them; for others the answers are old."""
        voters, answers = self._SyncObj__otherNodes, self._SyncObj__lastResponseTime
        match = self._SyncObj__raftMatchIndex
        return [
            Replica(
                node.id,
                node in voters,
                node in self._SyncObj__connectedNodes,
                match.get(node, 0),
                answers.get(node),
            )
            for node in voters | self._SyncObj__readonlyNodes
        ]

    @property
    def rest_s(self) -> float | None:
        """In how long the next cycle has work that no event announces; 0: at once, None: only events bring some."""
        is_alone = self.is_leader and len(self._store.voters) == 1
        if (
            self._store.applied_index < self.commit_index
            or self._store.is_writing_snapshot
            or (is_alone and self._journal.last_index > self.commit_index)
        ):
            return 0.0
        return sooner(self.proposer.rest_s, self._news.rest_s)

    # What the engine does.

    def receive(self, sender: str, message: Message) -> None:
        """Handle a message of an authenticated peer."""
        if not self._memory.admit(sender, message):
            return
        match message:
            case Append():
                self._on_append(sender, message)
            case Appended():
                self._on_appended(sender, message)
            case Forgotten():
                if self._memory.forget(message):
                    self._step_down(self.term)
            case RequestVote():
                self._on_request_vote(sender, message)
            case VoteGranted():
                self._on_vote(sender, message)
            case TimeoutNow():
                self._on_timeout_now(sender, message)
            case PreVote():
                self._on_pre_vote(sender, message)
            case PreVoteAnswer():
                self._on_pre_vote_answer(sender, message)
            case SnapshotChunk():
                self._on_chunk(sender, message)
            case SnapshotProgress():
                self._on_progress(sender, message)
            case Propose() | Proposed() | Refused():
                self.proposer.receive(sender, message, self._clock.now_s())

    def finish_cycle(self) -> None:
        """Make everything durable, then acknowledge it; raises UnavailableError when the disk fails."""
        self._memory.save()
        self._journal.flush()
        for member_id, message in self._acknowledgements.take(self.term):
            self._wire.send(member_id, message)

    def peer_changed(self, member_id: str, is_connected: bool) -> None:
        """Begin or end sending to a peer."""
        node = Peer(member_id)
        self._transfers.end(member_id)
        if is_connected:
            self._SyncObj__connectedNodes.add(node)
            self._probing.add(member_id)
            if self._SyncObj__raftLeader is None:
                self._votes_out.repeat(member_id, self.term)
            if node in self._SyncObj__raftNextIndex:
                self._SyncObj__raftNextIndex[node] = self._journal.last_index + 1
                self._SyncObj__raftMatchIndex[node] = 0  # It may have come back with less.
        else:
            self._SyncObj__connectedNodes.discard(node)
            if member_id == self.leader_id:
                self._proposals.leader_lost()
                deadline_s = self._clock.now_s() + self._elections.gone(fraction=self._clock.fraction())
                self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, deadline_s)
        self._update_learners()

    def set_learners(self, member_ids: set[str]) -> None:
        """Copy the log to these while they are connected and do not vote."""
        self._learners = member_ids
        self._update_learners()

    def close(self) -> None:
        """Release the files that are being copied to others."""
        self._transfers.end_all()

    # Terms and elections.

    def _be_follower(self, term: int) -> None:
        is_newer = term > self.term
        self._elections.forget(is_newer_term=is_newer)
        if is_newer:
            self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._transfers.end_all()
        now_s = self._clock.now_s()
        if not self._elections.is_called(now_s):  # Else it is about to campaign, as its leader asked.
            self._SyncObj__raftElectionDeadline = now_s + self._SyncObj__generateRaftTimeout()

    def _follow(self, leader: str, term: int) -> None:
        """Accept `leader` of `term`, which is not below ours."""
        node = Peer(leader)
        self._be_follower(term)
        if self._SyncObj__raftLeader != node:
            self._proposals.leader_lost()
            self._SyncObj__raftLeader = node
        self._elections.heard(self._clock.now_s())

    def _step_down(self, term: int) -> None:
        self._be_follower(term)
        self._SyncObj__raftLeader = None

    def _hears_leader(self) -> bool:
        return self.is_leader or self._elections.hears_leader(self._clock.now_s())

    def _on_request_vote(self, sender: str, message: RequestVote) -> None:
        if self._memory.problem:
            return  # It may have given this vote away before it forgot.
        # A member that was cut off, or removed, must not depose a leader that works (Ongaro, section 4.2.3).
        if message.term > self.term and self._hears_leader() and not message.called:
            return
        SyncObj._SyncObj__onMessageReceived(  # noqa: SLF001 # the library's own vote, kept
            self,
            Peer(sender),
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            },
        )

    def _on_vote(self, sender: str, message: VoteGranted) -> None:
        is_voter = Peer(sender) in self._SyncObj__otherNodes
        if message.term != self.term or sender in self._votes or not is_voter:
            return
        self._votes.add(sender)
        vote = {"type": "response_vote", "term": message.term}
        SyncObj._SyncObj__onMessageReceived(self, Peer(sender), vote)  # noqa: SLF001 # the library's own count, kept

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802 # the library's name
        """Return a random election timeout in seconds."""
        low_ms, high_ms = self._timing.election_min_ms, self._timing.election_max_ms
        return (low_ms + (high_ms - low_ms) * self._clock.fraction()) / 1000

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802 # the library's name
        """May this member campaign? The library asks only when its election deadline has passed."""
        if not self.is_voter or self._store.applied_index < self.commit_index:
            return False  # An unapplied entry may change who votes.
        others = {node.id for node in self._SyncObj__otherNodes}
        now_s = self._clock.now_s()
        self._votes_out.is_called = self._elections.is_called(now_s)
        if self._elections.begin_campaign(others, now_s):
            self._votes = set()
            self._counters.campaigns += 1
            return True
        question = self._elections.ask(
            now_s, term=self.term + 1, last=self._journal.last, since=self._memory.since
        )
        if question is not None:
            # Silent for a whole election timeout: no longer named to callers.
            self._SyncObj__raftLeader = None
            self._proposals.leader_lost()
            for member_id in others:
                self._wire.send(member_id, question)
        return False

    def _on_timeout_now(self, sender: str, message: TimeoutNow) -> None:
        if message.term == self.term and sender == self.leader_id and self.is_voter:
            self._elections.call(self._clock.now_s())
            self._SyncObj__raftElectionDeadline = 0

    def _on_pre_vote(self, sender: str, message: PreVote) -> None:
        answer = self._elections.answer(
            message,
            may_help=not self._hears_leader() and not self._memory.problem,
            term=self.term,
            last=self._journal.last,
            since=self._memory.since,
        )
        self._wire.send(sender, answer)
        if answer.granted:  # It is about to campaign: of two candidates at a time often neither wins.
            until_s = self._clock.now_s() + self._timing.heartbeat_ms / 1000 * (1 + self._clock.fraction())
            self._SyncObj__raftElectionDeadline = max(self._SyncObj__raftElectionDeadline, until_s)

    def _on_pre_vote_answer(self, sender: str, message: PreVoteAnswer) -> None:
        pre_voting = self._elections.pre_voting
        if self._hears_leader() or not pre_voting.is_current(message):
            return
        if message.term > self.term:
            self._step_down(message.term)  # We could never win below it.
        else:
            pre_voting.take(sender, message)

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802 # the library's name
        """Begin a leadership; its no-op is durable before anybody counts it."""
        self._probing = set()
        self._transfers.end_all()
        SyncObj._SyncObj__onBecomeLeader(self)  # noqa: SLF001 # extended, not replaced
        self._journal.flush()
        _log.info("became leader", member=self._me.id, term=self.term)

    def _SyncObj__onLeaderChanged(self) -> None:  # noqa: N802 # the library's name
        self._proposals.leader_lost()

    # A follower's side of replication.

    def _acknowledge(self, leader: str, match: Match | None = None) -> None:
        self._acknowledgements.put(leader, term=self.term, since=self._memory.since, match=match)

    def _on_append(self, sender: str, message: Append) -> None:
        if message.term < self.term:
            self._wire.send(
                sender, Appended(term=self.term, next_index=0, since=self._memory.since)
            )  # The stale leader steps down.
            return
        self._follow(sender, message.term)
        self._memory.learn(message.promises)
        if message.prev_index == 0:  # A copy waits for our answer, which may have been lost.
            held = self._store.held(sender, message.term)
            if held is not None:
                self._wire.send(sender, held)
            self._acknowledge(sender, None if held else Match(False, self._journal.last_index + 1))
            return
        self._freshness.told(message.commit_index, self._clock.now_s() - message.quorum_age_ms / 1000)
        match = follow_log(self._journal, message)
        verified = min(message.commit_index, match.next_index - 1)
        if match.is_match and verified > self.commit_index:
            self._SyncObj__raftCommitIndex = verified
            self._journal.commit(verified)
        if not (message.is_notice and match.is_match):
            self._acknowledge(sender, match)

    def _on_chunk(self, sender: str, message: SnapshotChunk) -> None:
        if message.term < self.term:
            self._wire.send(sender, Appended(term=self.term, next_index=0, since=self._memory.since))
            return
        self._follow(sender, message.term)
        held: int | None = None
        if message.index > self.commit_index:
            held = self._store.receive(sender, message)
            if held is None:
                self._after_install()
        if held is None:
            self._acknowledge(sender, Match(is_match=True, next_index=self.commit_index + 1))
        else:
            self._wire.send(sender, SnapshotProgress(term=self.term, index=message.index, offset=held))

    def _after_install(self) -> None:
        index = self._store.applied_index
        self._SyncObj__raftLastApplied = index
        # Of the log, not of the state machine: that may be further (Store, `progress`).
        self._SyncObj__raftCommitIndex = max(self.commit_index, self._store.snapshot_index)
        self._proposals.skipped(index)
        self._adopt_voters()
        self._applied_callback(index)

    # A leader's side of replication.

    def _on_appended(self, sender: str, message: Appended) -> None:
        if message.term > self.term:
            self._step_down(message.term)
            return
        node = Peer(sender)
        if message.term < self.term or not self.is_leader or node not in self._SyncObj__raftNextIndex:
            return
        counts = self._memory.counts(sender)
        if counts:
            self._SyncObj__lastResponseTime[node] = self._clock.now_s()
        match, next_index = self._SyncObj__raftMatchIndex[node], self._SyncObj__raftNextIndex[node]
        last_index = self._journal.last_index
        if message.matched:
            match = max(match, min(message.next_index - 1, last_index))
            next_index = max(next_index, match + 1)
            self._probing.discard(sender)
            self._transfers.arrived(sender, match)
        elif message.mismatch:
            next_index = min(max(message.next_index, match + 1), last_index + 1)
            self._probing.add(sender)
            self._transfers.missed(sender)
        else:
            return
        # The copy of a directory without a vote has no part in a majority.
        self._SyncObj__raftMatchIndex[node] = match if counts else 0
        self._SyncObj__raftNextIndex[node] = next_index
        if next_index <= last_index or message.mismatch:
            self._send_to(sender, self._heartbeat())

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 # the library's name
        """Send each follower and learner what it lacks, or a heartbeat."""
        now_s = self._clock.now_s()
        self._news.sent(self._journal.last_index, self.commit_index, now_s)
        self._SyncObj__newAppendEntriesTime = now_s + self._timing.heartbeat_ms / 1000
        self._send_to_all(self._heartbeat(self._memory.gossip(self.term, self.commit_index)))

    def announce(self) -> None:
        """Tell the followers of a new commit: behind the callers, who wait for nothing else, and without an answer."""
        if self.is_leader and self._news.is_due(self.commit_index, self._clock.now_s(), self.proposer):
            self._send_to_all(self._heartbeat(is_notice=True))

    def _send_to_all(self, heartbeat: Heartbeat) -> None:
        for node in self._SyncObj__otherNodes | self._SyncObj__readonlyNodes:
            if node in self._SyncObj__connectedNodes:
                self._send_to(node.id, heartbeat)

    def _heartbeat(self, promises: tuple[Promise, ...] = (), *, is_notice: bool = False) -> Heartbeat:
        quorum_age_s = self._clock.now_s() - (self.leader_contact_s or 0.0)
        return Heartbeat(
            term=self.term,
            commit_index=self.commit_index,
            promises=promises,
            quorum_age_ms=max(0, int(quorum_age_s * 1000)),
            is_notice=is_notice,
        )

    def _send_to(self, member_id: str, heartbeat: Heartbeat) -> None:
        journal = self._journal
        node = Peer(member_id)
        next_index = self._SyncObj__raftNextIndex[node]
        if member_id in self._transfers or next_index <= journal.base.index:
            self._transfers.send(member_id, self.term)
            return
        self._SyncObj__raftNextIndex[node] = send_entries(
            self._wire, journal, member_id, next_index, heartbeat, is_probe=member_id in self._probing
        )

    def _on_progress(self, sender: str, message: SnapshotProgress) -> None:
        if message.term > self.term:
            self._step_down(message.term)
        elif message.term == self.term and self.is_leader:
            self._SyncObj__lastResponseTime[Peer(sender)] = self._clock.now_s()
            self._transfers.advance(sender, message)

    # Apply, snapshots.

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802 # the library's name
        """Apply what is committed, for at most APPLY_SLICE_S; nothing of it is to be sent at once."""
        before = self._store.applied_index
        until_s = self._clock.now_s() + APPLY_SLICE_S
        while self._store.applied_index < self.commit_index and self._clock.now_s() < until_s:
            entry, result = self._store.apply_next()
            self._SyncObj__raftLastApplied = entry.index
            self._proposals.applied(entry.index, entry.term, result)
            if entry.command[:1] == KIND_MEMBERSHIP:
                self._adopt_voters()
        if self._store.applied_index > before:
            self._applied_callback(self._store.applied_index)
        return False

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802 # the library's name
        self._store.step_snapshot()

    # Membership.

    def _adopt_voters(self) -> None:
        """Make the library count the voters that were just applied."""
        others = {Peer(member_id) for member_id in voter_ids(self._store.voters) if member_id != self._me.id}
        gone = self._SyncObj__otherNodes - others
        if self.is_leader:
            self._SyncObj__sendAppendEntries()  # A removed member hears of it while it still listens.
        self._SyncObj__otherNodes = others
        for node in gone:
            self._SyncObj__raftNextIndex.pop(node, None)
            self._SyncObj__raftMatchIndex.pop(node, None)
        for node in others:
            self._track(node)
            self._SyncObj__lastResponseTime[node] = self._clock.now_s()
        self._update_learners()
        if self.is_leader and not self.is_voter:
            self._step_down(self.term)
        self._voters_changed()

    def _update_learners(self) -> None:
        voters = self._SyncObj__otherNodes
        ids = self._learners | set(voter_ids(self._store.membership.learners)) - {self._me.id}
        learners = {Peer(member_id) for member_id in ids} & self._SyncObj__connectedNodes - voters
        for node in self._SyncObj__readonlyNodes - learners - voters:
            self._SyncObj__raftNextIndex.pop(node, None)
            self._SyncObj__raftMatchIndex.pop(node, None)
        self._SyncObj__readonlyNodes = learners
        for node in learners:
            self._track(node)

    def _track(self, node: Any) -> None:
        if node not in self._SyncObj__raftNextIndex:
            self._SyncObj__raftNextIndex[node] = self._journal.last_index + 1
            self._SyncObj__raftMatchIndex[node] = 0
            self._probing.add(node.id)

    # Proposals.

    @property
    def has_finished_election(self) -> bool:
        """True when the no-op of this leadership is applied, and with it every change before."""
        return bool(self.is_leader and self._store.applied_index >= self._SyncObj__noopIDx)

    def incarnation(self, member_id: str) -> str:
        """Return the directory that a member works on, empty when it is not known."""
        return self._memory.incarnation(member_id)

    def _checkCommandsToApply(self) -> None:  # noqa: N802 # the library's name
        self.proposer.turn(self, self._clock.now_s())
        if self.is_leader and self._journal.last_index > self._news.sent_index:
            self._SyncObj__sendAppendEntries()

"""One member on real files, driven turn by turn against scripted peers."""

from pathlib import Path

from consensus.core.contract import Counters, MemberAddress
from consensus.core.messages import Appended, Message, VoteGranted
from consensus.core.proposals import Outcome, Proposal, ProposalTable
from consensus.core.timing import Timing
from consensus.runtime.clock import SYSTEM_CLOCK
from consensus.runtime.disk import FILE_DISK, Disk
from consensus.runtime.hardened import HardenedRaft
from consensus.runtime.store import Store
from tests.integration.consensus.cluster import Journalled

SNAPSHOT_AFTER_BYTES = 3_000


class Promised:
    """Every promise that left the member, over all its starts."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []  # Whose proposers were told that they are done.
        self.held: dict[int, int] = {}  # Index of an entry that was acknowledged: its term.
        self.votes: dict[int, str] = {}  # Term: who got the vote.


class OneMember:
    """The first of `voters`; `end` and construction anew are a restart."""

    def __init__(
        self, directory: Path, voters: tuple[MemberAddress, ...], promised: Promised, disk: Disk = FILE_DISK
    ) -> None:
        self.machine = Journalled()
        self.promised = promised
        self.sent: list[tuple[str, Message]] = []
        self.store = Store(
            directory,
            founding_voters=voters,
            machine=self.machine,
            counters=Counters(),
            snapshot_after_bytes=SNAPSHOT_AFTER_BYTES,
            disk=disk,
        )
        self._table = ProposalTable()
        self.raft = HardenedRaft(
            voters[0],
            store=self.store,
            wire=self,
            timing=Timing(),
            proposals=self._table,
            counters=Counters(),
            applied=lambda _index: None,
            voters_changed=lambda: None,
        )
        for voter in voters[1:]:
            self.raft.peer_changed(voter.id, True)

    def send(self, member_id: str, message: Message) -> bool:
        self.sent.append((member_id, message))
        if isinstance(message, VoteGranted):
            assert self.promised.votes.setdefault(message.term, member_id) == member_id, "two votes in a term"
        if isinstance(message, Appended) and message.matched:
            journal = self.store.journal
            for index in range(journal.base.index + 1, message.next_index):
                term = journal.term_at(index)
                assert term is not None
                self.promised.held[index] = term
        return True

    def backlog_bytes(self, member_id: str) -> int:
        return 0

    def cycle(self, *messages: tuple[str, Message]) -> None:
        for sender, message in messages:
            self.raft.receive(sender, message)
        self.raft.doTick(0.0)
        self.raft.finish_cycle()

    def lead_alone(self) -> None:
        """Win the election of one."""
        self.raft._SyncObj__raftElectionDeadline = 0
        while not self.raft.is_leader:
            self.cycle()

    def write(self, command: bytes) -> None:
        """Propose, and work until the proposer has its answer."""
        answers: list[Outcome] = []
        deadline_s = SYSTEM_CLOCK.now_s() + 100
        self._table.submit(Proposal("command", command, deadline_s=deadline_s, finish=answers.append))
        while not answers:
            self.cycle()
        self.promised.commands.append(command)

"""What this member remembers of the others' promises, and what it says of its own directory."""

import structlog

from consensus.core.membership import Membership, voter_ids
from consensus.core.messages import (
    PROMISES_MAX,
    Appended,
    Forgotten,
    Message,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    VoteGranted,
)
from consensus.core.promises import Promise, PromiseTable, Standing
from consensus.core.timing import Timing
from consensus.runtime.clock import Clock, new_id
from consensus.runtime.library import Wire
from consensus.runtime.store import Store

DIRECTORIES_LEFT_MAX = 8  # Of one member, whose late messages are not believed.
SAVE_S = 1.0  # Promises reach the journal this often at most; between, the other members remember.

_log = structlog.get_logger(__name__)


class Memory:
    """Belongs to the engine's thread."""

    def __init__(self, me: str, *, store: Store, wire: Wire, clock: Clock, timing: Timing) -> None:
        self._me = me
        self._store = store
        self._journal = store.journal
        self._wire = wire
        self._clock = clock
        self._gossip_s = timing.heartbeat_ms / 1000
        self._table = PromiseTable(store.journal.promises)
        self._told: set[tuple[str, int]] = (
            set()
        )  # Members, and their starts, that were told to have forgotten.
        self._late_s = timing.connection_silent_ms / 1000  # Nothing that a connection carries is later.
        self._present: dict[str, str] = {}  # The directory that each member was last heard from...
        self._heard_s: dict[str, float] = {}  # ... and when.
        self._left: dict[str, tuple[str, ...]] = {}  # Those that it was heard from before.
        # Asked several times in each turn, so remembered for what it was judged on.
        self._judged: tuple[Membership | None, str] = (None, "")
        self._has_vote = False
        self._gossip_at_s = 0.0
        self._save_at_s = 0.0
        self.since = self._stand()

    @property
    def has_vote(self) -> bool:
        """True when the applied membership gives a vote to this directory."""
        judged = (self._store.membership, self._journal.incarnation)
        if judged[0] is not self._judged[0] or judged[1] != self._judged[1]:
            self._judged, self._has_vote = judged, self._judge(*judged)
        return self._has_vote

    def _judge(self, membership: Membership, directory: str) -> bool:
        if self._me not in voter_ids(membership.voters):
            return False
        named = membership.incarnation(self._me)
        return named == directory if named else self._journal.is_original

    @property
    def problem(self) -> str:
        """Why this member has no vote although its name has one; empty when all is well."""
        if self.has_vote or self._me not in voter_ids(self._store.voters):
            return ""
        return "its directory lost what it had acknowledged: it has no vote until it is promoted again"

    def incarnation(self, member: str) -> str:
        """Return the directory that `member` works on, empty when it is not known."""
        return self._journal.incarnation if member == self._me else self._present.get(member, "")

    def counts(self, member: str) -> bool:
        """True unless the vote of `member` belongs to another directory than the one it works on."""
        named, present = self._store.membership.incarnation(member), self.incarnation(member)
        return not named or not present or named == present

    def admit(self, sender: str, message: Message) -> bool:
        """Return whether `message` may take part; remembers what it promises."""
        if not isinstance(message, PreVote | PreVoteAnswer | RequestVote | VoteGranted | Appended):
            return True
        since = message.since
        if not self._is_present(sender, since):
            return False
        if (promise := self._table.broken(sender, since)) is not None:
            self._tell(sender, since, promise)
            return False
        # A pre-vote asks about a term that its sender has not entered.
        term = message.term - 1 if isinstance(message, PreVote) else message.term
        if not isinstance(message, Appended):
            self._table.note(sender, since, term=term)
            return self.counts(sender)
        self._table.note(sender, since, term=term, index=message.next_index - 1 if message.matched else 0)
        return True  # A learner's too; the leader counts those of voters only.

    def learn(self, promises: tuple[Promise, ...]) -> None:
        """Take a leader's word for what others promised."""
        for promise in promises:
            if promise.member != self._me:
                self._table.learn(promise)

    def gossip(self, term: int, commit_index: int) -> tuple[Promise, ...]:
        """Return what followers are to remember, once for each heartbeat: if we die, they know."""
        now_s = self._clock.now_s()
        if now_s < self._gossip_at_s:
            return ()
        self._gossip_at_s = now_s + self._gossip_s
        mine = Promise(
            member=self._me,
            incarnation=self.since.incarnation,
            run=self.since.run,
            term=term,
            index=commit_index,
        )
        return (mine, *self._of_voters())[:PROMISES_MAX]

    def save(self) -> None:
        """Add what was promised since to the journal's next batch, now and then."""
        now_s = self._clock.now_s()
        if now_s >= self._save_at_s:
            self._save_at_s = now_s + SAVE_S
            promises = self._of_voters()
            if promises != self._journal.promises:
                self._journal.remember(promises)

    def forget(self, message: Forgotten) -> bool:
        """Give up this directory's vote if it did hold less than it promised; True when it did."""
        since = self.since
        is_meant = (message.incarnation, message.run) == (since.incarnation, since.run)
        if not is_meant or (message.term, message.index) <= (since.term, since.last_index):
            return False
        _log.error(
            "this directory lost what it had acknowledged, it gives up its vote",
            member=self._me,
            promised=(message.term, message.index),
            held=(since.term, since.last_index),
        )
        self._journal.renew(self._clock)
        self.since = self._stand()
        return True

    def _of_voters(self) -> tuple[Promise, ...]:
        voters = set(voter_ids(self._store.voters))
        return tuple(promise for promise in self._table.newest() if promise.member in voters)

    def _stand(self) -> Standing:
        journal = self._journal
        return Standing(
            incarnation=journal.incarnation,
            run=new_id(self._clock),
            term=max(journal.term, journal.last_term),
            last_index=journal.last_index,
        )

    def _is_present(self, sender: str, since: Standing) -> bool:
        """Note which directory the sender works on; False for late words of one that it has left.

        Which of two is the older nobody says: of a member's words from both, only those of the one that it
        works on go on for longer than others can be late.
        """
        now_s, directory = self._clock.now_s(), since.incarnation
        present, left = self._present.get(sender), self._left.get(sender, ())
        if directory in left and now_s - self._heard_s[sender] < self._late_s:
            return False
        if present != directory:
            self._present[sender] = directory
            if present:
                others = (name for name in left if name != directory)
                self._left[sender] = (*others, present)[-DIRECTORIES_LEFT_MAX:]
        self._heard_s[sender] = now_s
        return True

    def _tell(self, sender: str, since: Standing, promise: Promise) -> None:
        if (sender, since.run) not in self._told:
            self._told = {*self._told, (sender, since.run)} if len(self._told) < PROMISES_MAX else set()
            _log.error(
                "peer lost what it had acknowledged",
                peer=sender,
                promised=(promise.term, promise.index),
                held=(since.term, since.last_index),
            )
        forgotten = Forgotten(
            incarnation=promise.incarnation, term=promise.term, index=promise.index, run=since.run
        )
        self._wire.send(sender, forgotten)

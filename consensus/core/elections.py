"""May this member campaign, and whom would it help? Terms and votes themselves are Raft's.

    silent for an election timeout --> ask for pre-votes --> majority --> campaign
    called by the leader itself, to hand over ------------------------> campaign

Pure: callers supply time and send the messages.
"""

from collections.abc import Set as AbstractSet

from consensus.core.messages import PreVote, PreVoteAnswer
from consensus.core.prevote import PreVoting
from consensus.core.promises import Standing

# Of the shortest election timeout: at least two heartbeats, and far enough apart for two members to differ.
GONE_MIN, GONE_MAX = 0.4, 0.8


class Elections:
    """One member's view. `timeout_s` is the shortest election timeout."""

    def __init__(self, *, timeout_s: float) -> None:
        self.heard_s: float | None = None  # When a leader last spoke.
        self.pre_voting = PreVoting(round_s=timeout_s)
        self._timeout_s = timeout_s
        self._called_until_s = 0.0
        self._is_gone = False

    def hears_leader(self, now_s: float) -> bool:
        """True while a leader spoke within the shortest election timeout, and its connection stands."""
        return not self._is_gone and self.heard_s is not None and now_s - self.heard_s < self._timeout_s

    def gone(self, *, fraction: float) -> float:
        """The connection to the leader broke: return for how many seconds it may still be heard, drawn by `fraction`.

        A process that died closes its connections, and need not be waited for as for one that is only
        silent. A leader that lives is heard within a heartbeat, a fifth of the timeout, over its own
        connection to this member.
        """
        self._is_gone = True
        return (GONE_MIN + (GONE_MAX - GONE_MIN) * fraction) * self._timeout_s

    def heard(self, now_s: float) -> None:
        """A leader spoke."""
        self.heard_s = now_s
        self._is_gone = False
        self.pre_voting.end()

    def call(self, now_s: float) -> None:
        """The leader asks this member to campaign at once."""
        self._called_until_s = now_s + self._timeout_s

    def is_called(self, now_s: float) -> bool:
        """True until the campaign that the leader asked for begins, or its time is over."""
        return now_s < self._called_until_s

    def forget(self, *, is_newer_term: bool) -> None:
        """Follow somebody, or nobody: the round is over, and in a newer term the call too."""
        self.pre_voting.end()
        if is_newer_term:
            self._called_until_s = 0.0

    def begin_campaign(self, others: AbstractSet[str], now_s: float) -> bool:
        """True, once, when this member was called or won its pre-vote among `others`."""
        if not self.is_called(now_s) and not self.pre_voting.is_won(others, now_s):
            return False
        self.forget(is_newer_term=True)
        return True

    def ask(self, now_s: float, *, term: int, last: tuple[int, int], since: Standing) -> PreVote | None:
        """Return the question of a new round, None while one is running. `last`: term and index."""
        return self.pre_voting.begin(now_s, term=term, last_term=last[0], last_index=last[1], since=since)

    def answer(
        self, question: PreVote, *, may_help: bool, term: int, last: tuple[int, int], since: Standing
    ) -> PreVoteAnswer:
        """Return the answer of a member of `term` whose log ends with `last`."""
        granted = may_help and question.term > term and (question.last_term, question.last_index) >= last
        return PreVoteAnswer(round=question.round, granted=granted, term=term, since=since)

"""Pre-vote: would a majority elect me? Asked before a term is raised (Ongaro, section 9.6).

Without it a member that was cut off comes back with a higher term and deposes a leader that works.
Pure: callers supply time and send the messages.
"""

from collections.abc import Set as AbstractSet

from consensus.core.messages import PreVote, PreVoteAnswer
from consensus.core.promises import Standing


class PreVoting:
    """The current round of one member."""

    def __init__(self, *, round_s: float) -> None:
        self._round_s = round_s
        self._round = 0
        self._began_s: float | None = None
        self._granted: set[str] = set()

    def is_won(self, others: AbstractSet[str], now_s: float) -> bool:
        """True when a majority of this member and `others` said yes in the running round."""
        if not others:
            return True
        if self._began_s is None or now_s - self._began_s > self._round_s:
            return False
        return 2 * (len(self._granted & others) + 1) > len(others) + 1

    def begin(
        self, now_s: float, *, term: int, last_index: int, last_term: int, since: Standing
    ) -> PreVote | None:
        """Return the question of a new round, None while one is running."""
        if self._began_s is not None and now_s - self._began_s <= self._round_s:
            return None
        self._round += 1
        self._began_s = now_s
        self._granted = set()
        return PreVote(round=self._round, term=term, last_index=last_index, last_term=last_term, since=since)

    def take(self, sender: str, answer: PreVoteAnswer) -> None:
        """Count an answer to the running round."""
        if answer.round == self._round and answer.granted:
            self._granted.add(sender)

    def is_current(self, answer: PreVoteAnswer) -> bool:
        """True for an answer to the running round."""
        return self._began_s is not None and answer.round == self._round

    def end(self) -> None:
        """Forget the round: a leader spoke, or the campaign began."""
        self._began_s = None
        self._granted = set()

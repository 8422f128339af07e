"""What the members' wall clocks show, as each tells its peers."""

from consensus.runtime.clock import Clock


class PeerClocks:
    """Filled by the transport, read from any thread. A reading goes on by this member's own steady clock."""

    def __init__(self, me: str, clock: Clock) -> None:
        self._me = me
        self._clock = clock
        self._ahead_ms: dict[str, int] = {}  # Of a peer's wall clock to our steady one.

    def told(self, member_id: str, unix_ms: int) -> None:
        """Note what a peer says that its clock shows; 0: it does not say."""
        if unix_ms:
            self._ahead_ms[member_id] = unix_ms - self._steady_ms()

    def forget(self, member_id: str) -> None:
        """A peer is no longer connected: what its clock shows is not known any more."""
        self._ahead_ms.pop(member_id, None)

    def own_unix_ms(self) -> int:
        """Return what this member's own wall clock shows."""
        return self._clock.unix_ms()

    def read(self) -> dict[str, int]:
        """Return what each clock shows now, by member; late by the way of a frame, and a millisecond."""
        now_ms = self._steady_ms()
        # A copy in one step: the transport's thread goes on.
        known = self._ahead_ms.copy()
        return {self._me: self.own_unix_ms()} | {name: ahead + now_ms for name, ahead in known.items()}

    def _steady_ms(self) -> int:
        return int(self._clock.now_s() * 1000)

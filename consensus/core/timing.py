"""Every time limit of the embedded engine, derived from one measured quantity.

Raft needs heartbeat << election timeout << time between failures (Ongaro, "Consensus: Bridging
Theory and Practice", section 3.9). A round trip bounds the first from below; below the LAN minimum
a pause of the Python process, not the network, is what an election timeout must outlast.
"""

from msgspec import Struct

ELECTION_MIN_MS = 500
ROUND_TRIPS_PER_ELECTION = 10
ROUND_TRIP_MS_MAX = 250  # Beyond this the engine is not tested.


class Timing(Struct, frozen=True, kw_only=True):
    """Limits for members whose slowest round trip to each other is `round_trip_ms`.

    Up to 50 ms: elections after 500 to 1000 ms, heartbeats each 100 ms. At 250 ms: elections after
    2.5 to 5 s, heartbeats each 500 ms.
    """

    round_trip_ms: int = 10

    @property
    def election_min_ms(self) -> int:
        """A follower that hears no leader for this long may campaign."""
        return max(ELECTION_MIN_MS, ROUND_TRIPS_PER_ELECTION * self.round_trip_ms)

    @property
    def election_max_ms(self) -> int:
        """Upper end of the random election timeout."""
        return 2 * self.election_min_ms

    @property
    def heartbeat_ms(self) -> int:
        """An idle leader writes to each follower this often."""
        return self.election_min_ms // 5

    @property
    def leader_fallback_ms(self) -> int:
        """A leader without answers from a majority for this long steps down."""
        return 2 * self.election_max_ms

    @property
    def tick_ms(self) -> int:
        """Timers are looked at this often when nothing else happens."""
        return self.heartbeat_ms // 4

    @property
    def connection_silent_ms(self) -> int:
        """A connection without a frame for this long is closed; its dialer pings three times as often."""
        return 3 * self.election_max_ms

    @property
    def connect_ms(self) -> int:
        """Limit of a dial with its TLS handshake and hello: seven one-way trips and slack for a busy peer."""
        return 3_000 + 4 * self.round_trip_ms

    @property
    def redial_ms(self) -> int:
        """Pause between two dials of one peer."""
        return self.election_min_ms // 4

"""The leader's side of snapshot copies: a window of chunks per member, driven by its answers."""

from consensus.core.messages import Append, SnapshotChunk, SnapshotProgress
from consensus.runtime.library import Wire
from consensus.runtime.snapshots import OutgoingSnapshot
from consensus.runtime.store import Store

CHUNK_BYTES = 256 * 1024
WINDOW_BYTES = 2 * 1024 * 1024  # Sent and unacknowledged: 8 MB/s at a round trip of 250 ms.


class Transfers:
    """At most one copy per member. A broken connection ends a copy; the next heartbeat goes on with it."""

    def __init__(self, store: Store, wire: Wire) -> None:
        self._store = store
        self._wire = wire
        self._running: dict[str, OutgoingSnapshot] = {}

    def __contains__(self, member_id: str) -> bool:
        return member_id in self._running

    def send(self, member_id: str, term: int) -> None:
        """Send what the window allows, at least a heartbeat."""
        transfer = self._running.get(member_id)
        if transfer is None:
            transfer = self._running[member_id] = self._store.outgoing()
        sent_any = False
        while transfer.has_more and transfer.unacknowledged_bytes < WINDOW_BYTES:
            chunk = SnapshotChunk(
                term=term,
                index=transfer.index,
                offset=transfer.sent_bytes,
                total_bytes=transfer.total_bytes,
                data=transfer.read(CHUNK_BYTES),
            )
            sent_any = self._wire.send(member_id, chunk)
            if not sent_any:
                return
        if not sent_any:
            self._wire.send(member_id, Append(term=term, commit_index=0, prev_index=0, prev_term=0))

    def advance(self, member_id: str, progress: SnapshotProgress) -> None:
        """Take the member's word on how much it has, and go on."""
        transfer = self._running.get(member_id)
        if transfer is None or transfer.index != progress.index:
            return
        if progress.offset == 0 or not transfer.acknowledged_bytes <= progress.offset <= transfer.total_bytes:
            self.end(member_id)  # It lost or refused its copy.
            return
        # It may hold more than was sent: an earlier copy of the same, which a broken connection ended.
        transfer.sent_bytes = max(transfer.sent_bytes, progress.offset)
        transfer.acknowledged_bytes = progress.offset
        if transfer.has_more:
            self.send(member_id, progress.term)

    def arrived(self, member_id: str, matched_index: int) -> None:
        """End the copy when the member's log has reached it."""
        transfer = self._running.get(member_id)
        if transfer is not None and matched_index >= transfer.index:
            self.end(member_id)

    def missed(self, member_id: str) -> None:
        """End a copy that was sent whole and that the member does not hold: its last answer was lost."""
        transfer = self._running.get(member_id)
        if transfer is not None and not transfer.has_more:
            self.end(member_id)

    def end(self, member_id: str) -> None:
        """Give up the copy to one member."""
        transfer = self._running.pop(member_id, None)
        if transfer is not None:
            transfer.close()

    def end_all(self) -> None:
        """Give up all copies: this member leads no longer, or stops."""
        for member_id in list(self._running):
            self.end(member_id)

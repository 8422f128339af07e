"""What a power cut would leave of a member's log, read from its disk without asking the member."""

from consensus.core.records import FILE_HEADER, Base, Entry, Truncate, decode_file
from consensus.core.snapshots import BLOCK_HEAD, decode_manifest
from consensus.core.snapshots import FILE_HEADER as SNAPSHOT_HEADER
from federation.kernel.errors import CorruptError, IsthmusError
from tests.simulation.disk import SimDisk


class Platter:
    """The durable journal and snapshot of one disk. Reads only what was synced since the last look."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self._file: object = None
        self._read_to = 0
        self._base = 0
        self._terms: list[int] = []
        self._snapshot = 0
        self._former: list[Platter] = []

    def replaced(self) -> None:
        """The directory is about to be lost: what it held was counted with right until now."""
        former = Platter(self._disk)
        self._read_journal()
        former._file, former._base, former._terms = self._file, self._base, list(self._terms)
        former._snapshot = self._snapshot_index()
        self._former.append(former)

    def holds(self, index: int, term: int) -> bool:
        """True when entry `index` of `term` is durable, by itself or in a snapshot."""
        self._read_journal()
        return any(platter._holds(index, term, platter._snapshot) for platter in self._former) or self._holds(
            index, term, self._snapshot_index()
        )

    def _holds(self, index: int, term: int, snapshot_index: int) -> bool:
        position = index - self._base - 1
        if position < 0 or snapshot_index >= index:
            return self._file is not None
        return position < len(self._terms) and self._terms[position] == term

    def _read_journal(self) -> None:
        file, data = self._disk.durable("journal")
        if file is not self._file or len(data) < self._read_to:
            self._file, self._read_to, self._base, self._terms = file, len(FILE_HEADER), 0, []
        if len(data) <= self._read_to:
            return
        try:
            records, good_bytes = decode_file(FILE_HEADER + data[self._read_to :], "platter")
        except CorruptError:
            return  # A failed sync left a hole: nothing behind it counts.
        for record in records:
            match record:
                case Base():
                    self._base, self._terms = record.index, []
                case Entry():
                    self._terms.append(record.term)
                case Truncate():
                    del self._terms[max(0, record.index - self._base - 1) :]
        self._read_to += good_bytes - len(FILE_HEADER)

    def _snapshot_index(self) -> int:
        _file, data = self._disk.durable("snapshot")
        begin = len(SNAPSHOT_HEADER) + BLOCK_HEAD.size
        if len(data) < begin:
            return 0
        length = BLOCK_HEAD.unpack_from(data, len(SNAPSHOT_HEADER))[0]
        try:
            return decode_manifest(bytes(data[begin : begin + length]), "platter").index
        except IsthmusError:
            return 0

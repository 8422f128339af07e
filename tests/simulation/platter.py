"""What a power cut would leave of a member's log, read from its disk without asking the member."""

from consensus.core.records import FILE_HEADER, Base, Entry, Truncate, decode_file
from consensus.core.snapshots import BLOCK_HEAD, decode_manifest
from consensus.core.snapshots import FILE_HEADER as SNAPSHOT_HEADER
from federation.kernel.errors import IsthmusError
from tests.simulation.disk import SimDisk


class Platter:
    """The durable journal and snapshot of one disk. Reads only what was synced since the last look."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self._file: object = None
        self._read_to = 0
        self._base = 0
        self._terms: list[int] = []

    def holds(self, index: int, term: int) -> bool:
        """True when entry `index` of `term` is durable, by itself or in a snapshot."""
        self._read_journal()
        position = index - self._base - 1
        if position < 0 or self._snapshot_index() >= index:
            return self._file is not None
        return position < len(self._terms) and self._terms[position] == term

    def _read_journal(self) -> None:
        file, data = self._disk.durable("journal")
        if file is not self._file or len(data) < self._read_to:
            self._file, self._read_to, self._base, self._terms = file, len(FILE_HEADER), 0, []
        if len(data) <= self._read_to:
            return
        records, good_bytes = decode_file(FILE_HEADER + data[self._read_to :], "platter")
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

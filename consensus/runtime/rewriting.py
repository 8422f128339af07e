"""A journal's new file, written slice by slice while the old one goes on."""

from pathlib import Path

from consensus.core.records import FILE_HEADER, Base, Entry, Record, encode_batch
from consensus.runtime.disk import Disk, replace_durably

# Written and synced in one turn. More than a turn may append (runtime/proposer.py), or the copy would never catch up.
SLICE_BYTES = 3 * 1024 * 1024


class Rewriting:
    """Raises OSError; the old file is untouched until `finish` has returned."""

    def __init__(self, disk: Disk, path: Path, base: Base) -> None:
        self.base = base
        self.copied = base.index  # Entries up to here are in the new file.
        self.size_bytes = 0
        self._disk = disk
        self._path = path
        self._new = path.with_suffix(".new")
        self._descriptor = disk.create(self._new)
        self._write(FILE_HEADER + encode_batch([base]))

    def copy(self, entries: list[Entry], first_index: int) -> bool:
        """Write the next slice of the log, which begins with `first_index`; True when it reached the end."""
        batch: list[Record] = []
        batch_bytes = 0
        end = first_index + len(entries) - 1
        while self.copied < end and batch_bytes < SLICE_BYTES:
            entry = entries[self.copied + 1 - first_index]
            batch.append(entry)
            batch_bytes += len(entry.command)
            self.copied += 1
        if batch:
            self._write(encode_batch(batch))
        is_complete = self.copied == end
        if not is_complete:
            self._disk.sync_data(self._descriptor)
        return is_complete

    def finish(self, last: list[Record]) -> int:
        """Write what stands behind the entries and take the old file's name, durably; return the descriptor."""
        self._write(encode_batch(last))
        self._disk.sync(self._descriptor)
        replace_durably(self._disk, self._new, self._path)
        return self._descriptor

    def give_up(self) -> None:
        """Close and remove the new file."""
        self._disk.close(self._descriptor)
        self._disk.remove(self._new)

    def _write(self, data: bytes) -> None:
        self._disk.write(self._descriptor, data)
        self.size_bytes += len(data)

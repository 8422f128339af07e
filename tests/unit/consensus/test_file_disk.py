"""A file that lost its name costs nobody a wait, and its room is free again soon."""

from pathlib import Path

import pytest

from consensus.runtime.disk import FileDisk, replace_durably
from tests.support.wait import eventually


def open_without_name(directory: Path) -> list[str]:
    """Return what this process holds open in `directory` although its name is gone (proc_pid_fd(5))."""
    held = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue  # The descriptor of the listing itself.
        if target.startswith(f"{directory}/") and target.endswith(" (deleted)"):
            held.append(target)
    return held


@pytest.mark.parametrize("is_there", [True, False])
def test_what_a_new_file_replaces_is_given_up(tmp_path: Path, is_there: bool) -> None:
    disk = FileDisk()
    new, path = tmp_path / "snapshot.new", tmp_path / "snapshot"
    if is_there:
        path.write_bytes(b"old")
    descriptor = disk.create(new)
    disk.write(descriptor, b"new")
    replace_durably(disk, new, path)
    assert path.read_bytes() == b"new"
    disk.write(descriptor, b"er")
    disk.close(descriptor)
    assert path.read_bytes() == b"newer"
    eventually(lambda: not open_without_name(tmp_path), timeout_s=60)


def test_a_removed_file_is_closed(tmp_path: Path) -> None:
    disk = FileDisk()
    descriptor = disk.create(tmp_path / "journal")
    disk.remove(tmp_path / "journal")
    assert len(open_without_name(tmp_path)) == 1
    disk.close(descriptor)
    eventually(lambda: not open_without_name(tmp_path), timeout_s=60)

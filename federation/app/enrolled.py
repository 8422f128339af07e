"""What a process that follows the catalog needs before it runs: its folder, its identity, its copy."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, NamedTuple

from certs.runtime.identity import LeafIdentity
from federation.agent.directory import DirectoryStore
from federation.agent.enrollment import IDENTITY_FOLDER, Enrollment, ensure_enrolled
from federation.agent.folder_lock import hold_folder
from federation.replication.disk_copy import DiskCopy

COPY_FOLDER = "catalog"


class Enrolled(NamedTuple):
    """What was opened; the copy is closed, and the folder given back, when the process ends."""

    enrollment: Enrollment
    directory: DirectoryStore
    leaf: LeafIdentity
    copy: DiskCopy


@contextlib.asynccontextmanager
async def enrolled(
    data_dir: Path, *, token: str | None, purpose: Literal["dns", "controller"], id_: str
) -> AsyncIterator[Enrolled]:
    """Enroll with `token` unless that was done before, and open what the process works on.

    Raises an `IsthmusError` for what makes running impossible: no identity and no token, a folder in use.
    """
    with hold_folder(data_dir):
        enrollment = await ensure_enrolled(token, purpose, id_, data_dir)
        with contextlib.closing(DiskCopy.open(data_dir / COPY_FOLDER)) as copy:
            yield Enrolled(
                enrollment=enrollment,
                directory=DirectoryStore.open(data_dir),
                leaf=LeafIdentity.load(data_dir / IDENTITY_FOLDER),
                copy=copy,
            )

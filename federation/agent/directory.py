"""Whom this process may talk to and whom it believes: the directory of controllers, kept on disk."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from certs.core.bundle import Bundles, make_bundle
from certs.core.certificate import from_pem
from federation.agent.state_file import read_state, write_state
from federation.api.messages import Directory, NamedController
from federation.kernel.errors import InvalidInputError, PreconditionError

DIRECTORY_FILE = "directory.json"
_KIND = "isthmus directory"


class DirectoryStore:
    """The newest directory that this process was given; safe to read from gRPC's threads.

    A directory of another federation, without a controller, or with unreadable roots never replaces
    the one that is held (invariant F2).
    """

    def __init__(self, path: Path, directory: Directory) -> None:
        self._path = path
        self._directory = directory
        self._bundles = read_bundles(directory)
        self._changed = asyncio.Event()

    @classmethod
    def open(cls, data_dir: Path) -> "DirectoryStore":
        """Read the directory that enrollment left in `data_dir`.

        Raises `NotFoundError` before enrollment, `CorruptError` when the file is damaged.
        """
        path = data_dir / DIRECTORY_FILE
        return cls(path, read_state(path, _KIND, Directory))

    @property
    def current(self) -> Directory:
        """The newest directory."""
        return self._directory

    def bundles(self) -> Bundles:
        """The roots of every known trust domain, for a Verifier."""
        return self._bundles

    def offer(self, directory: Directory) -> bool:
        """Take `directory` if it is newer, on disk first; return whether it was.

        Raises `PreconditionError` or `InvalidInputError` when it must not replace the one that is held.
        """
        held = self._directory
        if directory.federation != held.federation:
            raise PreconditionError(
                f"directory: of federation {directory.federation!r}, this process belongs to {held.federation!r}"
            )
        if directory.revision <= held.revision:
            return False
        check_directory(directory)
        bundles = read_bundles(directory)
        write_state(self._path, _KIND, directory)
        self._directory, self._bundles = directory, bundles
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def newer_than(self, revision: int) -> Directory:
        """Wait until a directory newer than `revision` is held, and return it."""
        while self._directory.revision <= revision:
            await self._changed.wait()
        return self._directory

    async def follow(self) -> AsyncGenerator[Directory]:
        """Yield the directory as it is now, and each newer one, without end."""
        directory = self.current
        yield directory
        while True:
            directory = await self.newer_than(directory.revision)
            yield directory


def save_directory(data_dir: Path, directory: Directory) -> None:
    """Write the first directory of a process, which came with its enrollment."""
    check_directory(directory)
    read_bundles(directory)
    write_state(data_dir / DIRECTORY_FILE, _KIND, directory)


def check_directory(directory: Directory) -> None:
    """Refuse a directory that would leave its holder with nobody to ask."""
    if not any(controller.spec.control for controller in directory.controllers):
        raise InvalidInputError(
            f"directory at revision {directory.revision} names no controller with a control port"
        )


def read_bundles(directory: Directory) -> Bundles:
    """Return the directory's roots by trust domain; raises `InvalidInputError` if one cannot be read."""
    return {
        name: make_bundle(
            name,
            [root for pem in roots for root in from_pem(pem.encode(), where=f"directory: roots of {name}")],
            sequence=directory.revision,
        )
        for name, roots in directory.bundles.items()
    }


def own_controllers(directory: Directory, cluster: str) -> tuple[NamedController, ...]:
    """Return the controllers that `cluster` registers with and that sign for it, most preferred first.

    Those of the cluster itself, then those of its home and, while it moves, of the other one, each group by name.
    Witnesses have no control port.
    """
    places = (cluster, directory.homes.get(cluster, ""), directory.next_homes.get(cluster, ""))
    return tuple(one for place in places for one in _controllers_of(directory, place))


def signing_controllers(directory: Directory, cluster: str, trust_domain: str) -> tuple[NamedController, ...]:
    """Return the controllers of `own_controllers` that may be asked for a certificate of `trust_domain`."""
    own = own_controllers(directory, cluster)
    return tuple(one for one in own if one.spec.identity.startswith(f"spiffe://{trust_domain}/"))


def members_preferred(directory: Directory, cluster: str) -> tuple[NamedController, ...]:
    """Return the controllers that hold the log, and so can be followed and asked to propose, as `preferred`."""
    return tuple(one for one in preferred_controllers(directory, cluster) if one.spec.role == "member")


def preferred_controllers(directory: Directory, cluster: str) -> tuple[NamedController, ...]:
    """Return the controllers that catalog and xDS of this cluster may come from, most preferred first.

    The cluster's own, then its home's, then any other member, each group by name. Not others' mirrors: those are in other
    hands, and whoever follows one believes what it says of all, of the controllers too.
    """
    home = directory.homes.get(cluster, "")
    near = (*_controllers_of(directory, cluster), *_controllers_of(directory, home))
    names = {controller.name for controller in near}
    others = sorted(
        (
            one
            for one in directory.controllers
            if one.spec.control and one.spec.role == "member" and one.name not in names
        ),
        key=lambda one: one.name,
    )
    return (*near, *others)


def _controllers_of(directory: Directory, cluster: str) -> tuple[NamedController, ...]:
    found = (one for one in directory.controllers if one.spec.cluster == cluster and one.spec.control)
    return tuple(sorted(found, key=lambda one: one.name))

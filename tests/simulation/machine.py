"""The real catalog, watched: every apply, snapshot and change is compared with the other members'."""

from collections.abc import Iterable, Iterator

from discovery.core.catalog import Catalog
from discovery.core.commands import Command, Put, Tick, Write, encode_command
from discovery.core.model import ResourceKey
from federation.kernel.errors import CompactedError
from tests.simulation.checks import Checks

OWNER = "alpha"


def register_key(name: str) -> ResourceKey:
    """Return the row that holds register `name`."""
    return ResourceKey(OWNER, "ExportPolicy", name, "register")


class WatchedCatalog:
    """One process's catalog; implements consensus.core.contract.StateMachine."""

    def __init__(self, name: str, checks: Checks) -> None:
        self.catalog = Catalog()
        self.applied_index = 0
        self._name = name
        self._checks = checks
        self._chain = b""

    def apply(self, index: int, command: bytes) -> bytes:
        if index <= self.applied_index:
            raise self._checks.fail(
                "each entry is applied once", f"{self._name} applies {index} after {self.applied_index}"
            )
        self.applied_index = index
        result = self.catalog.apply(index, command)
        self._chain = self._checks.applied(self._name, self._chain, index, command, result)
        return result

    def snapshot(self) -> Iterator[bytes]:
        self._checks.digests.setdefault(self.applied_index, self.catalog.digest())
        yield b"%d" % self.applied_index
        yield from self.catalog.snapshot()

    def restore(self, chunks: Iterable[bytes]) -> None:
        rest = iter(chunks)
        self.applied_index = int(next(rest))
        self.catalog.restore(rest)
        self._checks.restored(self._name, self.applied_index, self.catalog.digest())
        self._chain = self._checks.chains.get(self.applied_index, b"")


class Watcher:
    """A watch that resumes from its revision, as mirrors do: every change once, in order, or 'compacted'."""

    def __init__(self, name: str, machine: WatchedCatalog, checks: Checks) -> None:
        self._name = name
        self._machine = machine
        self._checks = checks
        self._changes = checks.changes
        self.revision = 0

    def look(self) -> None:
        """Take what is new."""
        catalog = self._machine.catalog
        if catalog.revision == self.revision:
            return
        try:
            news = catalog.history(self.revision)
        except CompactedError:
            self.revision = catalog.revision  # It lists again.
            return
        for revision, changes in news:
            if revision <= self.revision:
                raise self._checks.fail(
                    "a watch delivers once, in order", f"{self._name}: {revision} after {self.revision}"
                )
            if self._changes.setdefault(revision, changes) != changes:
                raise self._checks.fail("equal watches", f"{self._name}: other changes at {revision}")
            missed = list(self._between(self.revision, revision))
            if missed:
                raise self._checks.fail("a watch delivers all", f"{self._name}: missed {missed}")
            self.revision = revision
        if self.revision != catalog.revision:
            raise self._checks.fail("a watch delivers all", f"{self._name} ends before {catalog.revision}")

    def _between(self, after: int, before: int) -> Iterator[int]:
        return (revision for revision in range(after + 1, before) if revision in self._changes)


def founding() -> Write:
    """Return the write that founds the federation whose only cluster owns all registers."""
    return Write(
        operations=(
            Put(key=ResourceKey("", "Federation", "", "federation"), spec=b'{"id": "f1"}'),
            Put(
                key=ResourceKey("", "Cluster", "", OWNER),
                spec=b'{"role": "primary", "trustDomain": "alpha.test"}',
            ),
            Put(
                key=ResourceKey("", "TrustDomain", "", "alpha.test"),
                spec=b'{"roots": ["PEM"], "sequence": 1}',
            ),
        )
    )


def idle_command(request: str) -> bytes:
    """Return a command that changes nothing: time that has passed already."""
    return encode_command(Command(request_id=request, proposer=OWNER, body=Tick(now_ms=0)))

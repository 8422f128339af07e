"""Durable writes in a log of three members, beside etcd's."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from bench import changes, leader_loss
from bench.log_member import KEYS_DIRECTORY
from bench.records import Figure, Measured, of_rounds, quantile
from bench.session import Session
from bench.store_keys import write_keys
from bench.stores import (
    ALONE,
    CATALOGS,
    ETCD,
    NAMES,
    OURS,
    Trio,
    WriterProcess,
    called,
    catalog_trio,
    etcd_trio,
    etcd_version,
    one_alone,
    our_trio,
)
from bench.writer import InsideLoad, Load, Loaded
from chaos.lab.guardian import Guardian, environment_of
from chaos.lab.processes import LabError

TITLE = "Log: durable writes of three members, beside etcd"
ROUNDS = 5
VALUE_BYTES = 256
# In flight, and how many writes a round has: about as long each.
LOADS = {1: 150, 64: 1_500, 256: 1_500}
INSIDE_LOADS = {1: 100, 64: 1_500}
SYNCS = 200
METHOD = f"""
Three members of the controllers' engine, with a state machine that keeps keys and values, and three members of the etcd
that Debian has, each in a process of its own, all journals on one disk, {os.cpu_count()} cores for everything. One client
program writes to both: it speaks etcd's API (KV/Put) over gRPC with mutual TLS to the leader, one unary call for each
write of {VALUE_BYTES} bytes, and our members answer the same calls. Members speak mutual TLS with each other. Nobody
answers before a majority has synced the write to disk. By turns, {ROUNDS} rounds: {SYNCS} times one write and fdatasync
of a bare file; then for {", ".join(map(str, LOADS))} calls in flight both stores, {", ".join(f"{count:,}" for count in LOADS.values())}
writes each, and a process that answers the same calls at once by grpc.aio and keeps nothing, which is what the calls alone
cost in Python; then proposals within the leader's process, without any call. CPU is that of the three members together,
for each write. A call that fails is repeated, and its time counts from the first attempt.
{changes.METHOD}
{leader_loss.METHOD}
"""


class Rounds(Struct, frozen=True, kw_only=True):
    """What one load on one store gave, by round."""

    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)  # For each write, of the members together.
    writer_cpu_us: list[float] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)  # Attempts; the write was repeated.

    def add(self, took_ms: list[float], elapsed_s: float, cpu_s: float, writer_cpu_s: float) -> None:
        """Add a round."""
        self.p50_ms.append(quantile(took_ms, 0.5))
        self.p99_ms.append(quantile(took_ms, 0.99))
        self.per_s.append(len(took_ms) / elapsed_s)
        self.cpu_us.append(cpu_s / len(took_ms) * 1e6)
        self.writer_cpu_us.append(writer_cpu_s / len(took_ms) * 1e6)


def measure(session: Session) -> Measured:
    """Run the rounds, then the losses."""
    directory = session.directory / "consensus"
    guardian = Guardian(directory)
    guardian.start()
    writer = None
    try:
        stores, notes = prepare_stores(session, directory)
        writer = WriterProcess(
            directory / KEYS_DIRECTORY, directory / "writer.log", environment_of(directory)
        )
        catalogs, alone = stores.pop(CATALOGS), stores.pop(ALONE)
        for trio in (*stores.values(), alone):
            trio.start()
        figures, repeated = _writes(session, directory, writer, stores | {ALONE: alone})
        alone.end()
        notes += repeated
        figures += changes.measure(session, writer, stores, catalogs)
        losses, failures = leader_loss.measure(session, writer, stores)
        figures += losses
        notes += failures
    finally:
        guardian.close()
        if writer is not None:
            writer.collect()
    return Measured(figures=tuple(figures), notes=tuple(notes))


def prepare_stores(session: Session, directory: Path) -> tuple[dict[str, Trio], list[str]]:
    """Return the stores by the words that their figures begin with; a note says why etcd is not among them."""
    ours, theirs, catalogs, alone = (
        [block.host(number) for number in range(1, len(NAMES) + 1)]
        for block in (session.claim_block() for _ in range(4))
    )
    directory.mkdir(exist_ok=True)
    write_keys(directory / KEYS_DIRECTORY, [*ours, *theirs, *catalogs, *alone])
    environment = environment_of(directory)
    stores = {
        OURS: our_trio(directory, ours, environment),
        CATALOGS: catalog_trio(directory, catalogs, environment),
        ALONE: one_alone(directory, alone[0], environment),
    }
    try:
        stores[ETCD] = etcd_trio(directory, theirs, environment)
        return stores, [f"{etcd_version()}."]
    except LabError as error:
        return stores, [f"etcd was not measured: {error}. It is in the Debian package etcd-server."]


def _writes(
    session: Session, directory: Path, writer: WriterProcess, stores: Mapping[str, Trio]
) -> tuple[list[Figure], list[str]]:
    synced: list[list[float]] = []
    inside = {in_flight: Rounds() for in_flight in INSIDE_LOADS}
    rounds = {in_flight: {store: Rounds() for store in stores} for in_flight in LOADS}
    session.say("consensus: warming up")
    for store in stores:
        _load(writer, stores[store], Rounds(), 64, LOADS[64])
    for number in range(ROUNDS):
        session.say(f"consensus: round {number + 1} of {ROUNDS}")
        synced.append(_bare_syncs_ms(directory / "bare"))
        for in_flight, count in LOADS.items():
            for store in sorted(stores, reverse=number % 2 == 1):  # Who comes first changes.
                _load(writer, stores[store], rounds[in_flight][store], in_flight, count)
        for in_flight, count in INSIDE_LOADS.items():
            _load(writer, stores[OURS], inside[in_flight], in_flight, count, kind=InsideLoad)
    failed = {
        store: sum(sum(one[store].failed) for one in rounds.values()) for store in stores if store != ALONE
    }
    notes = [
        f"Calls that failed and were repeated, {called(store)}: {count}." for store, count in failed.items()
    ]
    return figures(synced, rounds, inside), notes


def _load(
    writer: WriterProcess,
    trio: Trio,
    into: Rounds,
    in_flight: int,
    count: int,
    *,
    kind: type[Load | InsideLoad] = Load,
) -> None:
    # Asked for each time: on a busy machine a leader may lose its place between two rounds.
    leader = trio.leader(writer)
    request = kind(address=leader, in_flight=in_flight, count=count, value_bytes=VALUE_BYTES)
    members_s, writer_s, began_s = trio.cpu_s(), writer.cpu_s, time.perf_counter()
    loaded = writer.ask(request, Loaded)
    elapsed_s = time.perf_counter() - began_s
    into.failed.append(loaded.failed)
    into.add(loaded.took_ms, elapsed_s, trio.cpu_s() - members_s, writer.cpu_s - writer_s)


def figures(
    synced: list[list[float]], rounds: Mapping[int, Mapping[str, Rounds]], inside: Mapping[int, Rounds]
) -> list[Figure]:
    """Return the figures of the rounds, ours with their ratio to etcd's when that was measured."""
    bare = [quantile(one, 0.5) for one in synced]
    found = [of_rounds("bare fdatasync p50", bare, "ms")]
    for in_flight, stores in rounds.items():
        for store in sorted(stores, reverse=True):  # etcd first: the others stand beside it.
            beside = stores.get(ETCD) if store == OURS else None
            found += _of_load(f"{in_flight} in flight", store, stores[store], beside)
    for in_flight, taken in inside.items():
        name = f"{in_flight} in flight within the process"
        found += [
            of_rounds(f"{name}, p50", taken.p50_ms, "ms", beside=bare, ratio_to=found[0].name),
            of_rounds(f"{name}, p99", taken.p99_ms, "ms"),
            of_rounds(f"{name}, rate", taken.per_s, "writes/s"),
        ]
    return found


def _of_load(load: str, store: str, taken: Rounds, beside: Rounds | None) -> list[Figure]:
    def of(what: str, values: list[float], unit: str, others: list[float]) -> Figure:
        name = f"{load}, {what}"
        return of_rounds(
            f"{store}{name}", values, unit, beside=others, ratio_to=f"{ETCD}{name}" if others else None
        )

    other = beside or Rounds()
    return [
        of("p50", taken.p50_ms, "ms", other.p50_ms),
        of("p99", taken.p99_ms, "ms", other.p99_ms),
        of("rate", taken.per_s, "writes/s", other.per_s),
        of("CPU of the members", taken.cpu_us, "us/write", other.cpu_us),
        of("CPU of the client", taken.writer_cpu_us, "us/write", other.writer_cpu_us),
    ]


def _bare_syncs_ms(path: Path) -> list[float]:
    took = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNCS):
            began_s = time.perf_counter()
            os.write(file, b"x" * VALUE_BYTES)
            os.fdatasync(file)
            took.append((time.perf_counter() - began_s) * 1000)
    finally:
        os.close(file)
    return took

"""Many changed endpoints through the log and the catalog of three members, beside etcd's transactions."""

from collections.abc import Mapping

from bench.records import Figure, of_rounds
from bench.session import Session
from bench.stores import ETCD, OURS, Trio, WriterProcess
from bench.writer import STREAM_IN_FLIGHT_MAX, StreamChanges, Transact

ROUNDS = 3
CHANGES = 20_000
CHANGES_IN_BATCH = 64
ROW_BYTES = 128  # About what an endpoint takes in a command.
METHOD = f"""
Then three more members of ours, whose state machine is the controllers' catalog: {CHANGES:,} endpoints change their
state, told to the leader on one gRPC stream, {CHANGES_IN_BATCH} in each message, each message one PublishEndpoints command
by the proposer that publishers use, {STREAM_IN_FLIGHT_MAX} unfinished at each moment; all three check and apply each row.
Beside it as many keys of {ROW_BYTES} bytes in transactions of {CHANGES_IN_BATCH} puts, as many in flight, in etcd.
{ROUNDS} rounds by turns, after one that creates the rows.
"""


def measure(session: Session, writer: WriterProcess, stores: Mapping[str, Trio], ours: Trio) -> list[Figure]:
    """Return the rates and what the members take for each change; `ours` runs for this time only."""
    trios = {OURS: ours}
    if ETCD in stores:
        trios[ETCD] = stores[ETCD]
    trios[OURS].start()
    per_s: dict[str, list[float]] = {store: [] for store in trios}
    cpu_us: dict[str, list[float]] = {store: [] for store in trios}
    try:
        for number in range(ROUNDS + 1):
            session.say(f"consensus: streamed changes, round {number} of {ROUNDS}")
            for store in sorted(trios, reverse=number % 2 == 1):
                rate, spent_us = _round(writer, store, trios[store], number)
                if number:
                    per_s[store].append(rate)
                    cpu_us[store].append(spent_us)
    finally:
        trios[OURS].end()
    return [
        *_beside("endpoint changes", "transactions of puts", per_s, "changes/s"),
        *_beside("endpoint changes, CPU of the members", "puts, CPU of the members", cpu_us, "us/change"),
    ]


def _round(writer: WriterProcess, store: str, trio: Trio, number: int) -> tuple[float, float]:
    leader, before_s = trio.leader(writer), trio.cpu_s()
    if store == OURS:
        elapsed_s = writer.ask(
            StreamChanges(address=leader, rows=CHANGES, in_batch=CHANGES_IN_BATCH, sequence=number + 1), float
        )
    else:
        elapsed_s = writer.ask(
            Transact(address=leader, rows=CHANGES, in_batch=CHANGES_IN_BATCH, value_bytes=ROW_BYTES), float
        )
    return CHANGES / elapsed_s, (trio.cpu_s() - before_s) / CHANGES * 1e6


def _beside(ours: str, theirs: str, values: Mapping[str, list[float]], unit: str) -> list[Figure]:
    if ETCD not in values:
        return [of_rounds(ours, values[OURS], unit)]
    other = of_rounds(f"{ETCD}{theirs}", values[ETCD], unit)
    return [other, of_rounds(ours, values[OURS], unit, beside=values[ETCD], ratio_to=other.name)]

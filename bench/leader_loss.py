"""What the loss of a leader and the restart of a member cost, for each of the stores under comparison."""

import time
from collections.abc import Mapping
from itertools import pairwise

from bench.log_member import TIMING
from bench.records import Figure, of_rounds
from bench.session import Session
from bench.stores import ETCD, OURS, Trio, WriterProcess, called
from bench.writer import OPERATIONS, TURN_BUDGET_MS, AskTurns, AwaitKey, Fill, Pace, Paced, Turns

TRIALS = 20
RESTARTS = 2
RECORDS, RECORD_BYTES = 100_000, 300
_SECONDS, _KILL_AFTER_S = 1.4, 0.2  # So that a gap of two election timeouts would be seen.
_EVERY_MS = 10
METHOD = f"""
Then {TRIALS} times by turns, the leader is killed (kill -9) while the client begins a write each {_EVERY_MS} ms at the
two other members, whatever became of the earlier ones: the gap is the longest time without an answered write. Both have
election timeouts of {TIMING.election_min_ms} to {TIMING.election_max_ms} ms and heartbeats each
{TIMING.heartbeat_ms} ms. At last each store is filled with {RECORDS:,} records of {RECORD_BYTES} bytes in transactions
of {OPERATIONS}, of which our members write snapshots. The longest turn is the longest time in which the loop of a
member's log, since its process began, heard nobody and sent nothing, its disk calls included, by its own measurement
(`isthmus_raft_longest_turn_seconds`). Memory is the RSS of each member then, and a follower is killed and started {RESTARTS} times: from the
start of its process until it answers with the last record from its own state.
"""


def measure(
    session: Session, writer: WriterProcess, stores: Mapping[str, Trio]
) -> tuple[list[Figure], list[str]]:
    """Return the figures, and notes on what failed meanwhile."""
    paced: dict[str, list[Paced]] = {store: [] for store in stores}
    for number in range(TRIALS):
        session.say(f"consensus: loss of the leader {number + 1} of {TRIALS}")
        for store in sorted(stores, reverse=number % 2 == 1):
            paced[store].append(_lose_leader(writer, stores[store], f"loss-{number}"))
    gaps = {store: [longest_gap_ms(one) for one in trials] for store, trials in paced.items()}
    found = _beside("leader killed, longest write gap", gaps, "ms")
    notes = [_note(store, trials) for store, trials in paced.items()]
    rss: dict[str, list[float]] = {}
    restarts_ms: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    turns: list[float] = []
    for store, trio in stores.items():
        session.say(f"consensus: {RECORDS:,} records into {called(store)}")
        rates[store] = [_fill(writer, trio)]
        if store == OURS:
            asked = [writer.ask(AskTurns(address=address), Turns) for address in trio.addresses]
            turns = [one.longest_ms for one in asked]
            notes.append(
                f"Of {sum(one.count for one in asked):,} turns of our members' loops, {sum(one.over_budget for one in asked)}"
                f" took longer than {TURN_BUDGET_MS} ms."
            )
        rss[store] = [memory.rss_mib for memory in trio.memories()]
        restarts_ms[store] = _restart(writer, trio)
        trio.end()
    found += _beside(f"records filled in, {OPERATIONS} in a transaction", rates, "records/s")
    found.append(of_rounds("longest turn of a member's loop", turns, "ms"))
    found += _beside(f"member with {RECORDS:,} records, RSS", rss, "MiB")
    found += _beside(f"restart with {RECORDS:,} records", restarts_ms, "ms")
    return found, notes


def longest_gap_ms(paced: Paced) -> float:
    """Return the longest time without an answered write, from the first write to the last answer or the window's end."""
    moments = sorted([paced.began_s, *paced.acknowledged_s])
    if moments[-1] < paced.ended_s:
        moments.append(paced.ended_s)
    return max(later - earlier for earlier, later in pairwise(moments)) * 1000


def _beside(name: str, values: Mapping[str, list[float]], unit: str) -> list[Figure]:
    found = []
    theirs = values.get(ETCD)
    if theirs is not None:
        found.append(of_rounds(f"{ETCD}{name}", theirs, unit))
    ratio_to = found[0].name if found else None
    found.append(of_rounds(name, values[OURS], unit, beside=theirs or (), ratio_to=ratio_to))
    return found


def _note(store: str, trials: list[Paced]) -> str:
    failed = sum(one.failed for one in trials)
    written = sum(len(one.acknowledged_s) for one in trials)
    who = "etcd" if store == ETCD else "our members"
    return (
        f"Leader killed, {who}: {written:,} writes answered, {failed:,} failed or late, {len(trials)} trials."
    )


def _lose_leader(writer: WriterProcess, trio: Trio, key: str) -> Paced:
    leader = trio.leader(writer)
    survivors = trio.others(leader)
    writer.send(Pace(addresses=survivors, seconds=_SECONDS, every_ms=_EVERY_MS, value_bytes=RECORD_BYTES))
    time.sleep(_KILL_AFTER_S)
    trio.members[leader].kill_alone()
    paced = writer.receive(Paced)
    trio.start()
    _catch_up(writer, trio, leader, key)
    return paced


def _catch_up(writer: WriterProcess, trio: Trio, address: str, key: str) -> None:
    """Return when the member at `address` has what is written now."""
    leader = trio.leader(writer)
    writer.ask(Fill(address=leader, records=0, last_key=key, value_bytes=1), bool)
    writer.ask(AwaitKey(address=address, key=key), bool)


def _fill(writer: WriterProcess, trio: Trio) -> float:
    leader = trio.leader(writer)
    began_s = time.perf_counter()
    writer.ask(Fill(address=leader, records=RECORDS, last_key="last", value_bytes=RECORD_BYTES), bool)
    return RECORDS / (time.perf_counter() - began_s)


def _restart(writer: WriterProcess, trio: Trio) -> list[float]:
    took_ms = []
    follower = trio.others(trio.leader(writer))[0]
    wanted = AwaitKey(address=follower, key="last")
    writer.ask(wanted, bool)
    for _ in range(RESTARTS):
        trio.members[follower].kill_alone()
        began_s = time.perf_counter()
        trio.start()
        writer.ask(wanted, bool)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return took_ms

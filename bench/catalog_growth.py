"""What a catalog of one size costs, in a process of its own: memory, one change, snapshot, restart, catching up.

python -m bench.catalog_growth ENDPOINTS CLUSTERS     prints one line of JSON
"""

import asyncio
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from bench.catalogs import ENDPOINTS_PER_COMMAND, endpoints
from discovery.core.catalog import Catalog
from discovery.core.commands import (
    AcquireLease,
    Body,
    Command,
    Operation,
    PublishEndpoints,
    Put,
    Write,
    decode_outcome,
    encode_command,
)
from discovery.core.model import Change, Endpoint, ResourceKey
from discovery.core.publishing import publish_lease
from discovery.core.specs import (
    AnySpec,
    ClusterSpec,
    ExportPolicySpec,
    FederationSpec,
    GrantSource,
    GrantSpec,
    TrustDomainSpec,
)
from federation.replication.feed import Feed
from federation.replication.followed_view import FollowedView
from federation.replication.messages import Delta, FollowAnswer, FollowRequest, SnapshotEnd
from federation.replication.state import FollowerState
from federation.replication.wire import decode_answer, encode

CHANGES = 300  # Single changes of which the median is taken.
BEHIND = 1_000  # Revisions that a follower missed.
NAMESPACE = "shop"
ADDRESS = "10.0.0.1"


class Growth(Struct, frozen=True, kw_only=True):
    """What one size cost."""

    endpoints: int
    clusters: int
    machine_bytes: float  # Of the state machine's memory for each endpoint: RSS after less RSS before.
    projection_bytes: float  # Of a follower's copy with its view, for each endpoint.
    apply_us: float  # One change in the state machine.
    delta_bytes: int  # What one change sends to a follower.
    follow_us: float  # One change in a follower's copy and its view.
    snapshot_s: float
    snapshot_bytes: int
    restore_s: float
    copy_s: float  # A follower without a copy, until it has one.
    copy_bytes: int
    missed_s: float  # A follower that missed BEHIND revisions.
    missed_bytes: int
    view_s: float  # A view computed from nothing.


class Filled:
    """A founded catalog and the log that feeds it."""

    def __init__(self, clusters: int) -> None:
        self.catalog = Catalog()
        self.names = [f"c{number:03}" for number in range(clusters)]
        self._index = 0
        self._fences: dict[str, int] = {}
        for name in self.names:
            self._found(name)

    def fill(self, count: int) -> None:
        """Publish `count` endpoints, evenly over the clusters."""
        share = -(-count // len(self.names))
        for name in self.names:
            rows = [_named_apart(row) for row in endpoints(name, min(share, count), address=ADDRESS)]
            count -= len(rows)
            for first in range(0, len(rows), ENDPOINTS_PER_COMMAND):
                self.publish(name, *rows[first : first + ENDPOINTS_PER_COMMAND])

    def publish(self, cluster: str, *rows: Endpoint) -> None:
        """Publish rows as their cluster's lease holder does."""
        body = PublishEndpoints(cluster=cluster, fence=self._fences[cluster], put=rows)
        self.send(self.command(cluster, body))

    def command(self, proposer: str, body: Body) -> bytes:
        """Return an entry of the log."""
        return encode_command(Command(request_id=f"r{self._index}", proposer=proposer, body=body))

    def send(self, command: bytes) -> bytes:
        """Apply an entry; it must be accepted."""
        self._index += 1
        answer = self.catalog.apply(self._index, command)
        assert decode_outcome(answer).code == 0, decode_outcome(answer).message
        return answer

    def changes(self) -> Iterator[tuple[str, bytes]]:
        """Yield commands that each change one endpoint somewhere, without end, and the endpoint's cluster."""
        keys = tuple(self.catalog.tables.endpoints)
        step = max(1, len(keys) // CHANGES)
        for number in itertools.count(1):
            row = self.catalog.tables.endpoints.get(keys[number * step % len(keys)])
            endpoint = msgspec.msgpack.decode(row or b"", type=Endpoint)
            newer = msgspec.structs.replace(
                endpoint, sequence=endpoint.sequence + 1, ready=not endpoint.ready
            )
            name = endpoint.key.cluster
            yield (
                name,
                self.command(name, PublishEndpoints(cluster=name, fence=self._fences[name], put=(newer,))),
            )

    def _found(self, name: str) -> None:
        speaker = self.names[0]
        first: list[Operation] = []
        if name == speaker:
            first.append(_put(ResourceKey("", "Federation", "", "federation"), FederationSpec(id="bench")))
        domain = f"{name}.example"
        first.append(
            _put(ResourceKey("", "Cluster", "", name), ClusterSpec(role="primary", trust_domain=domain))
        )
        first.append(_put(ResourceKey("", "TrustDomain", "", domain), TrustDomainSpec(roots=("PEM",))))
        self.send(self.command(speaker, Write(operations=tuple(first))))
        export = _put(ResourceKey(name, "ExportPolicy", NAMESPACE, "all"), ExportPolicySpec(services=("*",)))
        grant = _put(
            ResourceKey(name, "Grant", NAMESPACE, "all"),
            GrantSpec(services=("*",), sources=(GrantSource(),)),
        )
        self.send(self.command(name, Write(operations=(export, grant))))
        lease = AcquireLease(name=publish_lease(name), holder=name, ttl_ms=1_000)
        outcome = decode_outcome(self.send(self.command(name, lease)))
        assert outcome.lease is not None, "a lease was asked for"
        self._fences[name] = outcome.lease.fence


def measure(size: int, clusters: int) -> Growth:
    """Fill a catalog and take its costs."""
    filled = Filled(clusters)
    before = _rss_bytes()
    filled.fill(size)
    machine = _rss_bytes() - before
    catalog = filled.catalog
    applied: list[float] = []
    deltas: list[Delta] = []

    def changed(revision: int, changes: tuple[Change, ...]) -> None:
        deltas.append(Delta(revision=revision, changes=changes))

    feed = Feed(catalog, unix_ms=lambda: 0)
    viewer = filled.names[0]
    before = _rss_bytes()
    state, view = FollowerState(viewer), None
    copy_s, copy_bytes, view_s, view = asyncio.run(_copy(feed, state))
    projection = _rss_bytes() - before
    catalog.on_change(changed)
    for _cluster, command in itertools.islice(filled.changes(), CHANGES):
        applied.append(_took(lambda entry=command: filled.send(entry)))  # type: ignore[misc]
    followed = []
    for delta in deltas:
        data = encode(delta)
        followed.append(_took(lambda raw=data: view.take(state.apply(decode_answer(raw)))))  # type: ignore[misc]
    behind = state.request()
    for _cluster, command in itertools.islice(filled.changes(), BEHIND):
        filled.send(command)
    missed_s, missed_bytes = asyncio.run(_catch_up(feed, state, view, behind, catalog.revision))
    chunks: list[bytes] = []
    snapshot_s = _took(lambda: chunks.extend(catalog.snapshot()))
    assert catalog.tables.endpoints == state.tables.endpoints, "the follower has another catalog"
    restore_s = _took(lambda: Catalog().restore(chunks))
    return Growth(
        endpoints=size,
        clusters=clusters,
        machine_bytes=machine / size,
        projection_bytes=projection / size,
        apply_us=median(applied) * 1e6,
        delta_bytes=int(median(len(encode(delta)) for delta in deltas)),
        follow_us=median(followed) * 1e6,
        snapshot_s=snapshot_s,
        snapshot_bytes=sum(map(len, chunks)),
        restore_s=restore_s,
        copy_s=copy_s,
        copy_bytes=copy_bytes,
        missed_s=missed_s,
        missed_bytes=missed_bytes,
        view_s=view_s,
    )


async def _copy(feed: Feed, state: FollowerState) -> tuple[float, int, float, FollowedView]:
    """Have a follower take the whole catalog, over the codec; then compute its view."""
    began_s = time.perf_counter()
    total = 0
    answers = feed.subscribe(state.cluster, state.request())
    view = FollowedView(state)
    async for answer in answers:
        data = encode(answer)
        total += len(data)
        update = state.apply(decode_answer(data))
        if isinstance(answer, SnapshotEnd):
            break
    copied_s = time.perf_counter() - began_s
    await answers.aclose()
    began_s = time.perf_counter()
    view.take(update)
    return copied_s, total, time.perf_counter() - began_s, view


async def _catch_up(
    feed: Feed, state: FollowerState, view: FollowedView, request: FollowRequest, until: int
) -> tuple[float, int]:
    began_s = time.perf_counter()
    total = 0
    answers = feed.subscribe(state.cluster, request)
    async for answer in answers:
        total += _take(answer, state, view)
        if state.revision >= until:
            break
    took_s = time.perf_counter() - began_s
    await answers.aclose()
    return took_s, total


def _take(answer: FollowAnswer, state: FollowerState, view: FollowedView) -> int:
    data = encode(answer)
    update = state.apply(decode_answer(data))
    if not update.empty:
        view.take(update)
    return len(data)


def _named_apart(row: Endpoint) -> Endpoint:
    """Return the row in a service of its cluster alone, so that services have one size however many clusters there are."""
    key = row.key._replace(service=f"{row.key.cluster}-{row.key.service}")
    return msgspec.structs.replace(row, key=key)


def _put(key: ResourceKey, spec: AnySpec) -> Put:
    return Put(key=key, spec=msgspec.json.encode(spec))


def _took(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


def _rss_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(msgspec.json.encode(measure(int(sys.argv[1]), int(sys.argv[2]))).decode())

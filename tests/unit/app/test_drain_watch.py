"""What a controller makes of its agents' reports while clusters are drained: a row when too much fails, else nothing."""

import asyncio
from typing import Any

import pytest

from discovery.core.commands import Delete, Put
from discovery.core.drain_reports import WATCHED_AFTER_MS_MIN
from discovery.core.kinds import decode_spec
from discovery.core.specs import DrainSpec, ServiceTraffic
from federation.api.messages import TrafficReport, WatchedDrain
from federation.api.proposer import Proposer
from federation.app.drain_watch import DrainWatch
from federation.kernel.errors import InvalidInputError
from tests.unit.app.direct_log import DirectLog
from tests.unit.discovery.builders import Log, founded, key, put_drain

BETA = WatchedDrain(cluster="beta", started_ms=0)


class Watching:
    """alpha's controller, which serves alpha and its remote delta; beta is drained."""

    def __init__(self, **drain: Any) -> None:
        self.log: Log = founded()
        self.log.accept("alpha", put_drain("beta", **drain))
        self.now_s = 100.0
        registries: Any = dict.fromkeys(("alpha", "delta"))
        self.watch = DrainWatch(
            catalog=self.log.catalog,
            proposer=Proposer(DirectLog(self.log), cluster="alpha"),
            registries=registries,
            clock=lambda: self.now_s,
        )
        self.watch.look()

    def report(
        self, requests: int, errors: int, *, cluster: str = "alpha", drained: str = "beta", services: int = 1
    ) -> None:
        one = ServiceTraffic(service="shop/orders:8080", requests=requests, errors=errors)
        self.watch.take(cluster, TrafficReport(drained=drained, started_ms=0, services=(one,) * services))

    def say(self) -> list[Put | Delete]:
        """Let it write what it has to, and return that."""
        self.watch.look()
        operations = list(self.watch.differences())
        if operations:
            self.log.accept("alpha", *operations)
        return operations

    def drain(self) -> DrainSpec:
        row = self.log.catalog.tables.resource(key("Drain", "beta"))
        assert row is not None
        spec = decode_spec("Drain", row.spec, where="test")
        assert isinstance(spec, DrainSpec)
        return spec


def test_a_drain_under_which_nothing_fails_writes_nothing():
    one = Watching()
    for _ in range(10):
        one.report(100, 1)
        assert one.say() == []
        one.now_s += 1


def test_what_fails_is_written_once_ends_the_drain_and_is_taken_back():
    one = Watching()
    one.report(100, 0)
    one.report(100, 20)
    (said,) = one.say()
    assert (type(said), said.key) == (Put, key("DrainReport", "beta", scope="alpha"))
    assert "cluster alpha too many requests fail: shop/orders:8080 10.00% of 200" in one.drain().rolled_back
    assert one.drain().share_percent == 100
    assert one.say() == [Delete(key=said.key)]
    assert one.say() == []
    one.report(100, 50)  # An agent that has not heard of the end yet.
    assert one.say() == []


def test_a_remote_cluster_is_spoken_for_by_its_home():
    one = Watching()
    one.report(100, 20, cluster="delta")
    (said,) = one.say()
    assert said.key.scope == "delta"
    assert "callers in cluster delta" in one.drain().rolled_back


def test_callers_of_different_clusters_are_not_thrown_together():
    one = Watching()
    one.report(40, 2, cluster="alpha")
    one.report(40, 2, cluster="delta")
    assert one.say() == []


@pytest.mark.parametrize(
    "drain",
    [
        pytest.param({"forced": True}, id="by-force"),
        pytest.param({"rolledBack": "why"}, id="given-up"),
        pytest.param({"startedMs": 5}, id="another-one"),
        pytest.param({"errorsPerMillionMax": 500_000}, id="that-allows-it"),
    ],
)
def test_a_drain_that_errors_do_not_end(drain):
    one = Watching(**drain)
    one.report(100, 20)
    assert one.say() == []


@pytest.mark.parametrize(
    ("every_ms", "watched_s"),
    [(60_000, 60.0), pytest.param(0, WATCHED_AFTER_MS_MIN / 1000, id="a-drain-at-once")],
)
def test_after_the_last_step_it_is_looked_at_for_as_long_as_errors_count(every_ms, watched_s):
    one = Watching(share_percent=0, everyMs=every_ms)
    one.now_s += watched_s
    one.report(100, 0)
    assert one.say() == []
    assert tuple(one.watch._drains) == (BETA,)
    one.now_s += 0.1
    one.watch.look()
    assert not one.watch._drains
    one.report(100, 100)
    assert one.say() == []


@pytest.mark.parametrize(
    ("counted", "message"),
    [
        pytest.param({"requests": -1, "errors": 0}, "expected 0 to as many", id="negative"),
        pytest.param({"requests": 1, "errors": 2}, "errors is 2 of 1", id="more-errors-than-requests"),
        pytest.param({"requests": 2**60, "errors": 2}, "at most", id="huge"),
        pytest.param({"requests": 2, "errors": 1, "services": 21}, "has 21 services", id="too-many"),
    ],
)
def test_what_no_envoy_counts_is_refused(counted, message):
    one = Watching()
    with pytest.raises(InvalidInputError, match=message):
        one.report(**counted)
    assert one.say() == []


async def test_agents_are_told_which_drains_to_watch_and_when_that_is_over():
    one = Watching()
    told = one.watch.watched()
    assert await anext(told) == (BETA,)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(anext(told))  # type: ignore[arg-type]  # an async generator gives coroutines
        await asyncio.sleep(0)
        assert not waiting.done()
        one.log.accept("alpha", Delete(key=key("Drain", "beta")))
        one.watch.look()
    assert waiting.result() == ()

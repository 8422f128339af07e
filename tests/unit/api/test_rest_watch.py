"""Watches over HTTP, on a catalog whose history the test decides; who may watch is tested elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest
from aiohttp import web

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from discovery.core.catalog import Catalog
from discovery.core.commands import Put
from federation.api import rest
from federation.api.proposer import Proposer
from federation.api.rest import ResourceApi, errors_to_status
from federation.api.watch import WatchHub
from federation.kernel.errors import NotAllowedError
from tests.support.wait import eventually_async
from tests.unit.api.logs import CatalogLog
from tests.unit.discovery.builders import Log, founded, put_export

POLICIES = "/apis/federation.isthmus.dev/v1alpha1/namespaces/shop/exportpolicies"
WAIT_S = 60.0


class OpenApi(ResourceApi):
    """Lets everybody in, until it is to refuse them."""

    refused = ""

    def _authorize(self, request: web.Request) -> str:
        if self.refused:
            raise NotAllowedError(self.refused)
        return "a test"


@asynccontextmanager
async def serving(log: Log) -> AsyncIterator[tuple[OpenApi, WatchHub, aiohttp.ClientSession]]:
    watches = WatchHub(log.catalog.history)
    api = OpenApi(
        cluster="alpha",
        catalog=log.catalog,
        proposer=Proposer(CatalogLog(log), cluster="alpha"),
        watches=watches,
        verifier=Verifier(dict, clock=utc_now),
    )
    app = web.Application(middlewares=[errors_to_status])
    app.add_routes(api.routes())
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession(base_url=f"http://{host}:{port}") as session:
            yield api, watches, session
    finally:
        await runner.cleanup()


async def test_a_watch_from_a_revision_whose_history_is_gone_is_told_to_list_again() -> None:
    before = founded()
    catalog = Catalog()
    catalog.restore(before.catalog.snapshot())  # As a controller that started from a snapshot.
    async with serving(Log(catalog, index=before.index)) as (_, _, session):
        async with session.get(f"{POLICIES}?watch=true&resourceVersion=1") as answer:
            body = await answer.json()
            assert (answer.status, body["reason"]) == (410, "Expired")
            assert "list again" in body["message"]
        newest = catalog.revision
        async with session.get(f"{POLICIES}?watch=true&resourceVersion={newest}") as answer:
            assert answer.status == 200


async def test_a_watch_ends_with_its_client_even_while_nothing_changes() -> None:
    async with serving(founded()) as (api, _, session):
        async with session.get(f"{POLICIES}?watch=true") as answer:
            assert answer.status == 200
            assert api._watching == 1
            answer.close()
        await eventually_async(lambda: api._watching == 0, timeout_s=WAIT_S)


async def test_the_number_of_watches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "WATCHES_MAX", 1)
    async with serving(founded()) as (_, _, session), session.get(f"{POLICIES}?watch=true") as first:
        assert first.status == 200
        async with session.get(f"{POLICIES}?watch=true") as second:
            assert second.status == 429
            assert "no more are allowed" in (await second.json())["message"]


async def test_a_watch_tells_only_of_its_own_kind_namespace_and_cluster() -> None:
    log = founded()
    path = f"/clusters/alpha{POLICIES}?watch=true&resourceVersion={log.catalog.revision}"
    async with serving(log) as (_, watches, session), session.get(path) as answer:
        log.accept("alpha", put_export("alpha", "bank", "x"))
        log.accept("beta", put_export("beta", "shop", "x"))
        log.accept("alpha", put_export("alpha", "shop", "x", name="mine"))
        watches.notify()
        event = msgspec.json.decode(await answer.content.readline())
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "mine")


async def test_a_new_status_of_an_object_that_is_as_it_was_made_is_no_new_object() -> None:
    log = founded()
    path = f"{POLICIES}?watch=true&resourceVersion={log.catalog.revision}"
    made = put_export("alpha", "shop", "x")
    async with serving(log) as (_, watches, session), session.get(path) as answer:
        log.accept("alpha", made)
        log.accept("alpha", Put(key=made.key, status=b'{"conditions":[]}'))
        watches.notify()
        events = [msgspec.json.decode(await answer.content.readline()) for _ in range(2)]
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED"]
        assert [event["object"]["metadata"]["generation"] for event in events] == [1, 1]


async def test_a_watch_ends_before_an_event_that_its_caller_may_not_see_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its certificate expired, or its cluster has another home: who he is was judged when the watch began."""
    monkeypatch.setattr(rest, "WATCHER_JUDGED_S", 0.0)
    log = founded()
    path = f"{POLICIES}?watch=true&resourceVersion={log.catalog.revision}"
    async with serving(log) as (api, watches, session), session.get(path) as answer:
        log.accept("alpha", put_export("alpha", "shop", "x", name="seen"))
        watches.notify()
        event = msgspec.json.decode(await answer.content.readline())
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "seen")
        api.refused = "operator admin is one of another cluster by now"
        log.accept("alpha", put_export("alpha", "shop", "x", name="unseen"))
        watches.notify()
        event = msgspec.json.decode(await answer.content.readline())
        assert (event["type"], event["object"]) == ("ERROR", {"code": 403, "message": api.refused})
        assert await answer.content.readline() == b""
        await eventually_async(lambda: api._watching == 0, timeout_s=WAIT_S)

"""The ADS stream as a table: what the proxy says, what changes, and what it must be sent."""

from collections.abc import Iterable, Mapping

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.wrappers_pb2 import StringValue

from federation.kernel.errors import InvalidInputError, LimitExceededError
from gateways.core import ads
from gateways.core.ads import Ack, AdsStream, Response
from gateways.core.wire import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    SECRET,
    SHORT_NAMES,
    XdsResource,
    make_resource,
)


class Table:
    """A lookup whose rows a test sets; content stands for the message."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], XdsResource] = {}

    def put(self, type_url: str, name: str, content: str = "1") -> XdsResource:
        row = make_resource(type_url, name, StringValue(value=content))
        self.rows[type_url, name] = row
        return row

    def drop(self, type_url: str, name: str) -> None:
        del self.rows[type_url, name]

    def get(self, type_url: str, name: str) -> XdsResource | None:
        return self.rows.get((type_url, name))

    def names(self, type_url: str) -> list[str]:
        return [name for kind, name in self.rows if kind == type_url]


class Proxy:
    """One proxy's side of the stream; `log` is what it was sent, as `CDS a,b -c`."""

    def __init__(self, table: Table) -> None:
        self.stream = AdsStream(table)
        self.log: list[str] = []
        self.open: dict[str, Response] = {}

    def ask(
        self,
        type_url: str,
        subscribe: Iterable[str] = (),
        *,
        unsubscribe: Iterable[str] = (),
        has: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str = "",
    ) -> Ack | None:
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=type_url,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=has or {},
            response_nonce=nonce,
        )
        if error:
            request.error_detail.message = error
        ack = self.stream.on_request(request)
        self.take()
        return ack

    def answer(self, type_url: str, error: str = "") -> Ack | None:
        return self.ask(type_url, nonce=self.open.pop(type_url).nonce, error=error)

    def change(self, type_url: str, *names: str) -> None:
        self.stream.on_change({type_url: names})
        self.take()

    def take(self) -> None:
        for response in self.stream.take():
            assert response.type_url not in self.open, "two unacknowledged responses of one type"
            self.open[response.type_url] = response
            what = [",".join(resource.name for resource in response.resources)]
            what += [f"-{name}" for name in response.removed]
            self.log.append(" ".join([SHORT_NAMES.get(response.type_url, "?"), *filter(None, what)]))

    def sent(self) -> list[str]:
        log, self.log = self.log, []
        return log

    def settle(self) -> None:
        while self.open:
            self.answer(next(iter(self.open)))


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def proxy(table: Table) -> Proxy:
    return Proxy(table)


def test_a_wildcard_gets_everything_and_a_first_response_even_when_there_is_nothing(table, proxy):
    proxy.ask(LISTENER)
    assert proxy.sent() == ["LDS"]
    table.put(CLUSTER, "a")
    table.put(CLUSTER, "b")
    proxy.ask(CLUSTER)
    assert proxy.sent() == ["CDS a,b"]


def test_names_may_be_added_to_a_wildcard(table, proxy):
    table.put(CLUSTER, "a")
    proxy.ask(CLUSTER)
    proxy.settle()
    proxy.sent()
    proxy.ask(CLUSTER, ["z"])
    assert proxy.sent() == ["CDS -z"]
    proxy.settle()
    table.put(CLUSTER, "b")
    proxy.change(CLUSTER, "b")
    assert proxy.sent() == ["CDS b"]


@pytest.mark.parametrize(
    ("type_url", "expected"),
    [
        pytest.param(ENDPOINTS, ["EDS -x"], id="endpoints-or-envoy-waits-15-s"),
        pytest.param(ROUTES, ["RDS -x"], id="routes"),
        pytest.param(SECRET, [], id="secrets-never-or-a-listener-starts-without"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_but_for_secrets(table, proxy, type_url, expected):
    proxy.ask(type_url, ["x"])
    assert proxy.sent() == expected
    proxy.settle()
    table.put(type_url, "x")
    proxy.change(type_url, "x")
    assert proxy.sent() == [f"{SHORT_NAMES[type_url]} x"]


def test_a_secret_that_is_taken_away_is_not_announced(table, proxy):
    table.put(SECRET, "x")
    proxy.ask(SECRET, ["x"])
    proxy.settle()
    proxy.sent()
    table.drop(SECRET, "x")
    proxy.change(SECRET, "x")
    assert proxy.sent() == []


def test_changes_merge_while_a_response_is_unacknowledged(table, proxy):
    table.put(ENDPOINTS, "a", "1")
    proxy.ask(ENDPOINTS, ["a"])
    for content in "234":
        table.put(ENDPOINTS, "a", content)
        proxy.change(ENDPOINTS, "a")
    assert proxy.sent() == ["EDS a"]
    proxy.answer(ENDPOINTS)
    assert proxy.sent() == ["EDS a"]
    proxy.answer(ENDPOINTS)
    assert proxy.sent() == []


def test_what_changes_and_changes_back_is_not_sent(table, proxy):
    table.put(ENDPOINTS, "a", "1")
    table.put(ENDPOINTS, "b", "1")
    proxy.ask(ENDPOINTS, ["a", "b"])
    table.put(ENDPOINTS, "a", "2")
    proxy.change(ENDPOINTS, "a")
    table.put(ENDPOINTS, "a", "1")
    proxy.change(ENDPOINTS, "a")
    proxy.sent()
    proxy.answer(ENDPOINTS)
    assert proxy.sent() == []


def test_a_change_of_what_nobody_asked_for_is_not_sent(table, proxy):
    proxy.ask(ENDPOINTS, ["a"])
    proxy.settle()
    proxy.sent()
    table.put(ENDPOINTS, "b")
    proxy.change(ENDPOINTS, "b")
    proxy.change(ROUTES, "b")
    assert proxy.sent() == []


def test_the_endpoints_of_an_updated_cluster_are_sent_again_after_it(table, proxy):
    table.put(CLUSTER, "a", "1")
    table.put(ENDPOINTS, "a")
    proxy.ask(CLUSTER)
    proxy.ask(ENDPOINTS, ["a"])
    proxy.settle()
    assert proxy.sent() == ["CDS a", "EDS a"]
    table.put(CLUSTER, "a", "2")
    proxy.change(CLUSTER, "a")
    assert proxy.sent() == ["CDS a", "EDS a"]


def test_so_are_they_when_the_update_comes_before_the_endpoints_are_asked_for_after_a_reconnect(table, proxy):
    old = table.put(CLUSTER, "a", "1").version
    endpoints = table.put(ENDPOINTS, "a").version
    table.put(CLUSTER, "a", "2")
    proxy.ask(CLUSTER, has={"a": old})
    proxy.ask(ENDPOINTS, ["a"], has={"a": endpoints})
    assert proxy.sent() == ["CDS a", "EDS a"]


def test_after_a_reconnect_what_is_equal_is_not_sent_and_what_is_gone_is_removed(table, proxy):
    same = table.put(CLUSTER, "same").version
    table.put(CLUSTER, "newer", "2")
    proxy.ask(CLUSTER, ["*"], has={"same": same, "newer": "old-version", "gone": "v"})
    proxy.settle()
    assert proxy.sent() == ["CDS newer", "CDS -gone"]


def test_a_reconnect_to_a_controller_with_the_same_view_sends_nothing(table, proxy):
    version = table.put(ENDPOINTS, "a").version
    proxy.ask(ENDPOINTS, ["a"], has={"a": version})
    assert proxy.sent() == []


def test_what_is_asked_for_again_is_sent_again(table, proxy):
    table.put(ENDPOINTS, "a")
    proxy.ask(ENDPOINTS, ["a"])
    proxy.settle()
    proxy.ask(ENDPOINTS, unsubscribe=["a"])
    proxy.ask(ENDPOINTS, ["a"])
    proxy.settle()
    proxy.ask(ENDPOINTS, ["a"])
    assert proxy.sent() == ["EDS a"] * 3


def test_routes_and_listeners_wait_until_new_clusters_are_acknowledged(table, proxy):
    for type_url in (CLUSTER, LISTENER, ROUTES):
        proxy.ask(type_url, ["*"])
    proxy.settle()
    proxy.sent()
    table.put(CLUSTER, "c")
    table.put(LISTENER, "l")
    table.put(ROUTES, "r")
    proxy.stream.on_change({ROUTES: ["r"], LISTENER: ["l"], CLUSTER: ["c"]})
    proxy.take()
    assert proxy.sent() == ["CDS c"]
    proxy.answer(CLUSTER)
    assert proxy.sent() == ["LDS l", "RDS r"]


def test_a_cluster_is_removed_only_after_the_routes_that_named_it_are_acknowledged(table, proxy):
    table.put(CLUSTER, "c")
    table.put(ENDPOINTS, "c")
    table.put(ROUTES, "r", "to c")
    for type_url in (CLUSTER, ENDPOINTS, ROUTES):
        proxy.ask(type_url, ["*"])
    proxy.settle()
    proxy.sent()
    table.drop(CLUSTER, "c")
    table.drop(ENDPOINTS, "c")
    table.put(ROUTES, "r", "to nothing")
    proxy.stream.on_change({CLUSTER: ["c"], ENDPOINTS: ["c"], ROUTES: ["r"]})
    proxy.take()
    assert proxy.sent() == ["RDS r"]
    proxy.answer(ROUTES)
    assert proxy.sent() == ["CDS -c"]
    proxy.answer(CLUSTER)
    assert proxy.sent() == ["EDS -c"]


def test_new_clusters_go_first_and_old_ones_last_in_one_change(table, proxy):
    table.put(CLUSTER, "old")
    table.put(ROUTES, "r", "to old")
    proxy.ask(CLUSTER, ["*"])
    proxy.ask(ROUTES, ["r"])
    proxy.settle()
    proxy.sent()
    table.drop(CLUSTER, "old")
    table.put(CLUSTER, "new")
    table.put(ROUTES, "r", "to new")
    proxy.stream.on_change({CLUSTER: ["old", "new"], ROUTES: ["r"]})
    proxy.take()
    proxy.settle()
    assert proxy.sent() == ["CDS new", "RDS r", "CDS -old"]


def test_a_cluster_that_comes_back_before_its_removal_stays(table, proxy):
    table.put(CLUSTER, "c")
    table.put(ROUTES, "r", "1")
    proxy.ask(CLUSTER, ["*"])
    proxy.ask(ROUTES, ["r"])
    proxy.settle()
    table.put(ROUTES, "r", "2")
    row = table.rows.pop((CLUSTER, "c"))
    proxy.stream.on_change({CLUSTER: ["c"], ROUTES: ["r"]})
    proxy.take()
    proxy.sent()
    table.rows[CLUSTER, "c"] = row
    proxy.change(CLUSTER, "c")
    proxy.settle()
    assert proxy.sent() == []


def test_a_rejected_resource_that_is_named_waits_for_its_next_version_and_stops_nothing_else(table, proxy):
    table.put(CLUSTER, "good", "1")
    table.put(CLUSTER, "bad", "1")
    proxy.ask(CLUSTER)
    ack = proxy.answer(CLUSTER, error="Error adding/updating cluster(s) bad: no such type")
    assert ack is not None
    assert ack.rejected == ("bad",)
    proxy.change(CLUSTER, "bad", "good")
    assert proxy.sent() == ["CDS bad,good"]
    assert proxy.stream.status()[0].quarantined == ("bad",)
    table.put(CLUSTER, "good", "2")
    proxy.change(CLUSTER, "good")
    table.put(CLUSTER, "bad", "2")
    proxy.change(CLUSTER, "bad")
    proxy.settle()
    assert proxy.sent() == ["CDS good", "CDS bad"]
    assert proxy.stream.status()[0] == ads.TypeStatus(
        type_url=CLUSTER, status="acked", sent=2, error="", quarantined=()
    )


def test_a_rejected_resource_that_returns_to_what_the_proxy_has_is_not_sent(table, proxy):
    table.put(CLUSTER, "a", "1")
    proxy.ask(CLUSTER)
    proxy.settle()
    table.put(CLUSTER, "a", "bad")
    proxy.change(CLUSTER, "a")
    proxy.answer(CLUSTER, error="cluster(s) a: broken")
    proxy.sent()
    table.put(CLUSTER, "a", "1")
    proxy.change(CLUSTER, "a")
    assert proxy.sent() == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Error adding/updating cluster(s) outbound|80||a: why", True),
        ("Error adding/updating cluster(s) outbound|80||a|beta: why", False),
        ("Error adding/updating cluster(s) x: why, outbound|80||a: why", True),
        ("cluster 'outbound|80||a' is bad", True),
        ("xoutbound|80||a: why", False),
        ("something else", False),
    ],
)
def test_an_error_names_a_resource_only_by_its_whole_name(text, named):
    assert ads._is_named("outbound|80||a", text) is named


def test_when_the_error_names_nobody_all_are_sent_one_by_one_until_the_bad_one_is_found(table, proxy):
    for name in "abc":
        table.put(ENDPOINTS, name)
    proxy.ask(ENDPOINTS, ["a", "b", "c"])
    proxy.answer(ENDPOINTS, error="malformed IP address")
    while ENDPOINTS in proxy.open:
        is_bad = proxy.open[ENDPOINTS].resources[0].name == "b"
        proxy.answer(ENDPOINTS, error="malformed IP address" if is_bad else "")
    assert proxy.sent() == ["EDS a,b,c", "EDS a", "EDS b", "EDS c"]
    assert proxy.stream.status()[0].quarantined == ("b",)


def test_a_relay_may_reject_later_what_it_accepted_and_take_it_back(table, proxy):
    table.put(CLUSTER, "a")
    proxy.ask(CLUSTER)
    nonce = proxy.open[CLUSTER].nonce
    proxy.answer(CLUSTER)
    proxy.sent()
    ack = proxy.ask(CLUSTER, nonce=nonce, error="cluster(s) a: my envoy refuses")
    assert ack is not None
    assert (ack.rejected, proxy.stream.status()[0].status) == (("a",), "nacked")
    proxy.ask(CLUSTER, nonce=nonce)
    assert proxy.stream.status()[0].status == "acked"
    assert proxy.sent() == []


def test_what_was_rejected_may_be_tried_again(table, proxy):
    table.put(LISTENER, "a")
    proxy.ask(LISTENER)
    proxy.answer(LISTENER, error="listener(s) a: cannot bind")
    proxy.sent()
    proxy.stream.retry(LISTENER)
    proxy.take()
    proxy.settle()
    assert proxy.sent() == ["LDS a"]
    assert proxy.stream.status()[0].status == "acked"
    proxy.stream.retry(LISTENER)
    proxy.take()
    assert proxy.sent() == []


def test_a_stale_nonce_acknowledges_nothing(table, proxy):
    table.put(CLUSTER, "a")
    proxy.ask(CLUSTER)
    assert proxy.ask(CLUSTER, nonce="77") is None
    assert proxy.stream.status()[0].status == "waiting"


def test_a_large_response_is_sent_in_parts(table, proxy, monkeypatch):
    monkeypatch.setattr(ads, "RESPONSE_BYTES_MAX", 100)
    for name in "abcdef":
        table.put(CLUSTER, name, "x" * 60)
    proxy.ask(CLUSTER)
    proxy.settle()
    assert proxy.sent() == ["CDS a", "CDS b", "CDS c", "CDS d", "CDS e", "CDS f"]


def test_a_request_without_type_ends_the_stream(proxy):
    with pytest.raises(InvalidInputError, match="without type_url"):
        proxy.ask("")


def test_names_are_bounded(proxy, monkeypatch):
    monkeypatch.setattr(ads, "NAMES_MAX", 3)
    with pytest.raises(LimitExceededError, match="has 4 names, at most 3"):
        proxy.ask(ENDPOINTS, ["a", "b", "c", "d"])


def test_types_are_bounded(proxy):
    for number in range(ads.TYPES_MAX):
        proxy.ask(f"type-{number}", ["a"])
    with pytest.raises(LimitExceededError, match="already has 16 types"):
        proxy.ask("one-more", ["a"])


def test_an_unknown_type_is_answered_with_nothing(proxy):
    proxy.ask("type.googleapis.com/some.Other", ["a"])
    assert proxy.sent() == ["? -a"]


def test_the_encoded_response_is_what_protobuf_would_have_written(table, proxy):
    table.put(CLUSTER, "a", "x" * 300)
    table.put(CLUSTER, "b")
    proxy.ask(CLUSTER, ["*", "gone"])
    response = discovery_pb2.DeltaDiscoveryResponse.FromString(proxy.open[CLUSTER].encode())
    assert [(each.name, each.resource.type_url) for each in response.resources] == [
        ("a", CLUSTER),
        ("b", CLUSTER),
    ]
    assert list(response.removed_resources) == ["gone"]
    assert (response.type_url, response.nonce) == (CLUSTER, "1")

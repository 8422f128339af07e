"""The agent's store and its disk copy: complete or not used, the proxy's own or nobody's, without secrets."""

import asyncio
import stat
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from federation.kernel.errors import BadIdentityError, CorruptError
from gateways.core.ads import Ack
from gateways.core.trust import own_certificate_secret
from gateways.core.wire import CLUSTER, ENDPOINTS, ORDER, SECRET, XdsResource, make_resource
from gateways.runtime.relay_cache import RelayCache, read_cache
from gateways.runtime.relay_store import RelayStore
from gateways.runtime.source import NodeInfo

NODE = NodeInfo(id="s1", cluster="alpha", description="", user_agent="")
OWN = own_certificate_secret(chain_pem="CHAIN", key_pem="THE PRIVATE KEY")


def resource(name: str, content: str = "1", type_url: str = CLUSTER) -> XdsResource:
    return make_resource(type_url, name, StringValue(value=content))


def complete_store() -> RelayStore:
    store = RelayStore("s1")
    for type_url in ORDER:
        store.apply(type_url, [resource("a", type_url=type_url)], [])
    store.set_local(OWN)
    return store


def saved(path: Path) -> Path:
    asyncio.run(RelayCache(complete_store(), path).save())
    return path


def test_a_store_is_ready_once_it_has_heard_of_every_type():
    store = RelayStore("s1")
    for type_url in ORDER:
        assert not store.ready.is_set()
        store.apply(type_url, [], [])
    assert store.ready.is_set()


def test_only_its_own_proxy_is_served():
    with pytest.raises(BadIdentityError, match="xds node 's1' on the socket of proxy 'other'"):
        RelayStore("other").open(NODE, "")


def test_a_change_reaches_the_streams_that_are_open():
    store = complete_store()
    subscription, closed = store.open(NODE, ""), store.open(NODE, "")
    closed.close()
    store.apply(CLUSTER, [resource("b")], ["a", "never-there"])
    store.set_local(own_certificate_secret(chain_pem="NEXT", key_pem="KEY"))
    assert subscription.take_dirty() == {CLUSTER: {"a", "b"}, SECRET: {"default"}}
    assert closed.take_dirty() == {}


def test_an_own_secret_hides_the_controllers():
    store = complete_store()
    store.apply(SECRET, [resource("default", type_url=SECRET)], [])
    assert store.get(SECRET, "default") == OWN
    assert store.names(SECRET) == {"a", "default"}


def test_a_verdict_is_passed_on_when_it_changes_and_only_then():
    async def scenario() -> None:
        store = complete_store()
        subscription = store.open(NODE, "")
        subscription.on_ack(Ack(type_url=ENDPOINTS, nonce="1"))
        subscription.on_ack(Ack(type_url=CLUSTER, nonce="1", error="x", standing="a: x"))
        assert list(await store.verdict_types()) == [CLUSTER]
        assert store.rejections == {CLUSTER: "a: x"}
        subscription.on_ack(Ack(type_url=CLUSTER, nonce="2"))
        assert list(await store.verdict_types()) == [CLUSTER]
        assert store.rejections == {}

    asyncio.run(scenario())


def test_a_copy_is_private_whole_and_without_the_own_key(tmp_path):
    path = saved(tmp_path / "xds.cache")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in path.read_bytes()
    store = RelayStore("s1")
    assert RelayCache(store, path).load()
    assert store.ready.is_set()
    assert store.remote_resources() == complete_store().remote_resources()


def test_an_incomplete_store_is_not_written(tmp_path):
    store = RelayStore("s1")
    store.apply(CLUSTER, [resource("a")], [])
    asyncio.run(RelayCache(store, tmp_path / "xds.cache").save())
    assert list(tmp_path.iterdir()) == []


def test_without_a_copy_nothing_is_loaded(tmp_path):
    store = RelayStore("s1")
    assert not RelayCache(store, tmp_path / "xds.cache").load()
    assert not store.ready.is_set()


def flipped(raw: bytes) -> bytes:
    return raw[:-5] + bytes([raw[-5] ^ 1]) + raw[-4:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(flipped, "fails its checksum", id="flipped-bit"),
        pytest.param(lambda raw: raw[:-1], "fails its checksum", id="cut"),
        pytest.param(lambda raw: b"", "does not begin as", id="empty"),
        pytest.param(lambda raw: b"isthmus-xds-cache-0\n" + raw[20:], "does not begin as", id="version"),
    ],
)
def test_a_damaged_copy_is_moved_aside_and_not_used(tmp_path, damage, message):
    path = saved(tmp_path / "xds.cache")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptError, match=message):
        read_cache(path, "s1")
    store = RelayStore("s1")
    assert not RelayCache(store, path).load()
    assert store.remote_resources() == []
    assert [each.name for each in tmp_path.iterdir()] == ["xds.cache.bad"]


def test_another_proxys_copy_is_not_used(tmp_path):
    path = saved(tmp_path / "xds.cache")
    with pytest.raises(CorruptError, match="belongs to proxy 's1', not to 's2'"):
        read_cache(path, "s2")
    assert not RelayCache(RelayStore("s2"), path).load()


def test_a_burst_of_changes_and_the_end_leave_the_newest_on_disk(tmp_path):
    path = tmp_path / "xds.cache"

    async def scenario() -> None:
        store = complete_store()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(RelayCache(store, path).run())
            await asyncio.sleep(0)  # Let it begin.
            for number in range(20):
                store.apply(CLUSTER, [resource("a", str(number))], [])
            running.cancel()

    asyncio.run(scenario())
    (found,) = [each for each in read_cache(path, "s1").resources if each.type_url == CLUSTER]
    assert found == resource("a", "19")

"""pysyncobj is what it was when its source was read; a new version needs the reading anew."""

import hashlib
import inspect
import re
from pathlib import Path

import pytest
from pysyncobj import SyncObj
from pysyncobj.monotonic import monotonic
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from consensus.runtime import hardened
from consensus.runtime.clock import SYSTEM_CLOCK
from consensus.runtime.library import LIBRARY_VERSION, Peer

PRIVATE_LINES_MAX = 600  # Beyond it our own Raft core takes the library's place (design, section 5).

# What we replace, extend, or rely on in its present form.
READ = {
    "__init__": "09df12cd7fd7d727",
    "_onTick": "cc9eb08232d005ba",
    "doTick": "bef78c2ba06d784b",
    "_applyCommand": "827f207d515b2d64",
    "_checkCommandsToApply": "a386a8079361d204",
    "_SyncObj__applyLogEntries": "073db677773b5a2d",
    "_SyncObj__onMessageReceived": "ddfe34b6c0282179",
    "_SyncObj__connectedToAnyone": "acd40e9e3ac6c4cc",
    "_SyncObj__onBecomeLeader": "5a3fd97bc17dc1cf",
    "_SyncObj__onLeaderChanged": "53b7685e1d897887",
    "_SyncObj__sendAppendEntries": "9cb9073128c392fa",
    "_SyncObj__tryLogCompaction": "c2f8a0ec14cc7312",
    "_SyncObj__setState": "2c1f239f7bd79b39",
    "_SyncObj__setCurrentTerm": "0ad5bf456ac06bd3",
    "_SyncObj__generateRaftTimeout": "92ed37d3620e781a",
    "_SyncObj__getCurrentLogIndex": "e5af22ca246686bd",
    "_SyncObj__getCurrentLogTerm": "1cb8867e6a13d397",
    "_SyncObj__getEntries": "e29c4b33293b2101",
    "_isLeader": "56c32c31db26cdc0",
}


def source_hash(name: str) -> str:
    return hashlib.sha256(inspect.getsource(getattr(SyncObj, name)).encode()).hexdigest()[:16]


def test_the_version_is_the_pinned_one() -> None:
    assert VERSION == LIBRARY_VERSION


@pytest.mark.parametrize("name", READ)
def test_each_function_that_we_override_or_rely_on_is_unchanged(name: str) -> None:
    assert source_hash(name) == READ[name]


def test_our_clock_is_the_library_s() -> None:
    before_s, library_s, after_s = SYSTEM_CLOCK.now_s(), monotonic(), SYSTEM_CLOCK.now_s()
    assert before_s <= library_s <= after_s


def test_every_private_name_in_use_exists_in_the_library() -> None:
    used = set(re.findall(r"_SyncObj__\w+", Path(hardened.__file__).read_text()))
    source = inspect.getsource(SyncObj)
    unknown = {name for name in used if f"self.{name.removeprefix('_SyncObj')}" not in source}
    assert not unknown


def test_private_names_stay_in_one_module_of_bounded_length() -> None:
    package = Path(hardened.__file__).parents[1]
    users = [path for path in package.rglob("*.py") if "_SyncObj__" in path.read_text()]
    assert users == [Path(hardened.__file__)]
    assert len(users[0].read_text().splitlines()) < PRIVATE_LINES_MAX


def test_a_peer_is_the_node_of_its_id() -> None:
    peer, node = Peer("beta"), Node("beta")

    assert peer == node
    assert node == peer
    assert Peer("alpha") != node
    assert node != Peer("alpha")
    assert {node: 1}[peer] == {peer: 1}[node] == 1
    assert isinstance(peer, Node)
    assert (peer.id, type(peer.id), str(peer)) == ("beta", str, "beta")

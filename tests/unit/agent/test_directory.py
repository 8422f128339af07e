"""Whom a process believes: the newest directory, on disk, in order of preference."""

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from discovery.core.specs import ControllerSpec
from federation.agent.directory import (
    DIRECTORY_FILE,
    DirectoryStore,
    own_controllers,
    preferred_controllers,
    save_directory,
)
from federation.api.messages import Directory, NamedController
from federation.kernel.errors import CorruptError, InvalidInputError, NotFoundError, PreconditionError


def controller(
    name: str, cluster: str, role: Literal["member", "mirror", "witness"] = "member"
) -> NamedController:
    return NamedController(
        name=name,
        spec=ControllerSpec(
            cluster=cluster,
            role=role,
            identity=f"spiffe://{cluster}.example/isthmus/{cluster}/controller/c1",
            control="" if role == "witness" else "127.106.0.1:7444",
        ),
    )


DIRECTORY = Directory(
    revision=5,
    federation="f1",
    controllers=(
        controller("gamma-c1", "gamma"),
        controller("beta-c1", "beta"),
        controller("alpha-c2", "alpha"),
        controller("alpha-c1", "alpha"),
        controller("witness-c1", "witness", "witness"),
        controller("alpha-m1", "alpha", "mirror"),
        controller("epsilon-m1", "epsilon", "mirror"),
    ),
    bundles={},
    homes={"delta": "alpha", "epsilon": "gamma"},
)


def names(controllers: tuple[NamedController, ...]) -> list[str]:
    return [one.name for one in controllers]


@pytest.mark.parametrize(
    ("cluster", "preferred", "own"),
    [
        pytest.param(
            "alpha",
            ["alpha-c1", "alpha-c2", "alpha-m1", "beta-c1", "gamma-c1"],
            ["alpha-c1", "alpha-c2", "alpha-m1"],
            id="own-first",
        ),
        pytest.param(
            "gamma",
            ["gamma-c1", "alpha-c1", "alpha-c2", "beta-c1"],
            ["gamma-c1"],
            id="then-any-other-member",
        ),
        pytest.param(
            "delta",
            ["alpha-c1", "alpha-c2", "alpha-m1", "beta-c1", "gamma-c1"],
            ["alpha-c1", "alpha-c2", "alpha-m1"],
            id="remote-uses-its-home",
        ),
        pytest.param(
            "epsilon",
            ["epsilon-m1", "gamma-c1", "alpha-c1", "alpha-c2", "beta-c1"],
            ["epsilon-m1", "gamma-c1"],
            id="a-mirror-of-its-own-goes-before-its-home",
        ),
        pytest.param(
            "witness", ["alpha-c1", "alpha-c2", "beta-c1", "gamma-c1"], [], id="a-witness-serves-nobody"
        ),
    ],
)
def test_controllers_are_preferred_by_nearness_and_witnesses_left_out(
    cluster: str, preferred: list[str], own: list[str]
) -> None:
    assert names(preferred_controllers(DIRECTORY, cluster)) == preferred
    assert names(own_controllers(DIRECTORY, cluster)) == own


def test_the_newest_directory_wins_and_is_on_disk(tmp_path: Path) -> None:
    save_directory(tmp_path, DIRECTORY)
    store = DirectoryStore.open(tmp_path)
    newer = msgspec.structs.replace(DIRECTORY, revision=6, controllers=(controller("beta-c1", "beta"),))
    assert store.offer(newer)
    assert not store.offer(msgspec.structs.replace(DIRECTORY, revision=6))
    assert not store.offer(DIRECTORY)
    assert store.current == newer
    assert DirectoryStore.open(tmp_path).current == newer


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        pytest.param({"federation": "f2"}, PreconditionError, "of federation 'f2'", id="another-federation"),
        pytest.param({"controllers": ()}, InvalidInputError, "names no controller", id="nobody-left-to-ask"),
        pytest.param({"bundles": {"x": ("no pem",)}}, InvalidInputError, "roots of x", id="unreadable-roots"),
    ],
)
def test_a_directory_that_would_cut_us_off_is_refused(
    tmp_path: Path, change: dict[str, object], error: type[Exception], text: str
) -> None:
    save_directory(tmp_path, DIRECTORY)
    store = DirectoryStore.open(tmp_path)
    with pytest.raises(error, match=text):
        store.offer(msgspec.structs.replace(DIRECTORY, revision=9, **change))
    assert store.current == DIRECTORY
    assert DirectoryStore.open(tmp_path).current == DIRECTORY


def test_no_directory_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=DIRECTORY_FILE):
        DirectoryStore.open(tmp_path)


def test_a_file_with_any_byte_changed_is_refused_or_reads_the_same(tmp_path: Path) -> None:
    save_directory(tmp_path, DIRECTORY)
    path = tmp_path / DIRECTORY_FILE
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x01]) + good[position + 1 :])
        with pytest.raises(CorruptError, match=DIRECTORY_FILE):
            DirectoryStore.open(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    save_directory(tmp_path, DIRECTORY)
    path = tmp_path / DIRECTORY_FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptError, match=DIRECTORY_FILE):
        DirectoryStore.open(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_directory(tmp_path, DIRECTORY)
    path = tmp_path / DIRECTORY_FILE
    path.write_bytes(path.read_bytes().replace(b"isthmus directory", b"isthmus something"))
    with pytest.raises(CorruptError, match="expected 'isthmus directory'"):
        DirectoryStore.open(tmp_path)

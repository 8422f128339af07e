"""Objects from files, folders and standard input."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from discovery.core.kinds import KINDS
from federation.cli.main import cli
from federation.cli.manifests import read_manifests
from federation.kernel.errors import InvalidInputError, NotFoundError

GRANT = """\
apiVersion: federation.isthmus.dev/v1alpha1
kind: Grant
metadata: {name: %s, namespace: shop}
"""


def labels(*filenames: str | Path) -> list[str]:
    return [one.label for one in read_manifests(tuple(map(str, filenames)))]


def test_a_folder_means_its_files_by_name_and_no_other_files_or_folders(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(GRANT % "second")
    (tmp_path / "a.yaml").write_text(GRANT % "first")
    (tmp_path / "README.md").write_text("not an object")
    (tmp_path / "inner.yaml").mkdir()
    (tmp_path / "inner.yaml" / "c.yaml").write_text("not an object")
    assert labels(tmp_path) == ["grant/first", "grant/second"]
    assert labels(tmp_path / "b.yml", tmp_path) == ["grant/second", "grant/first", "grant/second"]


def test_a_folder_without_objects_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no \.yaml, \.yml, \.json in this folder"):
        labels(tmp_path)


def test_a_list_means_its_items(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    items = [f"- {(GRANT % name).strip()}".replace("\n", "\n  ") for name in ("a", "b")]
    path.write_text("kind: List\napiVersion: v1\nitems:\n" + "\n".join(items) + "\n---\n" + GRANT % "c")
    assert labels(path) == ["grant/a", "grant/b", "grant/c"]
    assert [one.where.removeprefix(f"{path}: ") for one in read_manifests((str(path),))] == [
        "document 1, item 1",
        "document 1, item 2",
        "document 2",
    ]


def test_standard_input_is_named_when_it_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO((GRANT % "a").encode())))
    assert labels("-") == ["grant/a"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff")))
    with pytest.raises(InvalidInputError, match="standard input: not UTF-8 text"):
        labels("-")


@pytest.mark.parametrize("command", ["get", "delete"])
def test_the_help_names_every_kind(command: str) -> None:
    epilog = cli.commands[command].epilog
    assert epilog is not None
    named = set(epilog.replace(",", " ").replace(";", " ").split())
    assert {kind.plural for kind in KINDS.values()} <= named

"""Objects from files, folders and standard input."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from discovery.core.kinds import KINDS
from federation.cli.main import cli
from federation.cli.manifests import SIZE_MAX, read_manifests
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


def test_standard_input_is_named_when_it_is_no_text_or_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO((GRANT % "a").encode())))
    assert labels("-") == ["grant/a"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff")))
    with pytest.raises(InvalidInputError, match="standard input: not UTF-8 text"):
        labels("-")
    monkeypatch.setattr("sys.stdin", None)  # As after `<&-`.
    with pytest.raises(InvalidInputError, match="standard input is closed"):
        labels("-")


def multiplied(first: str, each: str, *, times: int = 9, levels: int = 12) -> str:
    """Anchors a0 to a11, each of which repeats the one before it."""
    repeated = [each % ", ".join([f"*a{level}"] * times) for level in range(levels)]
    return f"a0: &a0 {first}\n" + "".join(
        f"a{level}: &a{level} {text}\n" for level, text in enumerate(repeated, start=1)
    )


def nested(levels: int, depth: int) -> str:
    return "b0: &b0 1\n" + "".join(
        f"b{level}: &b{level} {'[' * depth}*b{level - 1}{']' * depth}\n" for level in range(1, levels)
    )


TOO_LARGE = f"document 1 is larger than {SIZE_MAX} bytes, what its aliases repeat included"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(multiplied("[1, 2]", "[%s]"), TOO_LARGE, id="lists"),
        pytest.param(multiplied("[1, 2]", "!!pairs [k: [%s]]"), TOO_LARGE, id="pairs"),
        pytest.param(multiplied("{x: 1, y: 2}", "{<<: [%s]}"), "not YAML: more than 32768 merged keys", id="merged-mappings"),
        pytest.param(f"a: &a {'x' * SIZE_MAX}\nb: [{'*a, ' * 20_000}]", TOO_LARGE, id="texts"),
        pytest.param(f"a: &a !!binary {'aaaa' * SIZE_MAX}", TOO_LARGE, id="bytes"),
        pytest.param(f"? {'k' * SIZE_MAX}\n: 1", TOO_LARGE, id="a-key"),
        pytest.param(f"a: &a [{'1, ' * 20_000} *a]", TOO_LARGE, id="a-long-list-that-holds-itself"),
        pytest.param("a: &a {x: 1, <<: *a}", "", id="a-mapping-that-merges-itself"),
        pytest.param(nested(20, 100), "document 1 holds what JSON cannot say", id="depth"),
        pytest.param("a: 0x" + "f" * 5_000, "document 1 holds what JSON cannot say", id="a-huge-number"),
        pytest.param('a: "\\ud800"', "document 1 holds what JSON cannot say", id="half-a-character"),
    ],
)  # fmt: skip
def test_an_object_that_grows_beyond_what_any_may_have_is_refused_at_once(
    tmp_path: Path, more: str, message: str
) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(GRANT % "a" + more + "\n")
    if not message:
        assert labels(path) == ["grant/a"]
        return
    with pytest.raises(InvalidInputError) as refused:
        labels(path)
    assert f"{path}: {message}" in refused.value.message


@pytest.mark.parametrize(
    "line", ["apiVersion: %s", "kind: %s", "metadata: {name: a, namespace: [%s]}", "metadata: {name: a, cluster: [%s]}"]
)  # fmt: skip
def test_a_refusal_does_not_carry_the_input_back_whole(tmp_path: Path, line: str) -> None:
    path = tmp_path / "wrong.yaml"
    field = line.partition(":")[0]
    kept = [one for one in (GRANT % "a").splitlines() if not one.startswith(field)]
    path.write_text("\n".join([*kept, line % ("x" * 10_000)]) + "\n")
    with pytest.raises(InvalidInputError) as refused:
        labels(path)
    assert "xxx" in refused.value.message
    assert len(refused.value.message) < len(str(path)) + 1_000


@pytest.mark.parametrize("command", ["get", "delete"])
def test_the_help_names_every_kind(command: str) -> None:
    epilog = cli.commands[command].epilog
    assert epilog is not None
    named = set(epilog.replace(",", " ").replace(";", " ").split())
    assert {kind.plural for kind in KINDS.values()} <= named

"""The operator's command: usage, exit codes, output, and one line for every error."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from federation.cli import main as command
from federation.cli.main import cli, main
from federation.cli.manifests import ITEMS_MAX, SIZE_MAX
from federation.cli.output import exit_code, print_json, print_table, say
from federation.cli.resource_commands import kind_named, path_of
from federation.kernel import errors
from federation.kernel.errors import IsthmusError, NotFoundError
from tests.support.pki import TestDomain

Run = Callable[..., tuple[int, str, str]]
REPOSITORY = Path(__file__).parents[3]
GRANT = "apiVersion: federation.isthmus.dev/v1alpha1\nkind: Grant\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `isthmus ARGUMENTS` in this process; return exit status, standard output and standard error."""
    monkeypatch.setenv("ISTHMUS_CONTEXT", str(tmp_path / "no-context"))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["isthmus", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, output.out, output.err

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("get",),
        ("get", "clusters", "--nonsense"),
        ("get", "clusters", "-o", "wide"),
        ("apply",),
        ("delete", "grant"),
        ("resolve", "orders.shop"),
        ("explain", "orders.shop"),
        ("whatif",),
        ("trace",),
        ("token", "create"),
        ("token", "create", "--cluster", "a", "--purpose", "king"),
        ("init", "--name", "x"),
        ("controller", "run"),
        ("cluster", "join"),
    ],
)
def test_wrong_usage_exits_2_and_shows_how(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("Usage: isthmus")


@pytest.mark.parametrize(
    "arguments", [(), *((name,) for name in cli.commands), ("token", "create"), ("cluster", "join")]
)
def test_every_command_explains_itself(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*arguments, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("get", "clusters"), 3, "no-context/context.toml: No such file or directory: name an operator's context"),
        (("token", "create", "--cluster", "a", "--ttl", "10"), 2, "--ttl: '10' is not a duration"),
        (("token", "create", "--cluster", "A"), 2, "cluster: 'A' is not a name"),
        (("token", "create", "--cluster", "a", "--purpose", "agent"), 2, "are missing: an agent token says who"),
        (("controller", "run", "--config", "no-file.toml"), 3, "no-file.toml: No such file or directory"),
        (("init", "--config", __file__, "--name", "x"), 2, "not a TOML file"),
        (("apply", "-f", "no-file.yaml"), 3, "no-file.yaml: No such file or directory"),
        (("cluster", "drain", "beta", "--every", "1x"), 2, "--every: '1x' is not a duration"),
        (("get", "pods"), 3, "no kind 'pods': expected one of agents, "),
        (("get", "gratns"), 3, "no kind 'gratns': did you mean grants? expected one of"),
        (("get", "endpionts"), 3, "did you mean endpoints?"),
        (("get", "grant", "shop"), 2, "--namespace is missing: each Grant lives in one; isthmus get grants shows all"),
        (("get", "grant/shop"), 2, "--namespace is missing"),
        (("get", "endpoints", "-w"), 2, "--watch: endpoints cannot be watched"),
        (("delete", "grant", "shop"), 2, "--namespace is missing"),
        (("cluster", "join", "--config", "x.toml"), 2, "--token or --token-file is missing"),
        (("cluster", "join", "--config", "x.toml", "--token", "x"), 2, "this is not a join token"),
        (("cluster", "join", "--config", "x.toml", "--token", "x", "--token-file", "y"), 2, "give one of them"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_status(
    run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = run(*arguments)
    assert found == code
    assert out == ""
    assert err.startswith("isthmus: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML: expected the node content, but found '<stream end>' at line 1, column 5\n"),
        ("a: b: c", "not YAML: mapping values are not allowed here at line 1, column 5\n"),
        ("a: \x01", "not YAML"),
        ("a: 2026-99-99", "not YAML: month must be in 1..12"),
        ("[" * 5_000, "not YAML"),
        ("- a\n- b\n", "document 1 is not an object"),
        ("just text", "document 1 is not an object"),
        (GRANT + "metadata: {name: a}\n---\n1", "document 2 is not an object"),
        ("a: {null: 1}", "document 1 holds what JSON cannot say"),
        ("a: &a [*a]", f"document 1 is larger than {SIZE_MAX} bytes"),
        ("a: &a [1,1,1,1,1,1,1,1]\n" + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 8)}]\n" for old, new in ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"]), "bytes, what its aliases repeat included"),
        ("kind: Grant", "document 1: apiVersion is None, expected"),
        (GRANT, "document 1: metadata.name is missing"),
        (GRANT + "metadata: {name: 1}", "metadata.name is missing"),
        (GRANT + "metadata: {name: a, namespace: 1}", "metadata.namespace is 1, expected text"),
        (GRANT + "metadata: {name: a, cluster: }", "metadata.cluster is None, expected text"),
        (GRANT.replace("Grant", "Pod") + "metadata: {name: a}", "kind is 'Pod', expected one of"),
        (GRANT.replace("Grant", "[1]") + "metadata: {name: a}", "kind is [1], expected one of"),
        ("", "no object in it"),
        ("---\n# nothing\n---\n", "no object in it"),
        ("kind: List\nitems: []", "no object in it"),
        ("kind: List\nitems: [{kind: Grant}]", "document 1, item 1: apiVersion is None"),
        ("kind: List\nitems: [1]", "document 1, item 1 is not an object"),
        ("kind: GrantList\nitems: [" + "{}," * (ITEMS_MAX + 1) + "]", f"document 1 has {ITEMS_MAX + 1} items"),
    ],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_named_before_anything_is_sent(
    run: Run, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "no-context").mkdir(exist_ok=True)
    path = tmp_path / "objects.yaml"
    path.write_text(text)
    code, _, err = run("apply", "-f", str(path))
    if "context.toml" in err:
        pytest.fail(f"the manifest was accepted: {err}")
    assert code == 2, err
    assert f"isthmus: {path}: " in err
    assert message in err


def test_a_manifest_of_another_owner_than_the_options_is_refused_before_anything_is_sent(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(GRANT + "metadata: {name: a, namespace: shop, cluster: beta}\n")
    message = f"isthmus: {path}: document 1: metadata.cluster is 'beta', --cluster says 'gamma'\n"
    assert run("apply", "-f", str(path), "--cluster", "gamma") == (2, "", message)
    code, _, err = run("apply", "-f", str(path), "--cluster", "beta")
    assert (code, "context.toml" in err) == (3, True)  # That is what comes next.


def test_a_manifest_that_is_too_large_or_no_text_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"x" * (1024 * 1024 + 1))
    assert run("apply", "-f", str(path))[::2] == (2, f"isthmus: {path}: larger than 1048576 bytes\n")
    path.write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in run("apply", "-f", str(path))[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cluster = "a"\n', "missing required field `trust_domain`"),
        ('cluster = "a"\ntrust_domain = "a"\napi = []\n', "api is empty: expected at least one host:port"),
        ('cluster = "a"\ntrust_domain = "a"\napi = ["here"]\n', "api: 'here' is not an address"),
        ("x", "not a TOML file"),
    ],
)
def test_a_damaged_context_is_named(run: Run, tmp_path: Path, text: str, message: str) -> None:
    context = tmp_path / "context"
    context.mkdir(mode=0o700)
    (context / "roots.pem").write_text("")
    (context / "context.toml").write_text(text)
    code, _, err = run("status", "--context", str(context))
    assert code == 2
    assert str(context / "context.toml") in err
    assert message in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInputError, 2),
        (errors.NotFoundError, 3),
        (errors.AlreadyExistsError, 4),
        (errors.StaleRevisionError, 4),
        (errors.UnavailableError, 5),
        (errors.OutcomeUnknownError, 5),
        (errors.PreconditionError, 1),
        (errors.NotAllowedError, 1),
        (errors.BadIdentityError, 1),
        (errors.CorruptError, 1),
        (errors.CompactedError, 1),
        (IsthmusError, 1),
    ],
)
def test_exit_codes_are_those_that_are_documented(error: type[IsthmusError], code: int) -> None:
    assert exit_code(error("why")) == code


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (NotFoundError("x is gone"), 3, "isthmus: x is gone\n"),
        (ExceptionGroup("g", [ExceptionGroup("h", [NotFoundError("x is gone")])]), 3, "isthmus: x is gone\n"),
        (
            PermissionError(13, "Permission denied", "/data"),
            1,
            "isthmus: [Errno 13] Permission denied: '/data'\n",
        ),
    ],
    ids=["plain", "in-groups", "of-the-system"],
)
def test_an_error_of_a_process_is_one_line_however_it_arrives(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: Exception,
    code: int,
    line: str,
) -> None:
    def failing(**_arguments: object) -> None:
        raise raised

    monkeypatch.setattr(command, "cli", failing)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert capsys.readouterr().err == line


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**_arguments: object) -> None:
        raise ExceptionGroup("g", [NotFoundError("ours"), ZeroDivisionError("a defect")])

    monkeypatch.setattr(command, "cli", failing)
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(
    ("text", "kind"), [("clusters", "Cluster"), ("Cluster", "Cluster"), ("GRANT", "Grant")]
)
def test_a_kind_is_found_by_any_of_its_names(text: str, kind: str) -> None:
    assert kind_named(text).name == kind


def test_paths_follow_the_kind_and_nothing_in_a_name_escapes_its_segment() -> None:
    base = "/apis/federation.isthmus.dev/v1alpha1"
    assert (
        path_of(kind_named("grants"), cluster="a", namespace="n", name="g")
        == f"/clusters/a{base}/namespaces/n/grants/g"
    )
    assert path_of(kind_named("clusters"), cluster="a", namespace="n", name="c") == f"{base}/clusters/c"
    assert path_of(kind_named("clusters"), name="../a?b#c d") == f"{base}/clusters/..%2Fa%3Fb%23c%20d"


def test_json_output_is_json_and_a_table_has_a_column_for_each_heading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = {"items": [{"name": "a", "n": 1}]}
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value
    print_table(("name", "what"), [("a", "x" * 300), ("[b]", 2), ("", None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "WHAT"]
    assert lines[1].split() == ["a", "x" * 300]
    assert lines[2].split() == ["[b]", "2"]
    assert len(lines) == 4
    print_table(("name",), [])
    assert capsys.readouterr().out.split() == ["NAME"]


def test_no_column_is_cut_although_the_widest_cells_stand_in_different_rows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("x" * 150, "b", "日" * 9), ("a", "y" * 150, "c"), ("a", "b", "z" * 150)]

    print_table(("revision", "what", "fields"), rows)

    assert [tuple(line.split()) for line in capsys.readouterr().out.splitlines()[1:]] == rows


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("rejected \x1b]0;title\x07\x1b[2J", r"rejected \x1b]0;title\x07\x1b[2J", id="escape-sequences"),
        pytest.param("a\x9b31m", r"a\x9b31m", id="in-one-character"),
        pytest.param("a\rb", r"a\rb", id="over-what-was-said"),
        pytest.param("a\u202eb", r"a\u202eb", id="from-right-to-left"),
        pytest.param("Zürich 日本 🙂", "Zürich 日本 🙂", id="what-people-read"),
    ],
)  # fmt: skip
def test_what_others_wrote_commands_no_terminal(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as the error of a proxy, or the version of a mirror, which are in other hands."""
    print_table(("proxy", "error"), [("a1", text), ("a2", "")])
    assert capsys.readouterr().out.splitlines()[1].rstrip().split(maxsplit=1) == ["a1", shown]
    say(f"one line\n{text}")
    assert capsys.readouterr().err == f"one line\n{shown}\n"


def test_a_row_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("proxy", "error"), [("a1", "first\nsecond"), ("a2", "")])
    assert capsys.readouterr().out.splitlines()[1].split() == ["a1", r"first\nsecond"]


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_an_interrupted_command_says_so_by_its_exit_status_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.commands, "talk", click.Command("talk", callback=_interrupted))
    assert run("talk") == (130, "", "")


async def _say_in_a_task() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(click.echo, "news"))


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(lambda: click.echo("news"), id="at-once"),
        pytest.param(lambda: print_table(["name"], [["news"]]), id="a-table"),
        pytest.param(lambda: asyncio.run(_say_in_a_task()), id="in-a-task"),
    ],
)
def test_a_reader_that_has_seen_enough_is_no_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, talk: Callable[[], None]
) -> None:
    monkeypatch.setitem(cli.commands, "talk", click.Command("talk", callback=talk))
    reader, writer = os.pipe()
    os.close(reader)
    output = os.fdopen(writer, "w")
    monkeypatch.setattr("sys.stdout", output)
    assert run("talk") == (1, "", "")
    with contextlib.suppress(BrokenPipeError):  # What click left in it.
        output.close()


CONTROLLER = """\
id = "c1"
data_dir = "%s"
[cluster]
name = "alpha"
trust_domain = "alpha.example"
region = "eu"
[listen]
raft = "127.0.0.1:1"
control = "127.0.0.1:2"
api = "127.0.0.1:3"
metrics = "127.0.0.1:4"
"""


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--root-export", "nowhere/x.root"), 3, "--root-export: nowhere: no such directory"),
        (("--root-export", "there.root"), 4, "--root-export: there.root exists"),
        (("--root-export", "x.root"), 2, "--export-passphrase-file is missing: there is no terminal"),
        (("--export-passphrase-file", "x"), 2, "--export-passphrase-file: only with --root-export"),
    ],
)
def test_an_export_that_cannot_be_made_is_refused_before_anything_is_founded(
    tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "controller.toml").write_text(CONTROLLER % (tmp_path / "data"))
    (tmp_path / "there.root").touch()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "federation.cli.main",
            "init",
            "--config",
            "controller.toml",
            "--name",
            "x",
            *options,
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Without a terminal.
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_quick_command_waits_for_nothing_that_only_processes_need() -> None:
    """Each `isthmus get` would pay for it: a web server and the log's store take longer to import than the rest."""
    listing = "import sys, federation.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert "federation" in imported
    assert not imported & {"aiohttp", "chaos", "consensus", "grpc", "pysyncobj"}


def test_an_expired_context_is_named_with_what_renews_it(run: Run, tmp_path: Path) -> None:
    context = tmp_path / "context"
    domain = TestDomain("alpha.example", tmp_path / "pki")
    ago = datetime.now(UTC) - timedelta(hours=1)
    operator = domain.forge(
        uris=["spiffe://alpha.example/isthmus/alpha/operator/admin"],
        not_before=ago - timedelta(hours=1),
        not_after=ago,
    )
    context.mkdir(mode=0o700)
    operator.write(context / "identity.pem")
    (context / "roots.pem").write_bytes(domain.root.bundle().pem())
    (context / "context.toml").write_text(
        'cluster = "alpha"\ntrust_domain = "alpha.example"\napi = ["127.0.0.1:1"]\n'
    )
    code, _, err = run("get", "clusters", "--context", str(context))
    assert code == 1
    assert f"{context / 'identity.pem'} expired at {ago:%Y-%m-%dT%H:%M}" in err
    assert "copy that directory anew" in err

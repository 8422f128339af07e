"""Rules of the code that ruff and import-linter cannot say."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("federation", "consensus", "discovery", "gateways", "certs", "chaos", "bench")

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

# A core gets time, randomness and bytes from its caller; its own import rule cannot see builtins and methods.
IMPURE_CALLS = {
    "open",
    "print",
    "input",
    "time.time",
    "time.monotonic",
    "datetime.now",
    "datetime.utcnow",
    "date.today",
}

# Decoders that run code (invariant S4), and evaluation of text.
CODE_EXECUTING = re.compile(
    r"\b(?:c?[Pp]ickle|marshal|shelve|dill)\b|\byaml\.(?:unsafe_)?load\b|(?<![\w.])(?:eval|exec)\("
)

# Facts about one machine, which no clone shares. Split, so that this file passes its own rule.
MACHINE_PATHS = re.compile(r"(?<![\w.)}~-])/(?:work|tmp|root|home/\w+)/")
REGISTRY_HOSTS = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|proxy\.golang\.org|registry\.npmjs\.org)")


def project_files() -> list[Path]:
    """Every file of the project, as git sees it: tracked, or new and not ignored."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    ).stdout
    return [path for name in listing.split("\0") if name and (path := REPOSITORY / name).is_file()]


FILES = project_files()
MODULES = [path for path in FILES if path.suffix == ".py"]
PRODUCT = [path for path in MODULES if path.relative_to(REPOSITORY).parts[0] in PACKAGES]
CORES = [path for path in PRODUCT if path.relative_to(REPOSITORY).parts[1] in {"core", "kernel"}]


def place(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(REPOSITORY)}" + (f":{line}" if line else "")


def matches(paths: list[Path], pattern: re.Pattern[str]) -> Iterator[str]:
    for path in paths:
        text = path.read_bytes().decode(errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                yield f"{place(path, number)}: {line.strip()[:100]}"


def dotted(expression: ast.expr) -> str:
    """Return `a.b` for the last two names of an expression, `b` for one."""
    match expression:
        case ast.Name(name):
            return name
        case ast.Attribute(value=ast.Name(owner) | ast.Attribute(attr=owner), attr=name):
            return f"{owner}.{name}"
        case _:
            return ""


def test_the_rules_see_the_project() -> None:
    assert {REPOSITORY / "pyproject.toml", Path(__file__)} <= set(FILES)
    assert len(CORES) >= 4


def test_a_module_is_short_or_the_architecture_says_why_it_is_not() -> None:
    architecture = REPOSITORY / "ARCHITECTURE.md"
    text = architecture.read_text() if architecture in FILES else ""
    excused = text.partition("\n## Long modules\n")[2]

    assert [
        f"{place(path)} has {lines} lines"
        for path in MODULES
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES_MAX and place(path) not in excused
    ] == []


def test_a_function_is_short() -> None:
    assert [
        f"{place(path, node.lineno)} {node.name} has {lines} lines"
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ] == []


def test_nothing_is_raised_within_an_except_star() -> None:
    """Before Python 3.11.4 such an error arrives wrapped in a group, and whoever awaits it by its class does not see it."""
    assert [
        place(path, node.lineno)
        for path in MODULES
        for outer in ast.walk(ast.parse(path.read_text()))
        if isinstance(outer, ast.TryStar)
        for handler in outer.handlers
        for node in ast.walk(handler)
        if isinstance(node, ast.Raise)
    ] == []


def test_a_core_asks_neither_clock_nor_disk() -> None:
    assert [
        f"{place(path, node.lineno)} calls {dotted(node.func)}"
        for path in CORES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and dotted(node.func) in IMPURE_CALLS
    ] == []


def test_no_decoder_of_ours_can_run_code() -> None:
    def code(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Call | ast.Attribute):
                text = ast.unparse(node)
                if CODE_EXECUTING.search(text):
                    yield f"{place(path, node.lineno)}: {text[:100]}"

    assert [found for path in PRODUCT for found in code(path)] == []


def test_every_folder_says_what_it_holds() -> None:
    parts = [path.relative_to(REPOSITORY).parts for path in FILES]
    folders = {first for first, *rest in parts if rest and not first.startswith(".")}

    assert sorted(folder for folder in folders if not (REPOSITORY / folder / "README.md").is_file()) == []


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRY_HOSTS], ids=["paths", "registries"])
def test_no_file_tells_of_the_machine_it_was_written_on(pattern: re.Pattern[str]) -> None:
    assert list(matches(FILES, pattern)) == []

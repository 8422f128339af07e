"""The documents say a thing once: two people who add the same paragraph leave one of them behind to go wrong."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GENERATED = REPOSITORY / "docs" / "benchmarks.md"  # Two figures may be equal.
DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted(path for path in (REPOSITORY / "docs").rglob("*.md") if path != GENERATED),
    *sorted(REPOSITORY.glob("*/README.md")),
    *sorted((REPOSITORY / "tests").glob("*/**/README.md")),
]

# Shorter ones are said again on purpose: of two commands that do the same, for example.
SENTENCE_CHARACTERS_MIN = 70

FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
POINT = re.compile(r"^ *- +\*\*(.+?)\*\*", re.MULTILINE | re.DOTALL)


def more_than_once(things: Iterable[str]) -> list[str]:
    return [thing for thing, times in Counter(things).items() if times > 1]


def points(text: str) -> list[str]:
    """Return what the points of lists say in bold: what each is about."""
    return [" ".join(head.split()).rstrip(".") for head in POINT.findall(text)]


def sentences(text: str) -> list[str]:
    """Return the longer sentences outside of tables and blocks; names of code in them do not count."""
    prose = re.sub(r"^\|.*$", "", re.sub(r"`[^`]*`", "`", text), flags=re.MULTILINE)
    parts = (
        re.sub(r"[\s*]+", " ", part).strip(" -")
        for paragraph in re.split(r"\n\s*\n|^ *(?:-|\d+\.) ", prose, flags=re.MULTILINE)
        for part in re.split(r"(?<=[.:;])\s", paragraph)
    )
    return [part for part in parts if len(part) >= SENTENCE_CHARACTERS_MIN]


def doubled_rows(text: str) -> list[str]:
    """Return rows that a table has twice, and what a table of two columns names twice."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
        named = [row[0] if len(row) == 2 and row[0] else " | ".join(row) for row in rows]
        found += more_than_once(named)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_document_says_a_thing_once(document: Path) -> None:
    text = FENCED.sub("", document.read_text())

    assert more_than_once(points(text)) == []
    assert more_than_once(sentences(text)) == []
    assert doubled_rows(text) == []


def test_what_is_doubled_is_found_also_when_it_was_wrapped_or_ended_otherwise() -> None:
    sentence = "Put members only in clusters that\n  you administer, and nowhere else in the whole world."

    assert more_than_once(
        points("- **Members trust\n  each other.** a\n- **Members trust each other**, b\n")
    ) == ["Members trust each other"]
    assert len(more_than_once(sentences(f"- {sentence}\n- Else. {sentence.replace(chr(10), '')}\n"))) == 1
    assert doubled_rows("| ... | here |\n|---|---|\n| a | `x` |\n| a | `y` |\n| b | `y` |\n") == ["a"]
    assert doubled_rows("| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 1 | 2 | 4 |\n") == []

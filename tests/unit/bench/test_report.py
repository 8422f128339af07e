"""The document and the JSON list hold every figure, and say what could not be measured."""

import msgspec
import pytest

from bench.__main__ import SECTIONS
from bench.records import Facts, Measured, SectionRun, of_rounds
from bench.report import number, to_json, to_markdown

FACTS = Facts(
    date="2026-01-02 03:04 UTC",
    processor="a processor",
    cores=2,
    memory_gib=23.4,
    kernel="Linux 6",
    filesystem="ext4",
    load=0.75,
    versions=(("isthmus", "0.1.0"),),
)
ECHO = of_rounds("echo", [4.0, 5.0], "us")
OURS = of_rounds("ours", [8.0, 10.0], "us", beside=[4.0, 5.0], ratio_to="echo")
DNS = SectionRun(
    name="dns",
    title="DNS",
    method="Asked and answered.",
    measured=Measured(figures=(OURS, ECHO), notes=("It rained.",)),
    seconds=3,
    load_before=1.5,
    load_after=2.5,
)
BROKEN = SectionRun(
    name="start",
    title="Start",
    method="Started.",
    measured=None,
    failure="LabError: it never came up",
    seconds=1,
    load_before=2.5,
    load_after=2.0,
)


def test_the_list_names_value_unit_ratio_and_rounds_of_every_figure() -> None:
    assert msgspec.json.decode(to_json([DNS, BROKEN])) == [
        {"name": "dns: ours", "value": 9.0, "unit": "us", "ratio_to": "dns: echo", "ratio": 2.0, "rounds": 2},
        {"name": "dns: echo", "value": 4.5, "unit": "us", "ratio_to": None, "ratio": None, "rounds": 2},
    ]


def test_the_document_holds_machine_load_method_figures_and_notes() -> None:
    document = to_markdown(FACTS, [DNS])

    for words in (
        "2 cores of a processor",
        "2026-01-02 03:04 UTC",
        "0.75 before the run, 1.50 to 2.50 during",
        "Asked and answered.",
        "| ours | 9.00 us | min-max 8.00 to 10.0 | 2 | 2.00 of echo |",
        "- It rained.",
        "What these figures are not",
    ):
        assert words in document


def test_a_section_that_failed_is_named_with_its_reason() -> None:
    assert "**Not measured in this run**: LabError: it never came up" in to_markdown(FACTS, [DNS, BROKEN])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.1234, "0.12"), (1.5, "1.50"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_a_number_has_three_digits_but_never_loses_its_whole_part(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_says_what_it_measures_and_how(name: str) -> None:
    section = SECTIONS[name]

    assert section.TITLE
    assert len(section.METHOD.split()) > 20
    assert callable(section.measure)

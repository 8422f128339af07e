"""From figures to docs/benchmarks.md and build/bench.json: pure."""

import textwrap
from collections.abc import Iterable, Sequence

import msgspec

from bench.records import Facts, Figure, SectionRun

_COLUMNS = 120
_NOT = """## What these figures are not

- Not a promise or a limit. Where two things stand beside each other, both ran in this run on this machine, by turns;
  what the other one does on a machine of its own is not measured.
- Not of a network. Every process is on one machine, on loopback addresses; between clusters there is no distance. Add
  the round trips of yours: one between the members for each global write, one to the other cluster for each call.
- Not of an idle machine. Everything measured, and what measures it, shares the {cores} cores, and these with whatever
  else the machine does; the load averages say how much that was. Tails (p99, maximum) are mostly waiting for a core.
- Not of a large fleet. A handful of proxies follow the controllers here.
"""


def to_json(runs: Iterable[SectionRun]) -> bytes:
    """Return the figures as the list that build/bench.json holds."""
    rows = [
        {
            "name": f"{run.name}: {figure.name}",
            "value": figure.value,
            "unit": figure.unit,
            "ratio_to": f"{run.name}: {figure.ratio_to}" if figure.ratio_to else None,
            "ratio": figure.ratio,
            "rounds": figure.rounds,
        }
        for run in runs
        if run.measured
        for figure in run.measured.figures
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n"


def to_markdown(facts: Facts, runs: Sequence[SectionRun]) -> str:
    """Return the whole document."""
    loads = [load for run in runs for load in (run.load_before, run.load_after)]
    head = [
        "# Benchmarks",
        "",
        _paragraph(
            "Written by `make bench`; never edited. `python -m bench SECTION` measures one section and prints it. The same"
            " figures are in `build/bench.json`."
        ),
        "",
        "| | |",
        "|---|---|",
        f"| date | {facts.date} |",
        f"| machine | {facts.cores} cores of {facts.processor}, {facts.memory_gib:.0f} GiB memory, shared with others |",
        f"| kernel | {facts.kernel} |",
        f"| journals on | {facts.filesystem} |",
        f"| versions | {', '.join(f'{name} {version}' for name, version in facts.versions)} |",
        (
            f"| load average (1 min) | {facts.load:.2f} before the run, {min(loads):.2f} to {max(loads):.2f} during"
            " the run, the run's own load included |"
        ),
        f"| took | {sum(run.seconds for run in runs):.0f} s, and the building of the federation |",
        "",
        _paragraph(
            "A value is the median of its rounds, unless its name says which quantile of single measurements it is. The"
            " spread is what its column says: the range of the rounds, or p10 to p90 of the measurements."
        ),
        "",
    ]
    return (
        "\n".join(head)
        + "\n"
        + "\n".join(section(run) for run in runs)
        + "\n"
        + _NOT.format(cores=facts.cores)
    )


def section(run: SectionRun) -> str:
    """Return one section of the document."""
    lines = [f"## {run.title}", "", _paragraph(run.method), ""]
    if run.measured is None:
        lines += [f"**Not measured in this run**: {run.failure}", ""]
    else:
        lines += ["| figure | value | spread | rounds | beside |", "|---|---|---|---|---|"]
        lines += [_row(figure) for figure in run.measured.figures]
        lines.append("")
        lines += [f"- {note}" for note in run.measured.notes]
        lines.append(
            f"- Took {run.seconds:.0f} s; load average {run.load_before:.2f} before, {run.load_after:.2f} after."
        )
        lines.append("")
    return "\n".join(lines)


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _COLUMNS, break_long_words=False, break_on_hyphens=False)


def _row(figure: Figure) -> str:
    beside = ""
    if figure.ratio is not None and figure.ratio_to:
        beside = f"{figure.ratio:.2f} of {figure.ratio_to}"
    spread = f"{figure.spread} {number(figure.low)} to {number(figure.high)}"
    return f"| {figure.name} | {number(figure.value)} {figure.unit} | {spread} | {figure.rounds} | {beside} |"


def number(value: float) -> str:
    """Return a number with three significant digits, but never without its whole part."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

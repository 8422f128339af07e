"""`python -m bench`: measure every section and write the document; `python -m bench SECTION ...`: print some.

Exit status 0, or 1 when a section could not be measured, and the document says which and why.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType

from bench import (
    catalog,
    consensus,
    dns,
    failover,
    machine,
    memory,
    propagation,
    rejoin,
    report,
    start,
    withdrawal,
)
from bench.records import SectionRun
from bench.session import Session
from federation.app.telemetry import set_up_logging

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
FIGURES = REPOSITORY / "build" / "bench.json"

# In this order: first those that share the federation, the one that wears it down last; then those that want
# the machine for themselves.
IN_FEDERATION: dict[str, ModuleType] = {
    "memory": memory,
    "withdrawal": withdrawal,
    "propagation": propagation,
    "rejoin": rejoin,
    "failover": failover,
}
ALONE: dict[str, ModuleType] = {"start": start, "consensus": consensus, "catalog": catalog, "dns": dns}
SECTIONS = IN_FEDERATION | ALONE


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("section", nargs="*", help=f"{', '.join(SECTIONS)}; default: all, into the document")
    parser.add_argument("--long", action="store_true", help="sections also measure what takes minutes")
    arguments = parser.parse_args()
    wanted: list[str] = arguments.section
    for name in wanted:
        if name not in SECTIONS:
            parser.error(f"{name!r} is no section: expected some of {', '.join(SECTIONS)}")
    directory = Path(tempfile.mkdtemp(prefix="isthmus-bench-"))
    set_up_logging("error")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # As Ctrl-C: end everything, leave nothing.
    facts = machine.facts(directory)
    try:
        runs = _run(wanted or list(SECTIONS), directory, long=arguments.long)
    except KeyboardInterrupt:
        _say("interrupted; everything has been ended")
        shutil.rmtree(directory)
        return 130
    if wanted:
        print("\n".join(report.section(run) for run in runs))
    else:
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_bytes(report.to_json(runs))
        DOCUMENT.write_text(report.to_markdown(facts, runs))
        _say(f"wrote {DOCUMENT.relative_to(REPOSITORY)} and {FIGURES.relative_to(REPOSITORY)}")
    if any(run.failure for run in runs):
        _say(f"logs and data are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


def _run(wanted: list[str], directory: Path, *, long: bool) -> list[SectionRun]:
    runs = []
    with Session(directory, _say, long=long) as session:
        for name, module in SECTIONS.items():
            if name in ALONE:
                session.end_lab()
            if name in wanted:
                runs.append(_measure(name, module, session))
                _say(f"section {name} took {runs[-1].seconds:.0f} s")
    return runs


def _measure(name: str, module: ModuleType, session: Session) -> SectionRun:
    _say(f"section {name}")
    measured, failure = None, ""
    load_before, began_s = machine.load_average(), time.monotonic()
    try:
        if name in IN_FEDERATION:
            session.lab()  # Built before the first of them, and not part of its time.
            load_before, began_s = machine.load_average(), time.monotonic()
        measured = module.measure(session)
    except Exception as error:  # noqa: BLE001 - one section must not cost the figures of the others
        failure = _first_line(error)
        _say(f"section {name} was not measured:\n{''.join(traceback.format_exception(error))}")
    return SectionRun(
        name=name,
        title=module.TITLE,
        method=module.METHOD,
        measured=measured,
        failure=failure,
        seconds=time.monotonic() - began_s,
        load_before=load_before,
        load_after=machine.load_average(),
    )


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""A view of the demo: takes what is said and seen, keeps the board, and has a face show it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console

from chaos.lab.federation import Lab
from chaos.load.dns_watch import Check
from chaos.load.records import Result
from chaos.view.board import Board, Line
from chaos.view.collector import Collector
from chaos.view.facts import State, state_of
from chaos.view.plain import PlainFace
from chaos.view.source import LabSource, Source
from chaos.view.terminal import TerminalFace, capture

CAPTURE_AFTER_S = 2.0  # A fault is seen: by then callers have noticed it too.


class Face(Protocol):
    """How a board is shown."""

    def open(self, board: Callable[[], Board]) -> None:
        """Begin; `board` returns the newest one, from any thread."""
        ...

    def line(self, board: Board, line: Line) -> None:
        """A line was added."""
        ...

    def close(self, board: Board) -> None:
        """End, and give the terminal back."""
        ...


class View:
    """What the demo talks to. Its methods may be called from any thread."""

    def __init__(self, face: Face, *, scenarios: Sequence[str] = ()) -> None:
        self._face = face
        self._turn = threading.RLock()  # For every change of the board, and for the order of its lines.
        self._board = Board(started_s=time.time(), planned=tuple(scenarios))
        self._callers: tuple[str, ...] = ()
        self._collector: Collector | None = None
        self._capture: Path | None = None  # To be written when a fault of the scenario shows.
        self._fault_seen_s = 0.0
        face.open(lambda: self._board)

    def say(self, text: str) -> None:
        """Something happened, now."""
        with self._turn:
            self._board = self._board.with_line(time.time(), text)
            self._face.line(self._board, self._board.lines[-1])

    def watch(self, lab: Lab) -> None:
        """Look at this federation from now on."""
        self.follow(LabSource(lab))

    def follow(self, source: Source) -> None:
        """Look at this source from now on."""
        self.look_away()
        self._collector = Collector(look=lambda: self._look(source), read=lambda: self._read(source))
        self._collector.start()

    def look_away(self) -> None:
        """Look no more: what is torn down on purpose is no news."""
        if self._collector is not None:
            self._collector.stop()
            self._collector = None

    def scenario(self, name: str, title: str, callers: Sequence[str], *, capture: Path | None = None) -> None:
        """A scenario begins, with loads of these callers. What shows soon after its fault is written to `capture`."""
        with self._turn:
            self._capture, self._fault_seen_s = capture, 0.0
            self._callers = tuple(callers)
            self._board = self._board.with_scenario(time.time(), name, title)
            number = f"{self._board.number}/{len(self._board.planned)} " if self._board.number else ""
            self.say(f"scenario {number}{name}: {title}")

    def done(self, result: Result, checks: Sequence[Check]) -> None:
        """The scenario has ended so."""
        with self._turn:
            if self._capture:
                self._take(self._capture)
            self._board = self._board.with_result(result)
            self.say(verdict(result, checks))

    def screenshot(self, path: Path) -> None:
        """Write what a terminal of usual size shows now, as text."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(capture(self._board, time.time()))

    def show_lines(self) -> None:
        """Leave the screen, if this is one, and print lines from now on."""
        with self._turn:
            self._face.close(self._board)
            self._face = PlainFace(since_s=self._board.started_s)

    def close(self) -> None:
        """Look no more, and give the terminal back."""
        self.look_away()
        self._face.close(self._board)

    def _look(self, source: Source) -> None:
        facts = source.facts()
        with self._turn:
            self._board, texts = self._board.with_facts(facts)
            for text in texts:
                self.say(text)
            hurt = any(state_of(one) is not State.UP for one in facts.clusters)
            if self._capture and hurt and self._board.loads:
                self._fault_seen_s = self._fault_seen_s or time.time()
                if time.time() - self._fault_seen_s >= CAPTURE_AFTER_S:
                    self._take(self._capture)

    def _take(self, path: Path) -> None:
        self._capture = None
        self.screenshot(path)

    def _read(self, source: Source) -> None:
        running = self._board.running
        if running is None:
            return
        loads = source.loads(running.name, self._callers)
        with self._turn:
            if self._board.running is running:  # Else they are of the past.
                self._board = self._board.with_loads(loads)


def verdict(result: Result, checks: Sequence[Check]) -> str:
    """One line on how a scenario ended."""
    failed_checks = [check.name for check in checks if not check.passed]
    parts = [
        f"{result.failed} of {result.requests} requests failed",
        *(["invalid"] if not result.valid else []),
        *([f"{len(failed_checks)} of {len(checks)} checks failed"] if failed_checks else []),
    ]
    good = not result.failed and result.valid and not failed_checks
    return f"{'passed' if good else 'FAILED'} {result.name}: {', '.join(parts)}, p99 {result.p99_ms:g} ms"


@contextmanager
def open_view(*, live: bool, scenarios: Sequence[str] = ()) -> Iterator[View]:
    """Show on a screen if `live`, else by lines, until the block ends. `scenarios` names what is to come."""
    face: Face = TerminalFace(Console()) if live else PlainFace(since_s=time.time())
    view = View(face, scenarios=scenarios)
    try:
        yield view
    finally:
        view.close()

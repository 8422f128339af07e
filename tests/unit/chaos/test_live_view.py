"""The live view draws what its source says on a real terminal, and gives the terminal back."""

import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from chaos.load.dns_watch import Check
from chaos.load.records import LoadStatus
from chaos.view import View, can_draw, open_view
from chaos.view.facts import ClusterFacts, ControllerAnswer, Facts
from chaos.view.plain import PlainFace
from chaos.view.terminal import TerminalFace
from tests.support.wait import eventually
from tests.unit.chaos.results import RESULT

ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
COLUMNS, ROWS = 100, 30
UP = ClusterFacts(
    name="alpha",
    planned=5,
    running=5,
    controller_running=True,
    controller=ControllerAnswer(leader="alpha", revision=42),
)


class Terminal:
    """A pseudo-terminal, and all that was drawn on it."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
        self.file = os.fdopen(self._theirs, "w", encoding="utf-8")
        self.drawn = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def left(self) -> str:
        """What came after the screen was left, as far as it has been read."""
        return self.drawn.partition(LEAVE_SCREEN)[2]

    def console(self) -> Console:
        return Console(file=self.file, _environ={"TERM": "xterm-256color"})

    def close(self) -> None:
        self.file.close()  # Ends the reader: a terminal without a program.
        self._thread.join()
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                self.drawn += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:
                return


class MadeUp:
    """A source that says what the test wants."""

    def __init__(self) -> None:
        self.now = Facts(clusters=(UP,))
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def facts(self) -> Facts:
        return self.now

    def loads(self, scenario: str, callers: Sequence[str]) -> tuple[LoadStatus, ...]:
        self.asked.append((scenario, tuple(callers)))
        return tuple(
            LoadStatus(
                caller=caller, at_s=4e9, planned=9, sent=9, failed=0, rate_per_s=77.0, failed_per_s=0.0,
                p50_ms=1.0, p99_ms=2.0,
            )
            for caller in callers
        )  # fmt: skip


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_it_draws_what_the_source_says_and_gives_the_terminal_back(
    terminal: Terminal, tmp_path: Path
) -> None:
    source = MadeUp()
    view = View(TerminalFace(terminal.console()), scenarios=["cluster-dies"])
    try:
        view.follow(source)
        eventually(
            lambda: "cluster alpha is up" in terminal.drawn, timeout_s=60, message="the first look shows"
        )
        assert terminal.drawn.count(ENTER_SCREEN) == 1
        view.scenario(
            "cluster-dies", "A whole cluster dies", ["alpha"], capture=tmp_path / "shots" / "one.txt"
        )
        eventually(lambda: " 77 " in terminal.drawn, timeout_s=60, message="the load shows")
        source.now = Facts(clusters=(replace(UP, running=0, controller_running=False, controller=None),))
        eventually(lambda: "alpha is down" in terminal.drawn, timeout_s=60, message="the loss shows")
        eventually((tmp_path / "shots" / "one.txt").exists, timeout_s=60, message="it is captured")
        assert LEAVE_SCREEN not in terminal.drawn
    finally:
        view.close()

    assert set(source.asked) == {("cluster-dies", ("alpha",))}
    eventually(
        lambda: "cluster alpha is down" in terminal.left, timeout_s=60, message="what happened stays readable"
    )
    eventually(lambda: "\x1b[?25h" in terminal.drawn, timeout_s=60, message="the cursor is back")
    captured = (tmp_path / "shots" / "one.txt").read_text()
    assert "cluster alpha is down" in captured
    assert "\x1b" not in captured


def test_the_terminal_is_given_back_after_an_exception(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.view.view.Console", terminal.console)

    def interrupted() -> None:
        with open_view(live=True) as view:
            view.follow(MadeUp())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    eventually(lambda: LEAVE_SCREEN in terminal.drawn, timeout_s=60, message="the screen is left")


def test_without_a_screen_every_event_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shot = tmp_path / "shot.txt"
    with open_view(live=False, scenarios=["cluster-dies"]) as view:
        view.say("founding")
        view.scenario("cluster-dies", "A whole cluster dies", ["alpha"], capture=shot)
        view.done(RESULT, [Check(name="dns", passed=True, detail="")])
        view.done(replace(RESULT, failed=3), [Check(name="dns", passed=False, detail="")])

    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(" s] ")[2] for line in err.splitlines()] == [
        "founding",
        "scenario 1/1 cluster-dies: A whole cluster dies",
        "passed cluster-dies: 0 of 100 requests failed, p99 1 ms",
        "FAILED cluster-dies: 3 of 100 requests failed, 1 of 1 checks failed, p99 1 ms",
    ]
    assert "A whole cluster dies" in shot.read_text(), "captured at the end where no fault was seen"


def test_who_leaves_the_screen_reads_on_in_lines(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    view = View(TerminalFace(terminal.console()))
    view.say("before")
    view.show_lines()
    view.say("afterwards")
    view.close()

    assert capsys.readouterr().err.endswith("afterwards\n")
    eventually(lambda: "before" in terminal.drawn, timeout_s=60, message="lines of the screen stay")
    assert "afterwards" not in terminal.drawn


def test_what_is_no_longer_watched_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    source = MadeUp()
    view = View(PlainFace(since_s=0.0))
    said = ""

    def up() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return "cluster alpha is up" in said

    view.follow(source)
    eventually(up, timeout_s=60, message="it looks")
    view.look_away()
    source.now = Facts(clusters=(replace(UP, running=0),))
    view.close()

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("environ", "draws"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": ""}, False), ({}, False)],
)
def test_it_draws_on_terminals_that_can(terminal: Terminal, environ: dict[str, str], draws: bool) -> None:
    assert can_draw(terminal.file, environ) is draws


def test_it_does_not_draw_into_files_nor_without_signs_for_frames(terminal: Terminal, tmp_path: Path) -> None:
    terminal.file.reconfigure(encoding="latin-1")
    assert not can_draw(terminal.file, {"TERM": "xterm"})
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        assert not can_draw(file, {"TERM": "xterm"})

"""The face on a terminal: a live screen, made for 100 columns and 30 rows and more, usable on less.

Colours only underline what words say, and none of them must be told from another: blue, yellow, reverse.
"""

import codecs
import time
from collections.abc import Callable, Mapping
from io import StringIO
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from chaos.view.board import Board, Line
from chaos.view.facts import ClusterFacts, EndpointCount, State, reason_of
from chaos.view.plain import format_line

CAPTURE_COLUMNS, CAPTURE_ROWS = 100, 30
_REFRESHES_PER_S = 2.0  # A frame costs some 16 ms of one core, which the load needs too.
_SIDE_BY_SIDE_COLUMNS_MIN = 80  # Narrower, clusters and load stand one above the other.
_WIDE_COLUMNS_MIN = 96  # Narrower, regions and roles are left out.
_LOAD_COLUMNS = 40
_CLOCK_COLUMNS = 7
_HEADER_ROWS = 2
_FRAME_ROWS = 3  # Of a panel with a table: two borders and the heading.
_EVENT_ROWS_MIN = 5
_WHOLE_MS_MIN = 10  # From here on tenths say nothing.

_STYLES = {
    State.STARTING: "dim",
    State.UP: "bold blue",
    State.DEGRADED: "bold yellow",
    State.SILENT: "bold reverse",
    State.DOWN: "bold reverse",
}


class TerminalFace:
    """Draws on the alternate screen, so that the terminal's own content returns; then prints the lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def open(self, board: Callable[[], Board]) -> None:
        """Begin to draw, in a thread of the library's."""
        self._live = Live(
            console=self._console,
            screen=True,
            refresh_per_second=_REFRESHES_PER_S,
            get_renderable=lambda: _fitted(board(), self._console),
            redirect_stdout=False,  # Nothing of ours prints meanwhile.
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def line(self, board: Board, line: Line) -> None:
        """It shows with the next refresh."""

    def close(self, board: Board) -> None:
        """Give the terminal back and leave on it what happened."""
        if self._live is None:
            return
        self._live.stop()
        self._live = None
        for line in board.lines:
            self._console.print(Text(format_line(line, board.started_s)), soft_wrap=True)


def can_draw(file: TextIO, environ: Mapping[str, str]) -> bool:
    """True when `file` is a terminal that can move its cursor and has signs for frames."""
    if not file.isatty() or environ.get("TERM", "dumb") in ("", "dumb"):
        return False
    return codecs.lookup(file.encoding).name == "utf-8"


def capture(board: Board, now_s: float, *, columns: int = CAPTURE_COLUMNS, rows: int = CAPTURE_ROWS) -> str:
    """Return what a terminal of that size shows, as text."""
    console = Console(record=True, file=StringIO(), width=columns, height=rows, legacy_windows=False)
    console.print(screen(board, now_s, columns, rows))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def _fitted(board: Board, console: Console) -> RenderableType:
    size = console.size
    return screen(board, time.time(), size.width, size.height)


def screen(board: Board, now_s: float, columns: int, rows: int) -> Layout:
    """Lay a board out on so many columns and rows. Services give way to events, and both tables where it is low."""
    beside = columns >= _SIDE_BY_SIDE_COLUMNS_MIN
    heights = (len(board.facts.clusters) + _FRAME_ROWS, len(board.loads) + 1 + _FRAME_ROWS)
    parts = [Layout(_header(board, now_s), size=_HEADER_ROWS)]
    free = rows - _HEADER_ROWS - (max(heights) if beside else sum(heights))
    if free < _EVENT_ROWS_MIN:
        free = rows - _HEADER_ROWS
    else:
        clusters = Layout(_clusters(board, wide=columns >= _WIDE_COLUMNS_MIN))
        loads = Layout(_loads(board, now_s), size=_LOAD_COLUMNS)
        if beside:
            upper = Layout(size=max(heights))
            upper.split_row(clusters, loads)
            parts.append(upper)
        else:
            clusters.size, loads.size = heights
            parts += [clusters, loads]
    names = sorted({one.service for one in board.facts.endpoints})
    services_rows = min(len(names), free - _EVENT_ROWS_MIN - _FRAME_ROWS)
    if services_rows > 0:
        free -= services_rows + _FRAME_ROWS
        services = _services(board, now_s, names, services_rows)
        parts.append(Layout(services, size=services_rows + _FRAME_ROWS))
    parts.append(Layout(_events(board, max(free - 2, 1)), minimum_size=1))
    whole = Layout()
    whole.split_column(*parts)
    return whole


def _header(board: Board, now_s: float) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(justify="right", no_wrap=True, width=_CLOCK_COLUMNS)
    facts = board.facts
    leader = f"leader {facts.leader}" if facts.leader else "no leader"
    grid.add_row(
        Text.assemble(("Isthmus", "bold"), f"   {leader}   revision {facts.revision or '-'}"),
        Text(f"{now_s - board.started_s:.0f} s"),
    )
    running = board.running
    if running is None:
        grid.add_row(Text(_progress(board)), Text(""))
    else:
        number = f"{board.number}/{len(board.planned)} " if board.number else ""
        title = Text.assemble(number, (running.name, "bold"), f"  {running.title}")
        grid.add_row(title, Text(f"{now_s - running.since_s:.0f} s"))
    return grid


def _progress(board: Board) -> str:
    done = len(board.results)
    if not done:
        return "setting up" if board.planned else ""
    failed = sum(result.failed for result in board.results)
    requests = sum(result.requests for result in board.results)
    return f"{done} of {max(len(board.planned), done)} scenarios done, {failed} of {requests} requests failed"


def _clusters(board: Board, *, wide: bool) -> Panel:
    table = _table()
    for heading in ("cluster", *(("region", "role") if wide else ()), "state"):
        table.add_column(heading, no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("rev.", justify="right", no_wrap=True)
    for one in board.facts.clusters:
        state = board.state(one)
        table.add_row(
            Text(one.name, "bold"),
            *((one.region, one.role) if wide else ()),
            Text(state, _STYLES[state]),
            _remark(board, one, state),
            str(one.controller.revision) if one.controller else "-",
        )
    return Panel(table, title="clusters", title_align="left", padding=(0, 1))


def _remark(board: Board, one: ClusterFacts, state: State) -> str:
    if state is State.STARTING:
        return f"{one.running}/{one.planned}"
    return reason_of(one) or ("leader" if one.name == board.facts.leader else "")


def _loads(board: Board, now_s: float) -> Panel:
    table = _table()
    table.add_column("caller", no_wrap=True)
    for heading in ("req/s", "failed", "p50", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    current = {load.caller for load in board.current_loads(now_s)}
    for load in board.loads:
        figures = (f"{load.rate_per_s:.0f}", _ms(load.p50_ms), _ms(load.p99_ms))
        rate, p50, p99 = figures if load.caller in current else ("-", "-", "-")
        table.add_row(load.caller, rate, _failures(load.failed), p50, p99)
    total = board.load_sum(now_s)
    if total is not None:
        bounds = (f"<={_ms(total.p50_ms_max)}", f"<={_ms(total.p99_ms_max)}") if current else ("-", "-")
        table.add_row(Text("all", "bold"), f"{total.rate_per_s:.0f}", _failures(total.failed), *bounds)
    return Panel(table, title="load, last second", title_align="left", padding=(0, 1))


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < _WHOLE_MS_MIN else f"{value:.0f}"


def _failures(failed: int) -> Text:
    return Text(str(failed), "bold reverse" if failed else "")


def _services(board: Board, now_s: float, names: list[str], rows: int) -> Panel:
    counts = {(one.service, one.cluster): one for one in board.facts.endpoints}
    clusters = [one.name for one in board.facts.clusters]
    table = _table()
    table.add_column("service", no_wrap=True)
    for one in board.facts.clusters:
        # The catalog keeps the endpoints of a cluster that fell silent: nobody may withdraw them but itself.
        lost = (state := board.state(one)) in (State.DOWN, State.SILENT)
        table.add_column(f"{one.name} ({state})" if lost else one.name, justify="right", no_wrap=True)
    shown = names if len(names) <= rows else names[: rows - 1]
    for name in shown:
        table.add_row(name, *(_count(counts.get((name, cluster))) for cluster in clusters))
    if len(shown) < len(names):
        table.add_row(f"and {len(names) - len(shown)} more")
    title = "endpoints ready"
    if not any(one.controller for one in board.facts.clusters):
        title += f", {now_s - board.facts.endpoints_at_s:.0f} s ago: no controller answers"
    return Panel(table, title=title, title_align="left", padding=(0, 1))


def _count(count: EndpointCount | None) -> Text:
    if count is None:
        return Text("")
    if count.ready == count.registered:
        return Text(str(count.ready))
    return Text(f"{count.ready} of {count.registered}", "bold reverse" if not count.ready else "bold yellow")


def _events(board: Board, rows: int) -> Panel:
    lines = [
        Text(format_line(line, board.started_s), overflow="ellipsis", no_wrap=True) for line in board.lines
    ]
    return Panel(Group(*lines[-rows:]), title="events", title_align="left", padding=(0, 1))


def _table() -> Table:
    return Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")

"""The screen fits the terminal, says in words what its colours say, and gives way from the right parts."""

import pytest

from chaos.load.records import LoadStatus
from chaos.view.board import Board
from chaos.view.facts import ClusterFacts, ControllerAnswer, Facts, count_endpoints
from chaos.view.terminal import capture

NOW_S = 1046.0
CLUSTERS = ("alpha", "beta", "gamma", "delta")
SERVICES = ("catalogue", "frontend", "orders", "payments")


def board(*, services: tuple[str, ...] = SERVICES) -> Board:
    """Beta is down, the load goes on."""
    well = tuple(
        ClusterFacts(
            name=name,
            region="eu-west",
            planned=8,
            running=8,
            controller_running=True,
            controller=ControllerAnswer(leader="alpha", revision=1234),
        )
        for name in CLUSTERS
    )
    endpoints = count_endpoints([(service, name, True) for service in services for name in CLUSTERS])
    facts = Facts(clusters=well, endpoints=endpoints, endpoints_at_s=NOW_S)
    down = ClusterFacts(name="beta", region="us-east", planned=8)
    after = Facts(clusters=(well[0], down, *well[2:]), endpoints=endpoints, endpoints_at_s=NOW_S)
    shown = Board(started_s=1000.0, planned=("a", "cluster-dies")).with_facts(facts)[0].with_facts(after)[0]
    shown = shown.with_scenario(1040.0, "cluster-dies", "A whole cluster dies")
    loads = tuple(
        LoadStatus(
            caller=name, at_s=NOW_S, planned=300, sent=300, failed=0, rate_per_s=66.7, failed_per_s=0.0,
            p50_ms=3.14, p99_ms=122.4,
        )
        for name in ("alpha", "gamma", "delta")
    )  # fmt: skip
    for number in range(40):
        shown = shown.with_line(1041.0 + number / 10, f"event {number}.")
    return shown.with_loads(loads)


@pytest.mark.parametrize(
    ("columns", "rows"), [(100, 30), (200, 60), (80, 24), (79, 24), (60, 40), (40, 12), (20, 5), (1, 1)]
)
def test_it_fits_every_terminal(columns: int, rows: int) -> None:
    lines = capture(board(), NOW_S, columns=columns, rows=rows).splitlines()

    assert len(lines) <= rows
    assert max(map(len, lines)) <= columns


def test_everything_stands_on_a_terminal_of_usual_size() -> None:
    text = capture(board(), NOW_S)
    rows = [" ".join(line.split()) for line in text.splitlines()]

    assert rows[0] == "Isthmus leader alpha revision 1234 46 s"
    assert rows[1] == "2/2 cluster-dies A whole cluster dies 6 s"
    assert "│ alpha eu-west primary up leader 1234 ││ alpha 67 0 3.1 122 │" in rows
    assert "│ beta us-east primary down nothing runs - ││ gamma 67 0 3.1 122 │" in rows
    assert any(row.endswith("│ all 200 0 <=3.1 <=122 │") for row in rows)
    assert "│ service alpha beta (down) gamma delta │" in rows
    assert [row for row in rows if row.startswith(tuple(f"│ {name} 1 1 1 1" for name in SERVICES))]
    assert "│ [ 44.9 s] event 39. │" in rows, "the newest event is the last to go"


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (60, 40), (40, 12), (30, 8)])
def test_the_newest_events_and_the_header_stay_where_little_fits(columns: int, rows: int) -> None:
    text = capture(board(), NOW_S, columns=columns, rows=rows)

    assert "leader alpha" in text
    assert "event 39." in text


def test_services_that_do_not_fit_are_counted() -> None:
    many = tuple(f"service-{number:02}" for number in range(30))

    text = capture(board(services=many), NOW_S)

    shown = sum(name in text for name in many)
    assert 0 < shown < len(many)
    assert f"and {len(many) - shown} more" in text


def test_while_no_controller_answers_the_endpoints_say_their_age() -> None:
    facts = board().facts
    mute = tuple(ClusterFacts(name=one.name, planned=8, running=7) for one in facts.clusters)
    shown, _ = board().with_facts(
        Facts(clusters=mute, endpoints=facts.endpoints, endpoints_at_s=facts.endpoints_at_s)
    )

    text = capture(shown, NOW_S + 12)

    assert "endpoints ready, 12 s ago: no controller answers" in text
    assert "no leader" in text


def test_a_load_that_fell_silent_shows_no_rate_but_its_failures() -> None:
    text = capture(board(), NOW_S + 60)

    assert any(" ".join(line.split()).endswith("│ gamma - 0 - - │") for line in text.splitlines())


def test_an_empty_board_is_drawn() -> None:
    assert "Isthmus   no leader   revision -" in capture(Board(started_s=0.0), 1.0)


def test_what_is_said_is_text_and_no_markup() -> None:
    assert "[bold]x :smile:" in capture(board().with_line(NOW_S, "[bold]x :smile:"), NOW_S)

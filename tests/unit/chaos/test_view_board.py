"""What the view shows and says follows from what was seen, and from nothing else."""

import pytest
from msgspec.structs import replace

from chaos.load.records import LoadStatus
from chaos.view.board import LINE_CHARS_MAX, LINES_MAX, LOAD_STALE_S, Board
from chaos.view.facts import (
    ClusterFacts,
    ControllerAnswer,
    EndpointCount,
    Facts,
    State,
    count_endpoints,
    reason_of,
    state_of,
)

SAYS_ALPHA = ControllerAnswer(leader="alpha", revision=7)
WELL = ClusterFacts(name="alpha", planned=6, running=6, controller_running=True, controller=SAYS_ALPHA)
REMOTE = ClusterFacts(name="delta", role="remote", planned=4, running=4, controller_planned=False)


def changed(**fields: object) -> ClusterFacts:
    return replace(WELL, **fields)


DEAD = changed(running=0, controller_running=False, controller=None)
STOPPED = changed(stopped=6, controller=None)
LIMPING = changed(running=5)


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        pytest.param(WELL, State.UP, "", id="all-well"),
        pytest.param(REMOTE, State.UP, "", id="a-remote-cluster-needs-no-controller"),
        pytest.param(LIMPING, State.DEGRADED, "1 missing", id="a-process-is-missing"),
        pytest.param(
            changed(running=5, controller_running=False, controller=None),
            State.DEGRADED,
            "no controller",
            id="the-controller-is-missing",
        ),
        pytest.param(changed(controller=None), State.DEGRADED, "controller mute", id="no-answer"),
        pytest.param(
            changed(controller=ControllerAnswer(leader="", revision=7)),
            State.DEGRADED,
            "knows no leader",
            id="cut-off-from-the-leader",
        ),
        pytest.param(changed(stopped=2), State.DEGRADED, "2 stopped", id="some-are-stopped"),
        pytest.param(STOPPED, State.SILENT, "6 stopped", id="all-are-stopped"),
        pytest.param(DEAD, State.DOWN, "nothing runs", id="all-are-dead"),
    ],
)
def test_a_cluster_is_as_its_processes_and_its_controller_are(
    facts: ClusterFacts, state: State, reason: str
) -> None:
    assert (state_of(facts), reason_of(facts)) == (state, reason)


@pytest.mark.parametrize(
    ("said", "leader"),
    [
        ([], ""),
        (["alpha"], "alpha"),
        (["alpha", "alpha", "beta"], "alpha"),
        (["alpha", "beta"], ""),
        (["alpha", ""], "alpha"),
        (["", ""], ""),
    ],
)
def test_the_leader_is_whom_most_of_those_name_that_know_one(said: list[str], leader: str) -> None:
    clusters = tuple(changed(controller=ControllerAnswer(leader=name, revision=1)) for name in said)

    assert Facts(clusters=(*clusters, DEAD)).leader == leader


def after(*moments: Facts) -> tuple[Board, list[str]]:
    """Return the board after these facts, and what the last ones made it say."""
    board, texts = Board(started_s=0.0), ()
    for facts in moments:
        board, texts = board.with_facts(facts)
    return board, list(texts)


def of(*clusters: ClusterFacts, endpoints: str = "", at_s: float = 0.0) -> Facts:
    """Facts with endpoints written as `service@cluster=ready`."""
    rows = [one.replace("=", "@").split("@") for one in endpoints.split()]
    counts = tuple(
        EndpointCount(service=service, cluster=cluster, ready=int(ready), registered=2)
        for service, cluster, ready in rows
    )
    return Facts(clusters=clusters, endpoints=counts, endpoints_at_s=at_s)


@pytest.mark.parametrize(
    ("moments", "texts"),
    [
        pytest.param([of(DEAD)], [], id="what-was-never-up-is-not-down"),
        pytest.param([of(WELL)], ["alpha is elected leader", "cluster alpha is up"], id="first-seen"),
        pytest.param([of(WELL), of(WELL)], [], id="nothing-new"),
        pytest.param([of(WELL), of(LIMPING)], [], id="degraded-is-shown-not-said"),
        pytest.param(
            [of(WELL), of(DEAD)],
            ["alpha leads no longer", "cluster alpha is down: none of its 6 processes runs"],
            id="died",
        ),
        pytest.param([of(REMOTE), of(replace(REMOTE, running=0)), of(replace(REMOTE, running=1))], [], id="on-its-way"),
        pytest.param(
            [of(REMOTE), of(replace(REMOTE, running=0)), of(replace(REMOTE, running=1)), of(REMOTE)],
            ["cluster delta is up again"],
            id="returned",
        ),
        pytest.param(
            [of(REMOTE), of(replace(REMOTE, stopped=4))],
            ["cluster delta is silent: its 4 processes are stopped"],
            id="blackholed",
        ),
        pytest.param(
            [of(WELL), of(changed(controller=ControllerAnswer(leader="beta", revision=8)))],
            ["beta is elected leader"],
            id="another-leader",
        ),
    ],
)  # fmt: skip
def test_only_what_is_news_is_said(moments: list[Facts], texts: list[str]) -> None:
    assert after(*moments)[1] == texts


@pytest.mark.parametrize(
    ("moments", "texts"),
    [
        pytest.param([of(endpoints="a@x=1 b@x=1", at_s=1)], [], id="first-seen"),
        pytest.param(
            [of(endpoints="a@x=2", at_s=1), of(endpoints="a@x=1", at_s=2)], [], id="one-of-two-is-left"
        ),
        pytest.param(
            [of(endpoints="a@x=1 b@x=1 a@y=1", at_s=1), of(endpoints="a@x=0 b@x=0 a@y=1", at_s=2)],
            ["x: no ready endpoint of a, b"],
            id="not-ready",
        ),
        pytest.param(
            [of(endpoints="a@x=1", at_s=1), of(at_s=2)], ["x: no ready endpoint of a"], id="withdrawn"
        ),
        pytest.param([of(endpoints="a@x=1", at_s=1), of(at_s=2), of(at_s=3)], [], id="said-once"),
        pytest.param(
            [of(endpoints="a@x=1", at_s=1), of(at_s=2), of(endpoints="a@x=1", at_s=3)],
            ["x: ready again: a"],
            id="back",
        ),
    ],
)
def test_endpoints_that_go_and_return_are_said_by_cluster(moments: list[Facts], texts: list[str]) -> None:
    assert after(*moments)[1] == texts


def test_a_cluster_starts_until_it_was_up_once() -> None:
    assert after(of(LIMPING))[0].state(LIMPING) is State.STARTING
    assert after(of(WELL), of(LIMPING))[0].state(LIMPING) is State.DEGRADED


def test_endpoints_are_counted_by_service_and_cluster() -> None:
    rows = [("b", "x", True), ("a", "y", True), ("a", "x", False), ("a", "x", True)]

    assert [(one.service, one.cluster, one.ready, one.registered) for one in count_endpoints(rows)] == [
        ("a", "x", 1, 2),
        ("a", "y", 1, 1),
        ("b", "x", 1, 1),
    ]


def load(caller: str, at_s: float, **fields: float) -> LoadStatus:
    figures = {"rate_per_s": 50.0, "failed_per_s": 0.0, "p50_ms": 2.0, "p99_ms": 9.0}
    return LoadStatus(caller=caller, at_s=at_s, planned=100, sent=100, failed=1, **{**figures, **fields})


def test_the_sum_adds_rates_of_loads_that_go_on_and_failures_of_all() -> None:
    now_s = 100.0
    loads = (
        load("alpha", now_s, p99_ms=7.0),
        load("beta", now_s - LOAD_STALE_S, p50_ms=3.0),
        load("gamma", now_s - LOAD_STALE_S - 0.1, p99_ms=900.0),
    )
    board = Board(started_s=0.0).with_loads(loads)

    total = board.load_sum(now_s)

    assert total is not None
    assert (total.rate_per_s, total.failed, total.sent) == (100.0, 3, 300)
    assert (total.p50_ms_max, total.p99_ms_max) == (3.0, 9.0), "bounds of those that go on"
    assert Board(started_s=0.0).load_sum(now_s) is None


def test_lines_are_bounded_in_number_and_length_and_hold_no_line_break() -> None:
    board = Board(started_s=0.0)
    for number in range(LINES_MAX + 10):
        board = board.with_line(float(number), f"{number}\n\x1b[31m" + "x" * 2 * LINE_CHARS_MAX)

    assert len(board.lines) == LINES_MAX
    assert board.lines[-1].at_s == LINES_MAX + 9
    assert all(len(line.text) <= LINE_CHARS_MAX for line in board.lines)
    assert all(line.text.isprintable() for line in board.lines), "a log's control characters stay out"


def test_a_scenario_is_counted_among_those_planned_and_its_loads_end_with_it() -> None:
    board = Board(started_s=0.0, planned=("a", "b")).with_loads((load("alpha", 0.0),))

    board = board.with_scenario(1.0, "b", "B")
    assert (board.number, board.loads) == (2, ())
    assert Board(started_s=0.0).with_scenario(1.0, "b", "B").number == 0

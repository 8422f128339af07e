"""What observations say of a cluster: four states, a quorum in two planes, and who does not count."""

import pytest

from discovery.core.liveness import Complaints, Electorate, Judgement, is_suspended
from discovery.core.specs import ClusterSpec, ObservationSpec, Role

CONTROL = ObservationSpec(control_lost=True)
DATA = ObservationSpec(data_lost=True)
BOTH = ObservationSpec(control_lost=True, data_lost=True)


def primaries(names: str, **others: ClusterSpec) -> dict[str, ClusterSpec]:
    return {name: spec("primary") for name in names} | others


def spec(role: Role, home: str = "") -> ClusterSpec:
    return ClusterSpec(role=role, trust_domain="any.test", home=home)


def remote(home: str) -> ClusterSpec:
    return spec("remote", home)


def complaints(*rows: tuple[str, str, ObservationSpec]) -> Complaints:
    """Rows of (observers, subject, what is missed); each letter is a cluster."""
    found: dict[str, dict[str, ObservationSpec]] = {}
    for observers, subject, observation in rows:
        for observer in observers:
            found.setdefault(observer, {})[subject] = observation
    return found


def judged(
    clusters: dict[str, ClusterSpec], subject: str, *rows: tuple[str, str, ObservationSpec]
) -> Judgement:
    return Electorate(clusters, complaints(*rows)).judge(subject)


@pytest.mark.parametrize(
    ("clusters", "rows", "state"),
    [
        pytest.param("ABX", [], "ok", id="nobody-misses-it"),
        pytest.param("ABX", [("A", "X", CONTROL)], "control-lost", id="one-misses-its-controllers"),
        pytest.param("ABX", [("AB", "X", CONTROL)], "control-lost", id="all-miss-its-controllers"),
        pytest.param("ABX", [("A", "X", DATA)], "data-degraded", id="one-misses-its-gateways"),
        pytest.param("ABX", [("AB", "X", DATA)], "data-degraded", id="all-miss-its-gateways"),
        pytest.param("ABX", [("A", "X", BOTH)], "data-degraded", id="one-misses-everything"),
        pytest.param("ABX", [("AB", "X", BOTH)], "dead", id="two-of-two-miss-everything"),
        pytest.param("ABX", [("A", "X", BOTH), ("B", "X", DATA)], "data-degraded", id="one-hears-its-controllers"),
        pytest.param("ABX", [("A", "X", BOTH), ("B", "X", CONTROL)], "data-degraded", id="one-reaches-its-gateways"),
        pytest.param("AX", [("A", "X", BOTH)], "data-degraded", id="only-one-can-observe"),
        pytest.param("ABCDX", [("AB", "X", BOTH)], "data-degraded", id="two-of-four-are-no-majority"),
        pytest.param("ABCDX", [("ABC", "X", BOTH)], "dead", id="three-of-four"),
        pytest.param("ABCX", [("AB", "X", BOTH)], "dead", id="two-of-three"),
        pytest.param("ABCDX", [("A", "X", CONTROL), ("BC", "X", BOTH), ("D", "X", DATA)], "dead", id="each-plane-has-its-quorum"),
    ],
)  # fmt: skip
def test_a_cluster_is_dead_when_a_quorum_misses_it_in_both_planes(clusters, rows, state):
    assert judged(primaries(clusters), "X", *rows).state == state


def test_the_evidence_names_who_misses_what():
    judgement = judged(primaries("ABCX"), "X", ("B", "X", BOTH), ("A", "X", DATA))
    assert judgement == Judgement(state="data-degraded", control_lost_by=("B",), data_lost_by=("A", "B"))


def test_a_cluster_says_nothing_about_itself():
    assert judged(primaries("ABX"), "X", ("AX", "X", BOTH)).data_lost_by == ("A",)


def test_a_remote_cluster_observes_nothing():
    assert judged(primaries("AX", R=remote("A")), "X", ("AR", "X", BOTH)).state == "data-degraded"


def test_a_home_without_a_member_observes_nothing_and_is_missed_all_the_same():
    electorate = Electorate(
        primaries("ABX", R=remote("X")), complaints(("ABX", "R", DATA), ("AB", "X", CONTROL)), {"X"}
    )
    assert electorate.judge("R") == Judgement(state="dead", data_lost_by=("A", "B"))


def test_a_witness_observes():
    assert judged(primaries("AX", W=spec("witness")), "X", ("AW", "X", BOTH)).state == "dead"


@pytest.mark.parametrize(
    ("lost", "others", "suspended"),
    [(0, 1, False), (1, 1, False), (1, 2, False), (2, 2, True), (2, 3, True), (2, 4, False), (3, 4, True)],
)
def test_who_misses_more_than_half_of_the_others_is_suspended(lost, others, suspended):
    assert is_suspended(lost, others) == suspended


def test_an_observer_that_misses_nearly_everybody_does_not_count():
    """A has lost its own network: without it B alone misses X, which kills nobody."""
    rows = [("A", name, BOTH) for name in "BCX"]
    electorate = Electorate(primaries("ABCX"), complaints(*rows, ("B", "X", BOTH)))
    assert electorate.suspended("A") == {"control", "data"}
    assert electorate.judge("X") == Judgement(
        state="data-degraded", control_lost_by=("B",), data_lost_by=("B",)
    )


def test_suspension_is_of_one_plane():
    """A reaches no gateway of anybody, and hears all controllers but those of X."""
    rows = [("A", "B", DATA), ("A", "C", DATA), ("A", "X", BOTH)]
    electorate = Electorate(primaries("ABCX"), complaints(*rows))
    assert electorate.suspended("A") == {"data"}
    assert electorate.judge("X") == Judgement(state="control-lost", control_lost_by=("A",))
    assert electorate.judge("B").state == "ok"


def test_two_clusters_can_die_one_after_the_other():
    clusters = primaries("ABCDE")
    rows = [("ABC", "D", BOTH), ("ABC", "E", BOTH)]
    electorate = Electorate(clusters, complaints(*rows))
    assert [electorate.judge(name).state for name in "ABCDE"] == ["ok", "ok", "ok", "dead", "dead"]


def test_what_a_silent_cluster_observed_is_old_news():
    """D saw E vanish and was lost itself; E is back, and only D's rows still say otherwise."""
    rows = [("ABC", "D", BOTH), ("D", "E", BOTH)]
    electorate = Electorate(primaries("ABCDE"), complaints(*rows))
    assert electorate.judge("E") == Judgement(state="ok")


def test_two_halves_that_miss_each_other_kill_nobody():
    rows = [("AB", name, BOTH) for name in "CD"] + [("CD", name, BOTH) for name in "AB"]
    electorate = Electorate(primaries("ABCD"), complaints(*rows))
    assert {electorate.judge(name).state for name in "ABCD"} == {"ok"}


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        pytest.param([("A", "R", CONTROL)], "control-lost", id="its-home-misses-its-agents"),
        pytest.param([("B", "R", CONTROL)], "ok", id="others-hear-no-agents-anyway"),
        pytest.param([("ABC", "R", DATA)], "data-degraded", id="its-home-hears-its-agents"),
        pytest.param([("A", "R", BOTH)], "data-degraded", id="by-its-home-alone"),
        pytest.param([("A", "R", BOTH), ("BC", "R", DATA)], "dead", id="by-a-quorum"),
        pytest.param([("BCD", "A", CONTROL)], "control-lost", id="its-home-is-silent"),
        pytest.param([("BCD", "A", BOTH), ("BCD", "R", DATA)], "dead", id="its-home-is-dead-and-its-gateways-too"),
    ],
)  # fmt: skip
def test_the_control_plane_of_a_remote_cluster_is_its_home(rows, state):
    assert judged(primaries("ABCD", R=remote("A")), "R", *rows).state == state


MEMBER = ObservationSpec(member_lost=True)


def test_what_a_member_said_is_old_news_when_only_mirrors_answer_for_its_cluster():
    """D's member died after it had said that it misses X, and nobody takes that back: A alone misses X now."""
    rows = [("D", "X", BOTH), ("A", "X", BOTH)]
    assert judged(primaries("ADX"), "X", *rows).state == "dead"
    told = Electorate(primaries("ABDX"), complaints(*rows, ("AB", "D", MEMBER), ("A", "X", BOTH)))
    assert told.judge("X") == Judgement(state="data-degraded", control_lost_by=("A",), data_lost_by=("A",))
    assert not told.counts("D")
    assert told.judge("D") == Judgement(state="ok")


def test_one_observer_alone_silences_nobody():
    rows = [("AD", "X", BOTH), ("B", "D", MEMBER)]
    assert judged(primaries("ABDX"), "X", *rows).state == "dead"


def test_a_home_that_only_a_mirror_answers_for_loses_none_of_its_remotes():
    rows = [("AB", "X", MEMBER), ("AB", "R", DATA), ("X", "R", BOTH)]
    assert judged(primaries("ABX", R=remote("X")), "R", *rows).state == "data-degraded"

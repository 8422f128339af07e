"""Federations of every size and make: who is found dead is what was foreseen, and nobody by the word of one alone."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.death_forecast import foresee_dead
from discovery.core.liveness import Electorate
from discovery.core.opinion import Mind, Opinion, suspended_planes, wanted_observation
from discovery.core.specs import ClusterSpec, ObservationSpec
from discovery.core.verdicts import read_verdicts
from tests.unit.discovery.builders import Log, key, put

SIZE_MAX = 20


@st.composite
def federations(draw):
    """Clusters by name: primaries and witnesses, and remote ones with their homes."""
    count = draw(st.sampled_from((2, 3, 5, SIZE_MAX)))
    roles = draw(
        st.lists(
            st.sampled_from(("primary", "primary", "witness", "remote")),
            min_size=count - 1,
            max_size=count - 1,
        )
    )
    clusters = {"c0": ClusterSpec(role="primary", trust_domain="c0.test")}
    for number, role in enumerate(roles, start=1):
        name = f"c{number}"
        home = draw(st.sampled_from([n for n, one in clusters.items() if one.role == "primary"]))
        clusters[name] = (
            ClusterSpec(role="remote", trust_domain=clusters[home].trust_domain, home=home)
            if role == "remote"
            else ClusterSpec(role=role, trust_domain=f"{name}.test")
        )
    return clusters


def founded(clusters: dict[str, ClusterSpec]) -> Log:
    """A catalog in which these have joined."""
    log = Log()
    for name, spec in clusters.items():
        joins = [put(key("Cluster", name), msgspec.to_builtins(spec))]
        if spec.role != "remote":
            joins.append(put(key("TrustDomain", spec.trust_domain), {"roots": ["PEM"], "sequence": 1}))
        if name == "c0":
            joins.insert(0, put(key("Federation", "federation"), {"id": "f-1"}))
        log.accept(spec.home or "c0", *joins)
    return log


observations = st.builds(
    ObservationSpec, control_lost=st.booleans(), data_lost=st.booleans(), member_lost=st.booleans()
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), clusters=federations())
def test_who_is_foreseen_to_be_found_dead_is_found_dead(data, clusters):
    """Each observer that is left makes up its mind, says what it says then, and the state machine judges."""
    names = sorted(clusters)
    few = st.sets(st.sampled_from(names), max_size=2)
    lost = data.draw(few) or {names[-1]}
    controlled = data.draw(few) | {name for name in names if clusters[name].role == "primary"}
    edged = set(names) - data.draw(few)
    blind = data.draw(few)
    log = founded(clusters)
    for name in blind:
        log.accept("c0", put(key("Member", name), {"standing": "removed"}))
    for observer, spec in clusters.items():
        if spec.role == "remote" or observer in lost | blind:
            continue
        minds = {
            name: Mind(
                control=sight(
                    name in lost,
                    name in controlled or other.role == "witness" or other.home == observer,
                ),
                data=sight(name in lost, name in edged),
            )
            for name, other in clusters.items()
            if name != observer
        }
        for name, mind in minds.items():
            said = wanted_observation(mind, None, suspended_planes(minds))
            if said is not None:
                row = put(key("Observation", name, scope=observer), msgspec.to_builtins(said))
                log.accept(observer, row)
    found = {
        name for name, verdict in read_verdicts(log.catalog.tables).items() if verdict.spec.state == "dead"
    }
    assert foresee_dead(clusters, controlled=controlled, edged=edged, lost=lost, blind=blind) == found


def sight(is_lost: bool, is_seen: bool) -> Opinion:
    if not is_seen:
        return Opinion(sight="nothing")
    return Opinion(sight="lost" if is_lost else "heard")


@given(data=st.data(), clusters=federations())
def test_the_word_of_one_observer_about_any_others_kills_nobody(data, clusters):
    observer = data.draw(st.sampled_from([name for name, spec in clusters.items() if spec.role != "remote"]))
    said = data.draw(st.dictionaries(st.sampled_from(sorted(clusters)), observations))
    electorate = Electorate(clusters, {observer: said})
    assert "dead" not in {electorate.judge(name).state for name in clusters}

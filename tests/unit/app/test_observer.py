"""What an observer says: the difference between what it sees and what the catalog says that it saw."""

from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from discovery.core.commands import Delete, Put
from discovery.core.model import GATEWAY_SERVICE, SYSTEM_NAMESPACE
from discovery.core.opinion import Mind, Opinion
from discovery.core.specs import ControllerSpec
from federation.api.gateway_eyes import GatewayEyes
from federation.api.messages import NamedController, ProbeTarget, Sightings
from federation.app.liveness_metrics import LivenessCollector
from federation.app.observer import Observer
from federation.kernel.versions import PROTOCOL_VERSION
from tests.unit.discovery.builders import Log, endpoint, key, put, put_drain
from tests.unit.discovery.test_verdicts import four, observe, state, three

HEARD, LOST, UNKNOWN = Opinion(sight="heard"), Opinion(sight="lost"), Opinion()


def observer(log: Log, cluster: str = "alpha", *, eyes: GatewayEyes | None = None, **minds: Mind) -> Observer:
    absent: Any = SimpleNamespace()
    made = Observer(
        cluster,
        catalog=log.catalog,
        engine=absent,
        proposer=absent,
        registries={},
        identity=absent,
        directory=absent,
        verifier=absent,
        round_trip_ms=1,
        clock=lambda: 0.0,
        eyes=eyes or GatewayEyes(cluster, clock=lambda: 0.0),
    )
    made.minds.update(minds)
    return made


def say(log: Log, one: Observer, cluster: str) -> list[Put | Delete]:
    """Let an observer write what it has to, and return that."""
    operations = one.differences()
    if operations:
        log.accept(cluster, *operations)
    return operations


def test_a_change_of_mind_is_written_once_and_taken_back_once():
    log = three()
    minds = {"beta": Mind(control=LOST, data=LOST), "gamma": Mind(control=HEARD, data=HEARD)}
    one = observer(log, **minds)
    assert [operation.key for operation in say(log, one, "alpha")] == [
        key("Observation", "beta", scope="alpha")
    ]
    assert state(log) == "data-degraded"
    assert say(log, one, "alpha") == []
    one.minds["beta"] = Mind(control=HEARD, data=LOST)
    assert isinstance(say(log, one, "alpha")[0], Put)
    one.minds["beta"] = Mind(control=HEARD, data=HEARD)
    assert say(log, one, "alpha") == [Delete(key=key("Observation", "beta", scope="alpha"))]
    assert state(log) == "ok"


class Answers:
    """A probe of controllers of which these answer."""

    def __init__(self, *names: str) -> None:
        self.names = names

    async def ask(self, controllers: tuple[NamedController, ...], *, timeout_s: float) -> bool:
        return any(one.name in self.names for one in controllers)


def controller(name: str, role: Literal["member", "mirror"]) -> NamedController:
    spec = ControllerSpec(cluster="beta", role=role, identity="x", protocol=1, control="127.1.0.1:7444")
    return NamedController(name=name, spec=spec)


@pytest.mark.parametrize(
    ("controllers", "answering", "heard"),
    [
        pytest.param(["member"], ["member"], (True, None), id="a-member-alone"),
        pytest.param(["member"], [], (False, None), id="a-member-alone-is-gone"),
        pytest.param(["mirror"], ["mirror"], (True, None), id="mirrors-alone"),
        pytest.param(["member", "mirror"], ["member"], (True, True), id="the-member-answers"),
        pytest.param(["member", "mirror"], ["mirror"], (True, False), id="only-its-mirror-answers"),
        pytest.param(["member", "mirror"], [], (False, False), id="nobody-answers"),
    ],
)
async def test_a_mirror_gives_a_sign_of_life_and_does_not_observe_for_its_member(
    controllers, answering, heard
):
    log = three()
    one = observer(log)
    known = SimpleNamespace(controllers=[controller(name, name) for name in controllers])
    one._directory = cast("Any", SimpleNamespace(current=known))
    probes: Any = SimpleNamespace(members=Answers(*answering), mirrors=Answers(*answering))
    spec = log.catalog.tables.cluster("beta")
    assert spec is not None
    assert await one._hears("beta", spec, probes) == heard


def test_what_a_member_that_is_lost_said_of_others_counts_no_more():
    log = four()
    for name in ("alpha", "zeta"):
        log.accept(name, observe(name, "beta"))
    say(log, observer(log, "gamma", zeta=Mind(control=HEARD, member=LOST)), "gamma")
    log.accept("gamma", observe("gamma", "beta", dataLost=True))
    assert state(log) == "dead"  # alpha and zeta; gamma alone silences nobody.
    say(
        log,
        observer(log, "alpha", zeta=Mind(control=HEARD, member=LOST), beta=Mind(control=LOST, data=LOST)),
        "alpha",
    )
    assert (state(log), state(log, "zeta")) == ("data-degraded", "ok")
    say(log, observer(log, "alpha", zeta=Mind(control=HEARD, member=HEARD)), "alpha")
    assert log.catalog.tables.resource(key("Observation", "zeta", scope="alpha")) is None


def test_two_observers_are_enough():
    log = three()
    for name in ("alpha", "gamma"):
        say(log, observer(log, name, beta=Mind(control=LOST, data=LOST)), name)
    assert state(log) == "dead"


def test_an_observer_that_starts_leaves_what_it_said_until_it_has_seen_for_itself():
    log = three()
    log.accept("alpha", observe("alpha", "beta"))
    one = observer(log, beta=Mind(control=UNKNOWN, data=UNKNOWN))
    assert one.differences() == []
    one.minds["beta"] = Mind(control=HEARD, data=UNKNOWN)
    (changed,) = say(log, one, "alpha")
    assert isinstance(changed, Put)
    assert state(log) == "data-degraded"


def test_an_observer_that_misses_everybody_says_nothing_and_takes_back_what_returns():
    log = three()
    log.accept("alpha", observe("alpha", "beta"))
    one = observer(log, beta=Mind(control=LOST, data=LOST), gamma=Mind(control=LOST, data=LOST))
    assert one.suspended == (True, True)
    assert one.differences() == []
    one.minds["beta"] = Mind(control=HEARD, data=HEARD)
    assert [type(operation) for operation in one.differences()] == [Delete, Put]


def test_verdicts_and_sights_are_figures():
    log = three()
    for name in ("alpha", "gamma"):
        log.accept(name, observe(name, "beta"))
    log.accept("alpha", put_drain("gamma", 50), put_drain("beta", rolledBack="why"))
    registry = CollectorRegistry()
    eyes = GatewayEyes("alpha", clock=lambda: 0.0)
    eyes.aim(ProbeTarget(cluster="beta", gateways=(("gw-1", "10.0.0.1", 15_443),)))
    eyes.told(object(), Sightings(lost=("beta",)))
    one = observer(log, eyes=eyes, beta=Mind(control=HEARD, data=LOST))
    checker: Any = SimpleNamespace(opinions={key("ExternalService", "x"): {"a": HEARD, "b": LOST}})
    registry.register(LivenessCollector(log.catalog, one, checker))
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'isthmus_cluster_state{cluster="beta",state="dead"} 1.0',
        'isthmus_cluster_state{cluster="beta",state="ok"} 0.0',
        'isthmus_cluster_state{cluster="delta",state="ok"} 1.0',
        'isthmus_cluster_state_changes_total{cluster="beta"} 2.0',
        'isthmus_cluster_share_percent{cluster="alpha"} 100.0',
        'isthmus_cluster_share_percent{cluster="gamma"} 50.0',
        'isthmus_cluster_drain_rolled_back{cluster="beta"} 1.0',
        'isthmus_cluster_drain_rolled_back{cluster="gamma"} 0.0',
        'isthmus_observer_missed{cluster="beta",plane="control"} 0.0',
        'isthmus_observer_missed{cluster="beta",plane="data"} 1.0',
        'isthmus_observer_suspended{plane="data"} 0.0',
        'isthmus_observer_gateways{cluster="beta"} 1.0',
        'isthmus_external_addresses{state="lost"} 1.0',
        'isthmus_external_addresses{state="unknown"} 0.0',
    ):
        assert line in lines


def test_where_controllers_listen_is_found_out_once_for_each_version_of_the_resources():
    log = three()
    one = observer(log)
    spec = log.catalog.tables.cluster("beta")
    assert spec is not None
    gateway = endpoint(
        "beta",
        "gw",
        namespace=SYSTEM_NAMESPACE,
        service=GATEWAY_SERVICE,
        agent="gateway.gw",
        address="10.2.0.1",
        identity="spiffe://beta.test/isthmus/beta/gateway/gw",
    )
    assert log.publish("beta", gateway).code == 0
    assert [found.name for found in one._gateways("beta", spec)] == ["gw"]
    places = one._controller_places()
    assert one._controller_places() is places
    here = f"10.2.0.1:{gateway.ports[0].listen_port}"
    identity = "spiffe://gamma.test/isthmus/gamma/controller/9"
    comes = {
        "cluster": "gamma",
        "role": "member",
        "identity": identity,
        "control": here,
        "protocol": PROTOCOL_VERSION,
    }
    log.accept("gamma", put(key("Controller", "gamma-9"), comes))
    assert one._controller_places() is not places
    assert one._gateways("beta", spec) == ()

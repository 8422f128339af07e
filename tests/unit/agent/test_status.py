"""What a status says of readiness, and its metrics."""

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from federation.agent.status import (
    AgentStatus,
    ControllerStatus,
    EndpointStatus,
    LeafStatus,
    ProxyStatus,
    StatusCollector,
)

STATUS = AgentStatus(
    purpose="agent",
    id="a1",
    cluster="alpha",
    identity="spiffe://alpha.example/isthmus/alpha/agent/a1",
    incarnation=1,
    leaving=False,
    missing=(),
    controllers=(ControllerStatus(name="alpha-c1", connected=False, error="connection refused"),),
    endpoints=(
        EndpointStatus(
            endpoint="shop/orders/orders-a1",
            address="127.106.0.9:15006",
            ready=True,
            level="declared",
            refusals=("alpha-c1: outside the ranges",),
        ),
    ),
    leaves=(LeafStatus(identity="spiffe://alpha.example/ns/shop/sa/orders", expires=None, valid=False),),
    proxy=ProxyStatus(state="ready", ready=True, restarts=2, age_s=7.5),
    heard={"beta": True, "gamma": False},
)


def metrics(status: AgentStatus) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: status))
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_readiness_does_not_need_a_controller() -> None:
    assert STATUS.ready
    assert not msgspec.structs.replace(STATUS, missing=("envoy is not ready",)).ready


def test_every_fact_that_an_alert_needs_is_a_metric() -> None:
    shown = metrics(STATUS)
    assert shown["isthmus_agent_ready"] == 1
    assert shown["isthmus_agent_controllers"] == 1
    assert shown["isthmus_agent_controllers_connected"] == 0
    assert shown['isthmus_agent_endpoints{level="declared",ready="true"}'] == 1
    assert shown["isthmus_agent_endpoints_refused"] == 1
    assert shown["isthmus_agent_proxy_restarts_total"] == 2
    assert shown['isthmus_gateway_heard{cluster="beta"}'] == 1
    assert shown['isthmus_gateway_heard{cluster="gamma"}'] == 0
    assert shown["isthmus_agent_configuration_age_seconds"] == 7.5


def test_an_age_that_nobody_knows_is_not_shown_as_zero() -> None:
    unknown = msgspec.structs.replace(STATUS, proxy=ProxyStatus(state="stopped", ready=False))
    assert "isthmus_agent_configuration_age_seconds" not in metrics(unknown)

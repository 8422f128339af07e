"""Which enrolled processes the doctor hears of: those that nobody hears, and DNS processes that do not follow."""

from federation.api.health import NAMES_MAX
from federation.app.health import compare_agents
from tests.unit.discovery.builders import Log, founded, key, put


def enrolled(*agents: str) -> Log:
    log = founded()
    for name in agents:
        role = name.partition(".")[0]
        workloads = {"namespace": "shop", "serviceAccount": "shop"} if role == "agent" else {}
        log.accept("alpha", put(key("Agent", name, scope="alpha"), {"role": role, **workloads}))
    return log


def test_who_is_enrolled_and_not_heard_is_named() -> None:
    tables = enrolled(
        "agent.a1", "agent.a2", "gateway.a1", "dns.d1", "dns.d2", "controller.m1"
    ).catalog.tables
    # A gateway may have the name of an agent: it is heard as another one.
    found = compare_agents(
        tables, "alpha", {"a1": "live", "gateway.a1": "lost", "stranger": "live"}, {"dns.d2"}
    )
    assert (found.live, found.silent, found.silent_names) == (1, 2, ("agent.a2", "gateway.a1"))
    assert found.dns_absent == ("d1",)


def test_names_are_bounded_and_numbers_are_not() -> None:
    tables = enrolled(*(f"agent.a{number}" for number in range(NAMES_MAX + 5))).catalog.tables
    found = compare_agents(tables, "alpha", {}, set())
    assert (found.silent, len(found.silent_names)) == (NAMES_MAX + 5, NAMES_MAX)

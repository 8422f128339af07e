"""What owners of policies are told: conflicts that they lost, and names that nobody has. It heals by itself."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.commands import AdvanceRehoming, BeginRehoming, Delete
from discovery.core.condition import MESSAGE_CHARS_MAX, PROBLEMS_NAMED_MAX
from discovery.core.conditions import Conditions
from discovery.core.model import EndpointPort
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    key,
    put_alias,
    put_cluster,
    put_cluster_export,
    put_export,
    put_grant,
    put_import,
    put_token,
    put_trust_domain,
)

TCP = EndpointPort(name="http", service_port=8080, listen_port=15006, protocol="tcp")
EXPORT = {
    name: key("ExportPolicy", "export", scope=name, namespace="shop") for name in ("alpha", "beta", "delta")
}


class Told:
    """A log, and the conditions that the controller of each cluster writes into it."""

    def __init__(self, log: Log, *clusters: str) -> None:
        self.log = log
        self.keepers = {name: Conditions(name) for name in clusters or ("alpha", "beta")}
        for keeper in self.keepers.values():
            keeper.reset(log.catalog.tables)
        log.catalog.on_change(
            lambda _, changes: [one.follow(log.catalog.tables, changes) for one in self.keepers.values()]
        )

    def write(self) -> int:
        """Let every keeper write what it has to say; return how much that was."""
        count = 0
        for name, keeper in self.keepers.items():
            keeper.look(100)
            for put in keeper.writes(self.log.catalog.now_ms, 100):
                self.log.accept(name, put)
                count += 1
        return count

    def conditions(self, target: Any) -> dict[str, tuple[str, str, str]]:
        row = self.log.catalog.tables.resource(target)
        assert row is not None
        found = json.loads(row.status).get("conditions", [])
        return {one["type"]: (one["status"], one["reason"], one.get("message", "")) for one in found}


def two_exports(**beta: object) -> Told:
    log = founded()
    told = Told(log)
    log.accept("alpha", put_export("alpha", "shop", "orders"))
    log.accept("beta", put_export("beta", "shop", "orders", **beta))
    assert log.publish("alpha", endpoint("alpha")).code == 0
    return told


def test_the_younger_export_is_told_who_won_and_what():
    told = two_exports(type="Headless")
    assert told.log.publish("beta", endpoint("beta", ports=(TCP,))).code == 0
    assert told.write() == 1
    assert told.conditions(EXPORT["alpha"]) == {}
    assert told.conditions(EXPORT["beta"]) == {
        "Conflict": (
            "True",
            "TypeConflict",
            "shop/orders: type is 'Headless', alpha (ExportPolicy export) says 'ClusterSetIP'; shop/orders: port 8080: protocol is 'tcp', alpha (ExportPolicy export) says 'http'",
        )
    }
    assert told.write() == 0


def test_a_conflict_heals_when_the_winner_is_gone_and_says_since_when():
    told = two_exports(type="Headless")
    told.log.publish("beta", endpoint("beta"))
    told.write()
    told.log.tick(60_000)
    told.log.accept("alpha", Delete(key=EXPORT["alpha"]))
    assert told.write() == 1
    assert told.conditions(EXPORT["beta"]) == {"Conflict": ("False", "NoConflict", "")}
    row = told.log.catalog.tables.resource(EXPORT["beta"])
    assert row is not None
    (one,) = json.loads(row.status)["conditions"]
    assert one["lastTransitionTime"] == "1970-01-01T00:01:00Z"


def test_an_export_that_comes_back_is_the_younger_one():
    told = two_exports(type="Headless")
    told.log.publish("beta", endpoint("beta"))
    told.log.accept("alpha", Delete(key=EXPORT["alpha"]))
    told.log.accept("alpha", put_export("alpha", "shop", "orders"))
    told.write()
    assert told.conditions(EXPORT["beta"]) == {}
    assert told.conditions(EXPORT["alpha"])["Conflict"][:2] == ("True", "TypeConflict")


def test_without_endpoints_nobody_is_in_anybodys_way():
    told = two_exports(type="Headless")
    assert told.write() == 0


def test_endpoints_that_nobody_is_sent_to_are_in_nobodys_way():
    told = two_exports(type="Headless")
    told.log.publish("beta", endpoint("beta"))
    assert told.write() == 1
    told.log.accept("alpha", put_cluster("alpha", ranges=["192.0.2.0/24"]))
    assert told.write() == 1
    assert told.conditions(EXPORT["beta"]) == {"Conflict": ("False", "NoConflict", "")}
    told.log.accept("alpha", put_cluster("alpha"))
    assert told.write() == 1
    assert told.conditions(EXPORT["beta"])["Conflict"][:2] == ("True", "TypeConflict")


def test_a_service_that_is_kept_for_oneself_is_no_export():
    told = two_exports(type="Headless", consumers=["beta"])
    told.log.publish("beta", endpoint("beta"))
    assert told.write() == 0


def test_the_home_of_a_remote_cluster_writes_for_it():
    told = two_exports()
    told.log.accept("alpha", put_export("delta", "shop", "orders", type="Headless"))
    told.log.publish("delta", endpoint("delta"), proposer="alpha")
    assert told.write() == 1
    assert told.conditions(EXPORT["delta"])["Conflict"][:2] == ("True", "TypeConflict")


def move(log: Log) -> None:
    """Delta goes from alpha to beta, and its endpoint shows that it did."""
    log.accept("beta", put_token("leave", "delta", "c" * 64, purpose="cluster", expires_ms=10_000))
    begin = BeginRehoming(
        cluster="delta", to="beta", secret_sha256="c" * 64, started_by="admin", within_ms=60_000
    )
    assert log.send("alpha", begin).code == 0
    assert log.send("alpha", AdvanceRehoming(cluster="delta", state="announced")).code == 0
    moved = endpoint("delta", identity="spiffe://beta.test/ns/shop/sa/orders", version=(1, 2))
    assert log.publish("delta", moved, proposer="alpha").code == 0
    assert log.send("alpha", AdvanceRehoming(cluster="delta", state="moving")).code == 0


def test_a_conflict_is_told_by_the_new_home_of_a_cluster_that_moved_and_not_healed_by_the_move():
    told = two_exports()
    told.log.accept("alpha", put_export("delta", "shop", "orders", type="Headless"))
    told.log.publish("delta", endpoint("delta"), proposer="alpha")
    told.write()
    before = told.conditions(EXPORT["delta"])
    assert before["Conflict"][:2] == ("True", "TypeConflict")
    move(told.log)
    assert told.write() == 0
    assert told.conditions(EXPORT["delta"]) == before
    told.log.accept("alpha", Delete(key=EXPORT["alpha"]))
    assert told.write() == 1
    assert told.conditions(EXPORT["delta"])["Conflict"][:2] == ("False", "NoConflict")


def test_ports_that_are_not_served_any_more_since_the_ranges_changed_are_in_nobodys_way():
    told = two_exports()
    told.log.publish("beta", endpoint("beta", ports=(TCP,)))
    told.write()
    assert told.conditions(EXPORT["beta"])["Conflict"][:2] == ("True", "PortConflict")
    told.log.accept("alpha", put_cluster("alpha", ranges=["192.0.2.0/24"]))
    assert told.write() == 1
    assert told.conditions(EXPORT["beta"])["Conflict"][:2] == ("False", "NoConflict")
    told.log.accept("alpha", put_cluster("alpha"))
    assert told.write() == 1
    assert told.conditions(EXPORT["beta"])["Conflict"][:2] == ("True", "PortConflict")


@pytest.mark.parametrize(
    ("put", "expected"),
    [
        (put_grant("alpha", "shop", "*", trustDomains=["omega.test", "beta.test"]), ("ResolvedRefs", "UnknownTrustDomain", "no trust domain of the federation is called omega.test")),
        (put_grant("alpha", "shop", "*", principals=["spiffe://omega.test/ns/a/sa/b"]), ("ResolvedRefs", "UnknownTrustDomain", "no trust domain of the federation is called omega.test")),
        (put_export("alpha", "shop", "*", consumers=["omega", "beta"]), ("ResolvedRefs", "UnknownCluster", "no cluster of the federation is called omega")),
        (put_cluster_export("alpha", consumers=["omega"]), ("ResolvedRefs", "UnknownCluster", "no cluster of the federation is called omega")),
        (put_import("alpha", clusters=["omega"]), ("ResolvedRefs", "UnknownCluster", "no cluster of the federation is called omega")),
    ],
)  # fmt: skip
def test_what_a_policy_names_in_vain_is_told(put, expected):
    kind, reason, message = expected
    told = Told(founded())
    told.log.accept("alpha", put)
    assert told.write() == 1
    assert told.conditions(put.key) == {kind: ("False", reason, message)}
    assert told.write() == 0


def test_session_affinity_is_done_and_needs_no_words():
    told = Told(founded())
    told.log.accept("alpha", put_export("alpha", "shop", "*", sessionAffinity="ClientIP"))
    assert told.write() == 0


def test_a_name_that_joins_heals_the_policies_that_waited_for_it():
    told = Told(founded())
    grant = put_grant("alpha", "shop", "*", trustDomains=["gamma.test"])
    told.log.accept("alpha", grant, put_export("alpha", "shop", "*", consumers=["gamma"]))
    assert told.write() == 2
    told.log.accept("alpha", put_cluster("gamma"), put_trust_domain("gamma.test"))
    assert told.write() == 2
    assert told.conditions(grant.key) == {"ResolvedRefs": ("True", "Resolved", "")}
    assert told.conditions(EXPORT["alpha"]) == {"ResolvedRefs": ("True", "Resolved", "")}


def test_what_could_not_be_written_is_written_later():
    told = Told(founded(), "alpha")
    keeper = told.keepers["alpha"]
    grant = put_grant("alpha", "shop", "*", trustDomains=["omega.test"])
    told.log.accept("alpha", grant)
    assert [put.key for put in keeper.writes(1, 100)] == [grant.key]
    assert keeper.writes(1, 100) == []
    keeper.again([grant.key])
    assert [put.key for put in keeper.writes(1, 100)] == [grant.key]


def test_thousands_of_conflicts_are_one_bounded_message():
    told = Told(founded())
    told.log.accept("alpha", put_export("alpha", "shop", "*"))
    told.log.accept("beta", put_export("beta", "shop", "*", type="Headless"))
    for cluster in ("alpha", "beta"):
        rows = [endpoint(cluster, service=f"s{number}") for number in range(60)]
        assert told.log.publish(cluster, *rows).code == 0
    told.write()
    _, _, message = told.conditions(EXPORT["beta"])["Conflict"]
    assert message.endswith(f"; and {60 - PROBLEMS_NAMED_MAX} more")
    assert len(message) <= MESSAGE_CHARS_MAX


steps = st.lists(
    st.tuples(
        st.sampled_from(("alpha", "beta")),
        st.sampled_from(("export", "withdraw", "serve", "stop", "narrow", "widen")),
        st.sampled_from(("ClusterSetIP", "Headless")),
        st.booleans(),
    ),
    max_size=14,
)


@settings(max_examples=60)
@given(steps)
def test_conditions_that_are_kept_up_are_those_of_a_fresh_look(found):
    told = Told(founded())
    for number, (cluster, what, kind, look) in enumerate(found, start=1):
        match what:
            case "export":
                told.log.write(cluster, put_export(cluster, "shop", "orders", type=kind))
            case "withdraw":
                told.log.write(cluster, Delete(key=EXPORT[cluster]))
            case "serve":
                told.log.publish(cluster, endpoint(cluster, version=(1, number)))
            case "narrow":
                told.log.accept(cluster, put_cluster(cluster, ranges=["192.0.2.0/24"]))
            case "widen":
                told.log.accept(cluster, put_cluster(cluster))
            case _:
                told.log.publish(cluster, remove=((endpoint(cluster).key, 1, number),))
        if look:
            told.write()
    told.write()
    tables = told.log.catalog.tables
    for name in told.keepers:
        fresh = Conditions(name)
        fresh.reset(tables)
        fresh.look(100)
        assert fresh.writes(told.log.catalog.now_ms, 100) == []


def test_an_alias_that_leads_back_to_itself_is_told_until_the_cycle_is_broken():
    told = Told(founded())
    first, second = put_alias("alpha", "web", "a", "b"), put_alias("alpha", "web", "b", "a")
    told.log.accept("alpha", first)
    assert told.write() == 0
    told.log.accept("alpha", second)
    assert told.write() == 2
    assert told.conditions(first.key)["ResolvedRefs"][:2] == ("False", "AliasCycle")
    told.log.accept("alpha", Delete(key=second.key))
    assert told.write() == 1
    assert told.conditions(first.key)["ResolvedRefs"] == ("True", "Resolved", "")

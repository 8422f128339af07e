"""A catalog founded anew: nothing that anybody may have seen comes again, and time runs forward."""

import itertools

import msgspec
import pytest

from discovery.core.commands import ClaimToken, Write
from discovery.core.external import read_status
from discovery.core.refounding import REVISION_JUMP_MIN, Refounding, refound
from discovery.core.snapshots import decode_snapshot, encode_snapshot
from discovery.core.specs import ControllerSpec, ExternalServiceStatus, FederationSpec
from federation.kernel.errors import Code, CompactedError, InvalidInputError
from federation.kernel.versions import PROTOCOL_VERSION
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    key,
    put_cluster,
    put_export,
    put_external,
    put_token,
)

WRITE = Write(operations=(put_export("alpha", "shop", "*"),))
NOW_US = 1_763_866_800_000_000
ME = ControllerSpec(
    cluster="alpha",
    role="member",
    identity="spiffe://alpha.test/isthmus/alpha/controller/alpha-1",
    raft="10.9.9.9:7443",
    protocol=PROTOCOL_VERSION,
)


def anew(log: Log, *, unix_us: int = NOW_US) -> Refounding:
    return refound(log.catalog.state(), unix_us=unix_us, controller="alpha-1", spec=ME)


def running(founding: Refounding) -> Log:
    """The catalog of the new incarnation, with a log that goes on from its revision."""
    log = Log(index=founding.revision)
    log._requests = itertools.count(1_000)  # Other processes make other requests.
    log.catalog.restore(encode_snapshot(founding.state))
    return log


def test_every_revision_is_above_all_that_the_lost_log_may_have_reached() -> None:
    log = founded()
    log.accept("alpha", put_export("alpha", "shop", "*"))
    new = anew(log)
    assert new.revision == NOW_US
    again = running(new)
    assert again.catalog.revision == NOW_US
    assert {row.revision for row in again.catalog.tables.list_resources("", "Cluster")} == {NOW_US}
    assert again.accept("alpha", put_export("alpha", "shop", "orders")).revision == NOW_US + 1


def test_a_clock_that_is_years_behind_still_leads_forward() -> None:
    log = founded()
    new = anew(log, unix_us=1)
    assert new.revision == log.catalog.revision + REVISION_JUMP_MIN
    assert new.incarnation == 2


def test_what_checkers_said_is_forgotten_and_whose_an_address_is_stays() -> None:
    log = founded()
    log.accept("beta", put_external("beta"))
    log.accept("alpha", put_cluster("alpha", ranges=["203.0.113.0/24"]))
    name = key("ExternalService", "orders", scope="beta", namespace="shop")
    before, after = (read_status(one.catalog.tables.resource(name)) for one in (log, running(anew(log))))
    assert before.addresses
    assert after == ExternalServiceStatus(conditions=before.conditions)
    assert [one.status for one in after.conditions] == ["True"]


def test_two_restores_of_one_backup_are_two_incarnations() -> None:
    log = founded()
    first, second = anew(log), anew(log, unix_us=NOW_US + 5_000_000)
    assert first.incarnation < second.incarnation
    assert first.revision < second.revision


def test_a_watcher_of_the_lost_log_is_told_to_list_again() -> None:
    again = running(anew(founded()))
    with pytest.raises(CompactedError):
        again.catalog.history(NOW_US - 1)


def test_the_federation_keeps_its_id_and_the_controller_gets_its_new_address() -> None:
    again = running(anew(founded()))
    row = again.catalog.tables.resource(key("Federation", "federation"))
    assert row is not None
    spec = msgspec.json.decode(row.spec, type=FederationSpec)
    assert (spec.id, spec.incarnation) == ("f1", NOW_US // 1_000_000)
    controller = again.catalog.tables.resource(key("Controller", "alpha-1"))
    assert controller is not None
    assert msgspec.json.decode(controller.spec, type=ControllerSpec) == ME


def test_a_token_that_may_have_been_used_meanwhile_is_gone_and_a_used_one_stays_used() -> None:
    log = founded()
    log.accept("alpha", put_token("open", "alpha", "a" * 64), put_token("used", "alpha", "b" * 64))
    log.accept("alpha", ClaimToken(secret_sha256="b" * 64, purpose="agent", claimant="1" * 64))
    new = anew(log)
    again = running(new)
    assert new.tokens_dropped == 1
    assert [row.key.name for row in again.catalog.tables.list_resources("", "JoinToken")] == ["used"]
    repeated = again.write("alpha", ClaimToken(secret_sha256="b" * 64, purpose="agent", claimant="2" * 64))
    assert repeated.code == Code.FAILED_PRECONDITION


def test_a_holder_of_before_is_fenced_off_and_leases_are_free() -> None:
    log = founded()
    before = log.lease("publish/alpha", "old").lease
    assert before is not None
    again = running(anew(log))
    again.tick(100)
    late = again.publish("alpha", endpoint(), fence=before.fence)
    assert late.code == Code.FAILED_PRECONDITION, late.message
    now = again.lease("publish/alpha", "new").lease
    assert now is not None
    assert now.fence > NOW_US


def test_endpoints_and_the_memory_of_requests_stay() -> None:
    log = founded()
    log.publish("alpha", endpoint())
    log.send("alpha", WRITE, request="r1")
    again = running(anew(log))
    assert len(again.catalog.tables.endpoints) == 1
    revision = again.catalog.revision
    again.send("alpha", WRITE, request="r1")
    assert again.catalog.revision == revision


def test_a_state_without_a_federation_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="holds no Federation"):
        anew(Log())


def test_the_new_state_survives_its_snapshot() -> None:
    state = anew(founded()).state
    assert decode_snapshot(encode_snapshot(state)) == state

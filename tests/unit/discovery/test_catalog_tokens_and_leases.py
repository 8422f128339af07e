"""Join tokens are used once, in time; leases have one holder and a fence that grows. Time is federation time."""

import msgspec
import pytest

from discovery.core.commands import ClaimToken, Delete, Tick
from discovery.core.specs import JoinTokenStatus
from federation.kernel.errors import Code
from tests.unit.discovery.builders import Log, founded, key, put, put_cluster, put_token

SECRET, OTHER = "a" * 64, "b" * 64
KEY_1, KEY_2 = "1" * 64, "2" * 64
FORGED = "no join token for this agent has this secret: ask for a new one"


def claim(secret: str = SECRET, *, purpose: str = "agent", claimant: str = KEY_1) -> ClaimToken:
    return ClaimToken(secret_sha256=secret, purpose=purpose, claimant=claimant)


def with_token(expires_ms: int = 1_000) -> Log:
    log = founded()
    log.accept("alpha", put_token("t", "alpha", SECRET, expires_ms=expires_ms))
    return log


@pytest.mark.parametrize(
    ("now_ms", "proposer", "operation", "expected", "message"),
    [
        pytest.param(999, "alpha", claim(), 0, "", id="in-time"),
        pytest.param(1_000, "alpha", claim(), Code.FAILED_PRECONDITION, "JoinToken/t has expired: make a new one", id="expired"),
        pytest.param(200, "alpha", claim(OTHER), Code.PERMISSION_DENIED, FORGED, id="forged"),
        pytest.param(200, "alpha", claim(purpose="cluster"), Code.PERMISSION_DENIED, FORGED.replace("agent", "cluster"), id="for-something-else"),
        pytest.param(200, "beta", claim(), Code.PERMISSION_DENIED, "JoinToken/t belongs to cluster alpha: cluster beta may not change it", id="of-another-cluster"),
        pytest.param(200, "alpha", claim(claimant="key"), Code.INVALID_ARGUMENT, "JoinToken/t: claimant is not 64 hexadecimal digits", id="no-fingerprint"),
    ],
)  # fmt: skip
def test_a_token_is_good_for_its_purpose_until_it_expires(now_ms, proposer, operation, expected, message):
    log = with_token()
    log.tick(now_ms)
    outcome = log.write(proposer, operation)
    assert (outcome.code, outcome.message) == (expected, message)


def test_a_token_is_claimed_once_and_again_only_by_the_same_key():
    log = with_token()
    log.accept("alpha", claim())
    row = log.catalog.tables.resource(key("JoinToken", "t"))
    assert row is not None
    status = msgspec.json.decode(row.status, type=JoinTokenStatus)
    assert status == JoinTokenStatus(claimed_by=KEY_1, claimed_ms=100)
    revision = log.catalog.revision
    assert log.accept("alpha", claim()).revision == revision
    outcome = log.write("alpha", claim(claimant=KEY_2))
    assert (outcome.code, outcome.message) == (Code.FAILED_PRECONDITION, "JoinToken/t was already used")


def test_who_fails_to_join_has_not_used_the_token():
    log = founded()
    log.accept("alpha", put_token("t", "beta", SECRET, purpose="cluster"))
    joining = (
        claim(purpose="cluster"),
        put(key("Cluster", "beta"), {"role": "primary", "trustDomain": "x.test"}, expected_revision=0),
    )
    assert log.write("alpha", *joining).code == Code.ALREADY_EXISTS
    row = log.catalog.tables.resource(key("JoinToken", "t"))
    assert row is not None
    assert row.status == b"{}"
    log.accept("alpha", claim(purpose="cluster", claimant=KEY_2), put_cluster("gamma", role="witness"))


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        pytest.param(put(key("JoinToken", "t"), status=b"{}"), Code.FAILED_PRECONDITION, id="status"),
        pytest.param(put_token("t", "alpha", SECRET, expires_ms=9_999), Code.FAILED_PRECONDITION, id="spec"),
        pytest.param(put_token("u", "alpha", SECRET), Code.ALREADY_EXISTS, id="same-secret"),
        pytest.param(put_token("u", "alpha", "short"), Code.INVALID_ARGUMENT, id="no-sha256"),
        pytest.param(Delete(key=key("JoinToken", "t")), 0, id="but-it-can-be-deleted"),
    ],
)
def test_a_token_never_changes_but_by_a_claim(operation, expected):
    log = with_token()
    log.accept("alpha", claim())
    outcome = log.write("alpha", operation)
    assert outcome.code == expected, outcome.message


def test_a_lease_has_one_holder_until_it_expires_and_each_new_holder_a_larger_fence():
    log = founded()
    first = log.lease("publish/alpha", "a", ttl_ms=50).lease
    assert first is not None
    assert first.granted
    refused = log.lease("publish/alpha", "b").lease
    assert refused is not None
    assert (refused.holder, refused.fence, refused.granted) == ("a", first.fence, False)
    log.tick(149)
    assert log.lease("publish/alpha", "b").lease == refused
    log.tick(150)
    taken = log.lease("publish/alpha", "b").lease
    assert taken is not None
    assert (taken.holder, taken.granted) == ("b", True)
    assert taken.fence > first.fence
    assert log.lease("publish/alpha", "a").lease == msgspec.structs.replace(taken, granted=False)


YEAR_MS = 365 * 24 * 3_600_000


@pytest.mark.parametrize("jump_ms", [YEAR_MS, -YEAR_MS], ids=["ahead", "behind"])
def test_a_leader_whose_clock_is_a_year_off_neither_ends_a_lease_nor_keeps_it_alive(jump_ms):
    log = founded()
    log.tick(2 * YEAR_MS)
    log.lease("publish/alpha", "a", ttl_ms=10_000)
    log.tick(2 * YEAR_MS + jump_ms)
    refused = log.lease("publish/alpha", "b").lease
    assert refused is not None
    assert not refused.granted, "ten seconds have not passed"
    for passed_ms in range(500, 10_501, 500):
        log.tick(2 * YEAR_MS + jump_ms + passed_ms)
    taken = log.lease("publish/alpha", "b").lease
    assert taken is not None
    assert taken.granted


def test_while_nobody_leads_no_lease_expires():
    log = founded()
    log.tick(1_000)
    log.lease("publish/alpha", "a", ttl_ms=5_000)
    log.tick(60_000)  # The next leader's first: a minute without one.
    refused = log.lease("publish/alpha", "b").lease
    assert refused is not None
    assert not refused.granted


def test_its_holder_extends_a_lease_and_keeps_the_fence():
    log = founded()
    first = log.lease("publish/alpha", "a", ttl_ms=50).lease
    log.tick(140)
    assert log.lease("publish/alpha", "a", ttl_ms=50).lease == first
    lease = log.catalog.lease("publish/alpha")
    assert lease is not None
    assert lease.expires_ms == 190
    log.lease("publish/alpha", "a", ttl_ms=1)
    assert log.catalog.lease("publish/alpha") == lease


def test_fences_grow_over_all_leases_even_when_a_cluster_leaves_and_returns():
    log = founded()
    before = log.lease("publish/beta", "b", proposer="beta").lease
    log.accept("alpha", Delete(key=key("Cluster", "beta")))
    log.accept("alpha", put_cluster("beta"))
    after = log.lease("publish/beta", "b", proposer="beta").lease
    assert before is not None
    assert after is not None
    assert after.fence > before.fence


@pytest.mark.parametrize(
    ("holder", "ttl_ms"), [("", 1), ("x" * 254, 1), ("a", 0), ("a", -1), ("a", 3_600_001)]
)
def test_a_lease_request_out_of_bounds_is_refused(holder, ttl_ms):
    outcome = founded().lease("publish/alpha", holder, ttl_ms=ttl_ms)
    assert outcome.code == Code.INVALID_ARGUMENT


def test_federation_time_never_runs_backwards_and_is_no_revision():
    log = founded()
    revision = log.catalog.revision
    assert log.tick(500).code == 0
    assert log.tick(400).code == 0
    assert log.tick(-1).code == 0
    assert (log.catalog.now_ms, log.catalog.revision) == (500, revision)
    assert log.send("delta", Tick(now_ms=900)).code == Code.PERMISSION_DENIED
    assert log.send("gamma", Tick(now_ms=900)).code == Code.PERMISSION_DENIED
    assert log.catalog.now_ms == 500

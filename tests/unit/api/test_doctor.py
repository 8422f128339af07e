"""What the doctor finds, from facts alone: one change of a healthy federation for each case."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from federation.api.doctor import LAG_ENTRIES_MAX, Finding, examine, problems
from federation.api.health import CONTACT_MS_MAX, AgentsHealth, Facts, FollowerHealth
from tests.unit.api.doctor_facts import DAY_MS, MEMBERS, NOW_MS, member, peer

YEAR_MS = 365 * DAY_MS
HEALTHY = Facts(
    asked="alpha", leader_id="alpha", voters=MEMBERS, members=tuple(member(name) for name in MEMBERS)
)


def but(name: str, **changes: Any) -> Facts:
    """The healthy federation with one member's health changed."""
    return replace(
        HEALTHY,
        members=tuple(
            replace(one, health=replace(one.health, **changes)) if one.id == name and one.health else one
            for one in HEALTHY.members
        ),
    )


def seen(name: str, **changes: Any) -> Facts:
    """The healthy federation with one member seen otherwise."""
    return replace(
        HEALTHY, members=tuple(replace(one, **changes) if one.id == name else one for one in HEALTHY.members)
    )


def silent(*names: str) -> Facts:
    """Some members answer nobody."""
    peers = tuple(
        peer(name, last_contact_ms_ago=CONTACT_MS_MAX + 1 if name in names else 20) for name in MEMBERS[1:]
    )
    base = but("alpha", peers=peers)
    return replace(
        base,
        members=tuple(
            replace(one, health=None, error="connection refused") if one.id in names else one
            for one in base.members
        ),
    )


def pair(**changes: Any) -> Facts:
    """A federation of alpha and beta, beta seen otherwise."""
    return replace(HEALTHY, voters=MEMBERS[:2], members=(member("alpha"), replace(member("beta"), **changes)))


def witness(*, gamma_unix_ms: int) -> Facts:
    """Gamma is a witness, which told the leader alone what its clock shows."""
    facts = but("alpha", clocks=(("alpha", NOW_MS), ("gamma", gamma_unix_ms)))
    silent_one = replace(
        member("gamma"), is_witness=True, health=None, error="a witness answers no questions"
    )
    return replace(facts, members=(*facts.members[:2], silent_one))


def of(facts: Facts, check: str) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.check == check]


def test_a_healthy_federation_has_no_finding_but_ok_for_each_check() -> None:
    found = examine(HEALTHY)
    assert {finding.level for finding in found} == {"ok"}
    assert len(found) == len({finding.check for finding in found}) == 13


@pytest.mark.parametrize(
    ("facts", "check", "subject", "message"),
    [
        pytest.param(silent("beta"), "quorum", "beta", "the next failure stops all writes", id="member-away"),
        pytest.param(silent("alpha", "beta"), "quorum", "alpha, beta, gamma", "no leader: 1 of 3", id="no-quorum"),
        pytest.param(silent("beta"), "reach", "beta", "connection refused", id="unreachable"),
        pytest.param(
            seen("beta", health=None, error="SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate"),
            "reach",
            "beta",
            "with a certificate that nobody vouches for",
            id="somebody-else",
        ),
        pytest.param(
            but("alpha", peers=(peer("beta", match_index=100 - LAG_ENTRIES_MAX - 1), peer("gamma"))),
            "lag",
            "beta",
            f"lacks {LAG_ENTRIES_MAX + 1} entries",
            id="lag",
        ),
        pytest.param(but("beta", raft_problem="no space left"), "log", "beta", "no full part in the log: no space left", id="log"),
        pytest.param(
            but("gamma", commit_index=100_000), "lag", "gamma", "has not applied 99900", id="apply-lag"
        ),
        pytest.param(
            seen("beta", clock_offset_ms=-5_000), "clocks", "beta", "is 5.0 s behind those of the others", id="clock"
        ),
        pytest.param(pair(clock_offset_ms=5_000), "clocks", "beta", "is 5.0 s ahead of that of alpha", id="one-clock-of-two"),
        pytest.param(
            witness(gamma_unix_ms=NOW_MS - 5_000), "clocks", "gamma", "is 5.0 s behind those of the others", id="witness-clock"
        ),
        pytest.param(
            but("beta", leaf_expires_ms=NOW_MS + 3_600_000), "certificates", "beta", "expires in 1.0 h", id="leaf"
        ),
        pytest.param(
            but("beta", intermediate_expires_ms=NOW_MS), "certificates", "beta", "has expired", id="intermediate"
        ),
        pytest.param(
            but("beta", root_expires_ms=NOW_MS + DAY_MS), "certificates", "beta", "the root of beta-c1", id="root"
        ),
        pytest.param(but("gamma", disk_free_bytes=1 << 20), "disks", "gamma", "1 MiB of", id="disk"),
        pytest.param(
            but("alpha", agents=(AgentsHealth(cluster="alpha", live=1, silent=2, silent_names=("agent.a1",)),)),
            "agents",
            "alpha",
            "2 of 3 enrolled agents of alpha are silent at alpha-c1: agent.a1 and 1 more",
            id="agents",
        ),
        pytest.param(
            but("alpha", agents=(AgentsHealth(cluster="alpha", live=3, limited="at most 3 are allowed"),)),
            "quotas",
            "alpha",
            "cannot publish new endpoints of alpha: at most 3 are allowed",
            id="limited",
        ),
        pytest.param(
            but("alpha", slow_followers=(FollowerHealth(cluster="alpha", name="dns.d1", behind_ms=11_000),)),
            "followers",
            "alpha/dns.d1",
            "behind alpha-c1 for 11 s",
            id="follower",
        ),
        pytest.param(
            but("beta", incarnation=2), "incarnations", "alpha", "of incarnation 1", id="earlier-incarnation"
        ),
    ],
)  # fmt: skip
def test_a_problem_is_named_with_its_subject_and_a_next_step(
    facts: Facts, check: str, subject: str, message: str
) -> None:
    found = next(finding for finding in problems(examine(facts)) if finding.check == check)
    assert found.subject == subject
    assert message in found.message
    assert found.next_step


@pytest.mark.parametrize(
    ("facts", "check", "message"),
    [
        pytest.param(replace(HEALTHY, voters=("alpha", "beta")), "quorum", "no more failures than 1", id="even"),
        pytest.param(replace(HEALTHY, voters=("alpha",)), "quorum", "one member", id="one"),
        pytest.param(but("beta", version="0.2.0"), "versions", "differ in version", id="version"),
        pytest.param(
            but("alpha", agents=(AgentsHealth(cluster="alpha", live=1, dns_absent=("d1",)),)),
            "followers",
            "d1 of alpha does not follow",
            id="dns",
        ),
        pytest.param(seen("beta", health=None, error="refused"), "reach", "does not answer alpha", id="port"),
        pytest.param(
            but("alpha", agents=(AgentsHealth(cluster="alpha", live=1, withheld=(("a1", 12),)),)),
            "withheld",
            "agent a1 of alpha came back without 12 endpoints",
            id="withheld",
        ),
    ],
)  # fmt: skip
def test_what_works_but_should_not_stay_is_a_warning(facts: Facts, check: str, message: str) -> None:
    found = of(facts, check)
    assert [finding.level for finding in found] == ["warning"]
    assert message in found[0].message
    assert found[0].next_step
    assert problems(examine(facts)) == []


def test_whoever_asks_may_be_the_one_whose_clock_is_wrong() -> None:
    facts = replace(
        HEALTHY,
        members=(
            member("alpha"),
            *(replace(member(name), clock_offset_ms=-YEAR_MS) for name in ("beta", "gamma")),
        ),
    )
    assert [(found.subject, found.message) for found in of(facts, "clocks")] == [
        ("alpha", "the clock of alpha-c1 is 31536000.0 s ahead of those of the others")
    ]


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        pytest.param(seen("beta", clock_offset_ms=2_002), "ok", id="within-the-error-of-measurement"),
        pytest.param(seen("beta", clock_offset_ms=2_003), "problem", id="beyond-it"),
    ],
)
def test_a_clock_is_wrong_only_beyond_what_the_measurement_may_be_off(facts: Facts, level: str) -> None:
    assert [finding.level for finding in of(facts, "clocks")] == [level]


def test_a_witness_is_judged_by_what_the_leader_hears_of_it() -> None:
    facts = seen("gamma", health=None, is_witness=True, error="a witness answers no questions")
    assert problems(examine(facts)) == []


def led_by_a_witness(*away: str) -> Facts:
    """The federation as beta sees it while gamma, a witness, leads; what it sees nobody knows."""
    members = tuple(
        replace(one, health=None, is_witness=True, error="a witness answers no questions")
        if one.id == "gamma"
        else replace(one, health=None, error="connection refused")
        if one.id in away
        else replace(one, health=replace(one.health, role="follower", leader="gamma", peers=()))
        for one in HEALTHY.members
        if one.health is not None
    )
    return Facts(asked="beta", leader_id="gamma", voters=MEMBERS, members=members)


def test_a_witness_that_leads_is_a_leader_although_it_does_not_answer() -> None:
    assert problems(examine(led_by_a_witness())) == []
    found = problems(examine(led_by_a_witness("alpha")))
    assert [(one.check, one.subject) for one in found] == [("quorum", "alpha"), ("reach", "alpha")]
    assert "does not answer: the next failure" in found[0].message


@pytest.mark.parametrize("change", [lambda facts: replace(facts, members=()), lambda facts: facts])
def test_findings_come_with_the_worst_first(change: Callable[[Facts], Facts]) -> None:
    levels = [finding.level for finding in examine(change(silent("beta")))]
    assert levels == sorted(levels, key=["problem", "warning", "ok"].index)

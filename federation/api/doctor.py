"""`isthmus doctor`: what is wrong with a federation, and what to do about each.

Pure: facts in, findings out. The bounds below say when a fact becomes a problem.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import median_low
from typing import Literal

import msgspec

from federation.api.health import Facts, Health

Level = Literal["ok", "warning", "problem"]

# What a member applies within about a second.
LAG_ENTRIES_MAX = 5_000
# Tokens live by the middle clock of the members, certificates by everybody's.
CLOCK_SKEW_MS_MAX = 2_000
CLOCKS_MIN = 3  # Of fewer nobody knows which is right.
CLOCK_TOLD_ERROR_MS = 250  # What a member told the leader is as old as a frame's way.
# Renewal happens at half of the life, 12 h and 3.5 days: less than half of that left means that it fails.
LEAF_LEFT_MS_MIN = 6 * 3_600_000
INTERMEDIATE_LEFT_MS_MIN = 42 * 3_600_000
ROOT_LEFT_MS_MIN = 90 * 86_400_000
# A snapshot and a journal are each written anew beside the old one.
DISK_FREE_BYTES_MIN = 512 * 1024 * 1024
FOLLOWER_BEHIND_MS_MAX = 10_000
# How TLS says that no root that is known here signed what the peer showed; of an expired one it says otherwise.
_UNVOUCHED = ("unable to get local issuer certificate", "self signed certificate", "self-signed certificate")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check about one subject."""

    check: str
    level: Level
    subject: str
    message: str
    next_step: str = ""


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Return what was found: problems first, then warnings, then one `ok` for each check that found nothing."""
    found: list[Finding] = []
    for name, check in _CHECKS.items():
        findings = list(check(facts))
        found += findings or [nothing_found(name)]
    return worst_first(found)


def nothing_found(check: str) -> Finding:
    """Return the result of a check that found nothing."""
    return Finding(check=check, level="ok", subject="all", message="nothing found")


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings in the order in which they are shown."""
    order = {"problem": 0, "warning": 1, "ok": 2}
    return tuple(sorted(findings, key=lambda finding: order[finding.level]))


def problems(findings: Sequence[Finding]) -> list[Finding]:
    """Return those that need hands."""
    return [finding for finding in findings if finding.level == "problem"]


def _quorum(facts: Facts) -> Iterator[Finding]:
    needed = len(facts.voters) // 2 + 1
    heard = [member for member in facts.voters if facts.is_heard(member)]
    away = [member for member in facts.voters if member not in heard]
    if not facts.has_leader:
        unknown = [member.id for member in facts.members if member.is_witness and member.id in away]
        yield Finding(
            check="quorum",
            level="problem",
            subject=", ".join(facts.voters),
            message=f"no leader: {len(heard)} of {len(facts.voters)} members answer, {needed} are needed"
            + (f" (not asked: witness {', '.join(unknown)})" if unknown else ""),
            next_step=f"start the members that are away ({', '.join(away) or 'none'}) and open port 7443 between"
            " all of them; if most are lost for ever, see docs/how-to/recover-from-lost-quorum.md",
        )
        return
    for member in away:
        spare = len(heard) - needed
        yield Finding(
            check="quorum",
            level="problem",
            subject=member,
            message=f"member {member} does not answer{_whom(facts)}: "
            + (f"{spare} more may fail" if spare > 0 else "the next failure stops all writes"),
            next_step=f"start its controller; if its disk is lost: isthmus member remove {member},"
            " see docs/how-to/replace-a-member.md",
        )
    if len(facts.voters) % 2 == 0:
        yield Finding(
            check="quorum",
            level="warning",
            subject=", ".join(facts.voters),
            message=f"{len(facts.voters)} members survive no more failures than {len(facts.voters) - 1}",
            next_step="add a witness or a member: docs/how-to/grow-1-3-5.md",
        )
    elif len(facts.voters) == 1:
        yield Finding(
            check="quorum",
            level="warning",
            subject=facts.voters[0],
            message="one member: nothing survives the loss of its disk",
            next_step="grow to 3 (docs/how-to/grow-1-3-5.md), and keep backups: isthmus backup create",
        )


def _whom(facts: Facts) -> str:
    return f" the leader {facts.leader.cluster}" if facts.leader is not None else ""


def _log(facts: Facts) -> Iterator[Finding]:
    for health in _answers(facts):
        if health.raft_problem:
            yield Finding(
                check="log",
                level="problem",
                subject=health.cluster,
                message=f"controller {health.controller} takes no full part in the log: {health.raft_problem}",
                next_step="on a full disk make room: it comes back by itself; if it lost what it promised, it gets"
                " its vote back when it has caught up: watch isthmus member list",
            )


def _lag(facts: Facts) -> Iterator[Finding]:
    leader = facts.leader
    for peer in () if leader is None else leader.peers:
        assert leader is not None
        lag = leader.last_index - peer.match_index
        if facts.is_heard(peer.id) and lag > LAG_ENTRIES_MAX:
            yield Finding(
                check="lag",
                level="problem",
                subject=peer.id,
                message=f"member {peer.id} lacks {lag} entries of the log, expected at most {LAG_ENTRIES_MAX}",
                next_step="look at its disk and network: isthmus_raft_journal_sync_seconds of its metrics",
            )
    for health in _answers(facts):
        behind = health.commit_index - health.applied_index
        if behind > LAG_ENTRIES_MAX:
            yield Finding(
                check="lag",
                level="problem",
                subject=health.cluster,
                message=f"controller {health.controller} has not applied {behind} committed entries",
                next_step="look at its processor: it replays, or has no time to",
            )


def _clocks(facts: Facts) -> Iterator[Finding]:
    seen = {
        one.id: (one.controller, one.clock_offset_ms, one.clock_error_ms)
        for one in facts.members
        if one.health is not None
    } | _clocks_told(facts)
    # Of three or more the middle one is right rather than that of whoever asks.
    is_middle = len(seen) >= CLOCKS_MIN
    right_ms = median_low(offset_ms for _name, offset_ms, _error in seen.values()) if is_middle else 0
    for member_id, (controller, offset_ms, error_ms) in seen.items():
        off_ms = offset_ms - right_ms
        if abs(off_ms) - error_ms > CLOCK_SKEW_MS_MAX:
            yield Finding(
                check="clocks",
                level="problem",
                subject=member_id,
                message=f"the clock of {controller} is {abs(off_ms) / 1000:.1f} s"
                f" {'ahead of' if off_ms > 0 else 'behind'}"
                f" {'those of the others' if is_middle else f'that of {facts.asked}'}",
                next_step="make chrony or systemd-timesyncd run on all machines: certificates expire by each"
                " machine's clock, tokens by the middle one of the members",
            )


def _clocks_told(facts: Facts) -> dict[str, tuple[str, int, int]]:
    """Return the clocks of those that do not answer but told the leader, such as a witness."""
    leader = facts.leader
    if leader is None:
        return {}
    offset_ms, error_ms = next(
        (one.clock_offset_ms, one.clock_error_ms) for one in facts.members if one.health is leader
    )
    names = {one.id: one.controller for one in facts.members if one.health is None}
    return {
        member_id: (
            names[member_id],
            offset_ms + unix_ms - leader.unix_ms,
            error_ms + CLOCK_TOLD_ERROR_MS,
        )
        for member_id, unix_ms in leader.clocks
        if member_id in names
    }


def _certificates(facts: Facts) -> Iterator[Finding]:
    for health in _answers(facts):
        for what, expires_ms, least_ms, step in (
            ("certificate", health.leaf_expires_ms, LEAF_LEFT_MS_MIN, _RENEWAL),
            ("intermediate", health.intermediate_expires_ms, INTERMEDIATE_LEFT_MS_MIN, _RENEWAL),
            (
                "root",
                health.root_expires_ms,
                ROOT_LEFT_MS_MIN,
                "plan a new trust domain: roots do not rotate yet",
            ),
        ):
            left_ms = expires_ms - health.unix_ms
            if left_ms < least_ms:
                state = f"expires in {left_ms / 3_600_000:.1f} h" if left_ms > 0 else "has expired"
                yield Finding(
                    check="certificates",
                    level="problem",
                    subject=health.cluster,
                    message=f"the {what} of {health.controller} {state}",
                    next_step=step,
                )


_RENEWAL = "renewal fails: look for renewal_failed in its log; a full disk or a missing passphrase stop it"


def _disks(facts: Facts) -> Iterator[Finding]:
    for health in _answers(facts):
        if health.disk_free_bytes < DISK_FREE_BYTES_MIN:
            yield Finding(
                check="disks",
                level="problem",
                subject=health.cluster,
                message=f"{health.disk_free_bytes >> 20} MiB of {health.disk_total_bytes >> 20} MiB are free under"
                f" the data directory of {health.controller}, expected at least {DISK_FREE_BYTES_MIN >> 20} MiB",
                next_step="make room: a member without room acknowledges nothing",
            )


def _agents(facts: Facts) -> Iterator[Finding]:
    for health in _answers(facts):
        for agents in health.agents:
            if agents.silent:
                named = ", ".join(agents.silent_names)
                more = agents.silent - len(agents.silent_names)
                yield Finding(
                    check="agents",
                    level="problem",
                    subject=agents.cluster,
                    message=f"{agents.silent} of {agents.silent + agents.live} enrolled agents of {agents.cluster}"
                    f" are silent at {health.controller}: {named}{f' and {more} more' if more else ''}",
                    next_step="start them, or delete the records of those that are gone:"
                    f" isthmus delete agent ROLE.NAME --cluster {agents.cluster}",
                )


def _withheld(facts: Facts) -> Iterator[Finding]:
    for health in _answers(facts):
        for agents in health.agents:
            for agent, count in agents.withheld:
                yield Finding(
                    check="withheld",
                    level="warning",
                    subject=f"{agents.cluster}/{agent}",
                    message=f"agent {agent} of {agents.cluster} came back without {count} endpoints, most of what it"
                    f" had: {health.controller} keeps them until it has listed them missing twice",
                    next_step="look whether its list is whole; if they are gone:"
                    f" isthmus withheld confirm {agent} --cluster {agents.cluster}",
                )


def _quotas(facts: Facts) -> Iterator[Finding]:
    for health in _answers(facts):
        for agents in health.agents:
            if agents.limited:
                yield Finding(
                    check="quotas",
                    level="problem",
                    subject=agents.cluster,
                    message=f"{health.controller} cannot publish new endpoints of {agents.cluster}: {agents.limited}",
                    next_step=f"remove what is not needed, or raise the limit: isthmus get quota {agents.cluster}",
                )


def _followers(facts: Facts) -> Iterator[Finding]:
    for health in _answers(facts):
        for follower in health.slow_followers:
            if follower.behind_ms > FOLLOWER_BEHIND_MS_MAX:
                yield Finding(
                    check="followers",
                    level="problem",
                    subject=f"{follower.cluster}/{follower.name}",
                    message=f"{follower.name} of {follower.cluster} has been behind {health.controller} for"
                    f" {follower.behind_ms / 1000:.0f} s",
                    next_step="look at its network and processor; restart it",
                )
        for agents in health.agents:
            for name in agents.dns_absent:
                yield Finding(
                    check="followers",
                    level="warning",
                    subject=f"{agents.cluster}/{name}",
                    message=f"DNS process {name} of {agents.cluster} does not follow {health.controller}:"
                    " it answers from its copy, which grows old",
                    next_step="start it, or delete its record:"
                    f" isthmus delete agent dns.{name} --cluster {agents.cluster}",
                )


def _versions(facts: Facts) -> Iterator[Finding]:
    answers = list(_answers(facts))
    for what, values in (
        ("protocol", {str(health.protocol) for health in answers}),
        ("version", {health.version for health in answers}),
    ):
        if len(values) > 1:
            spread = ", ".join(f"{one.controller} {one.protocol}/{one.version}" for one in answers)
            yield Finding(
                check="versions",
                level="warning",
                subject="all",
                message=f"controllers differ in {what} (protocol/version): {spread}",
                next_step="finish the upgrade: new features wait for the oldest controller",
            )


def _incarnations(facts: Facts) -> Iterator[Finding]:
    answers = list(_answers(facts))
    newest = max((health.incarnation for health in answers), default=0)
    for health in answers:
        if health.incarnation < newest:
            yield Finding(
                check="incarnations",
                level="problem",
                subject=health.cluster,
                message=f"controller {health.controller} is of incarnation {health.incarnation} of the federation,"
                f" which was restored or recovered since: it is {newest} now",
                next_step="stop it and let it join again: isthmus cluster join --again,"
                " see docs/how-to/recover-from-lost-quorum.md",
            )


def _reach(facts: Facts) -> Iterator[Finding]:
    for member in facts.members:
        if member.health is None and not member.is_witness and member.standing != "removed":
            # A member that the leader hears runs: then only its control port is out of reach.
            heard = facts.is_heard(member.id)
            if any(text in member.error for text in _UNVOUCHED):
                yield Finding(
                    check="reach",
                    level="problem",
                    subject=member.id,
                    message=f"somebody answers {facts.asked} for controller {member.controller} with a certificate"
                    f" that nobody vouches for: {member.error}",
                    next_step="see what runs at its address: it is another federation's, or an impostor;"
                    " nothing believes it",
                )
                continue
            yield Finding(
                check="reach",
                level="warning" if heard else "problem",
                subject=member.id,
                message=f"controller {member.controller} does not answer {facts.asked}: {member.error}",
                next_step="open its control port 7444 between clusters"
                if heard
                else "start it, or open its control port 7444 between clusters",
            )


def _answers(facts: Facts) -> Iterator[Health]:
    return (member.health for member in facts.members if member.health is not None)


_CHECKS: dict[str, Callable[[Facts], Iterator[Finding]]] = {
    "quorum": _quorum,
    "reach": _reach,
    "log": _log,
    "lag": _lag,
    "clocks": _clocks,
    "certificates": _certificates,
    "disks": _disks,
    "agents": _agents,
    "withheld": _withheld,
    "quotas": _quotas,
    "followers": _followers,
    "versions": _versions,
    "incarnations": _incarnations,
}

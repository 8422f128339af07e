"""When a drain makes callers fail: what one cluster may say of it, and that the drain is then given up.

The controllers of each cluster add up what its proxies counted (`discovery.core.error_window`), and write a `DrainReport`
when more fails than the drain allows. That is proportional to change: a drain under which nothing fails writes nothing.
The state machine judges the figures again, by the drain's own limit and by federation time, and gives the whole share
back in the same entry of the log.

One cluster's word is enough: callers of one cluster that fail are reason to stop. A cluster that lies can keep
others from being drained, is named in the reason, and is overruled by a drain by force.
"""

from collections.abc import Iterable

import msgspec

from discovery.core.commands import Operation, Put
from discovery.core.draft import Draft
from discovery.core.drains import roll_back
from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, ResourceKey
from discovery.core.specs import DrainReportSpec, DrainSpec, ServiceTraffic

MILLION = 1_000_000
# Fewer requests are taken for so many, of which the others were good, and fewer errors for none: one failure in a quiet
# second is not a hundred per cent, but a quiet service of which most calls fail fails.
REQUESTS_TAKEN_MIN = 50
ERRORS_MIN = 3
FAILING_NAMED_MAX = 3
# After the last step callers are looked at for so long at least, however close the steps were: requests are added up over
# `error_window.WINDOW_MS`, and what is counted takes some seconds to be told.
WATCHED_AFTER_MS_MIN = 10_000


def is_watched(drain: DrainSpec, *, now_ms: int) -> bool:
    """True while errors can end the drain: from its beginning until some time after its last step."""
    return watched_left_ms(drain, now_ms=now_ms) > 0


def watched_left_ms(drain: DrainSpec, *, now_ms: int) -> int:
    """For how long errors can still end the drain, by the steps taken so far; 0: no longer, or they never could."""
    if drain.forced or drain.rolled_back:
        return 0
    after_ms = watched_after_ms(drain)
    return after_ms if drain.share_percent else max(0, drain.stepped_ms + after_ms - now_ms + 1)


def watched_after_ms(drain: DrainSpec) -> int:
    """How long errors can end a drain after its last step: as long as after each other, or WATCHED_AFTER_MS_MIN."""
    return 0 if drain.forced else max(drain.every_ms, WATCHED_AFTER_MS_MIN)


def fails_too_often(one: ServiceTraffic, errors_per_million_max: int) -> bool:
    """True when more requests fail than did before, and by more than the limit; in whole numbers, the same everywhere."""
    if one.errors < ERRORS_MIN:
        return False
    allowed = per_million(one.errors_before, one.requests_before) + errors_per_million_max
    return one.errors * MILLION > allowed * max(one.requests, REQUESTS_TAKEN_MIN)


def per_million(errors: int, requests: int) -> int:
    """Of a million requests, how many fail; 0 where there are none."""
    return errors * MILLION // requests if requests else 0


def settle_drains(draft: Draft, operations: Iterable[Operation]) -> None:
    """Give up the drains of which one of these accepted operations says that too much fails."""
    for operation in operations:
        if isinstance(operation, Put) and operation.key.kind == "DrainReport":
            _settle(draft, operation.key)


def _settle(draft: Draft, key: ResourceKey) -> None:
    report_row = draft.resource(key)
    row = draft.resource(ResourceKey(FEDERATION_SCOPE, "Drain", "", key.name))
    if row is None or report_row is None:
        return
    drain = decode_spec("Drain", row.spec, where=str(row.key))
    report = decode_spec("DrainReport", report_row.spec, where=str(key))
    assert isinstance(drain, DrainSpec)
    assert isinstance(report, DrainReportSpec)
    if report.started_ms != drain.started_ms or not is_watched(drain, now_ms=draft.now_ms):
        return
    failing = [one for one in report.failing if fails_too_often(one, drain.errors_per_million_max)]
    if not failing:
        return
    given_up = roll_back(drain, _reason(key.scope, failing), now_ms=draft.now_ms)
    draft.put(
        msgspec.structs.replace(
            row,
            spec=msgspec.json.encode(given_up),
            revision=draft.index,
            generation=row.generation + 1,
        )
    )


def _reason(cluster: str, failing: list[ServiceTraffic]) -> str:
    named = ", ".join(describe(one) for one in failing[:FAILING_NAMED_MAX])
    more = len(failing) - FAILING_NAMED_MAX
    return f"for callers in cluster {cluster} too many requests fail: {named}" + (
        f" and {more} more" if more > 0 else ""
    )


def describe(one: ServiceTraffic) -> str:
    """Say it for people: the share that fails, of how many, and how that was before."""
    now, before = (
        _percent(per_million(errors, requests))
        for errors, requests in ((one.errors, one.requests), (one.errors_before, one.requests_before))
    )
    return f"{one.service or 'all services'} {now} of {one.requests} (before: {before})"


def _percent(of_a_million: int) -> str:
    return f"{of_a_million // 10_000}.{of_a_million % 10_000 // 100:02d}%"

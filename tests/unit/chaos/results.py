"""A result to change."""

from chaos.load.records import Result

RESULT = Result(
    name="cluster-dies",
    planned=100,
    requests=100,
    failed=0,
    retried=3,
    p50_ms=1.0,
    p99_ms=1.0,
    max_ms=1.0,
    longest_gap_ms=1.0,
    gaps={"beta/orders": 1.0},
    shift_ms=1.0,
    recovered_ms=1.0,
    chain_requests=10,
    chain_failed=0,
    chain_p50_ms=1.0,
    chain_p99_ms=1.0,
    sent_late_ms=1.0,
    outlasted_ms=1.0,
    valid=True,
)

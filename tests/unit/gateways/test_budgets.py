"""What the numbers of upstream clusters promise together: sums that a change of one of them could break."""

from gateways.core import clusters, routes

ROUND_TRIP_MS = 250  # As far as clusters may be from each other.
DEADLINE_MS = 2_000  # Of a caller who shall not notice that a cluster fell silent.
CHECK_JITTER = 0.10  # Of the intervals of our checks of health.

SILENCE_MS = clusters.FAR_KEEPALIVE_INTERVAL_MS + clusters.KEEPALIVE_TIMEOUT_MS
# The first retry waits for a random time below twice the base interval, less one.
FIRST_BACKOFF_MS = 2 * routes.RETRY_BACKOFF_MS
# TCP's and TLS's handshakes, then the request itself.
FIRST_ANSWER_OF_A_FAR_CLUSTER_MS = 3 * ROUND_TRIP_MS


def test_traffic_leaves_a_silent_connection_within_a_second():
    assert clusters.KEEPALIVE_INTERVAL_MS <= clusters.FAR_KEEPALIVE_INTERVAL_MS
    assert SILENCE_MS < 1_000


def test_a_far_connection_may_answer_for_the_first_time_before_it_counts_as_silent():
    assert SILENCE_MS > 1.25 * FIRST_ANSWER_OF_A_FAR_CLUSTER_MS


def test_a_ping_may_take_twice_the_longest_round_trip():
    assert clusters.KEEPALIVE_TIMEOUT_MS >= 2 * ROUND_TRIP_MS


def test_a_far_cluster_has_time_for_both_handshakes_and_half_as_much_again():
    assert clusters.FAR_CONNECT_TIMEOUT_MS >= 1.5 * 2 * ROUND_TRIP_MS


def test_a_request_on_a_silent_connection_is_answered_from_afar_before_its_deadline():
    assert SILENCE_MS + FIRST_BACKOFF_MS + FIRST_ANSWER_OF_A_FAR_CLUSTER_MS < DEADLINE_MS


def test_a_request_that_opens_a_connection_into_silence_is_too():
    assert clusters.FAR_CONNECT_TIMEOUT_MS + FIRST_BACKOFF_MS + FIRST_ANSWER_OF_A_FAR_CLUSTER_MS < DEADLINE_MS


def test_a_check_of_health_has_time_for_three_round_trips_and_as_much_again():
    assert clusters.HEALTH_TIMEOUT_MS >= 2 * 3 * ROUND_TRIP_MS


def test_a_dead_gateway_rests_until_its_checks_of_health_have_failed():
    check_ms = clusters.HEALTH_INTERVAL_MS * (1 + CHECK_JITTER) + clusters.HEALTH_TIMEOUT_MS
    assert clusters.HEALTH_FAILURES_TO_REJECT * check_ms < clusters.GATEWAY_EJECTION_MS

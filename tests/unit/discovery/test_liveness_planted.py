"""The rules of liveness broken on purpose, one at a time: the tests that hold them must turn red."""

from collections.abc import Callable

import pytest

from tests.unit.discovery import test_liveness, test_loss_policies, test_verdicts

CORE = "discovery.core"


@pytest.mark.parametrize(
    ("place", "mistake", "test"),
    [
        pytest.param(
            "liveness._is_quorum",
            lambda lost_by, _voters: bool(lost_by),
            test_verdicts.test_one_partition_of_one_observer_kills_nobody_however_long_it_lasts,
            id="one-observer-suffices",
        ),
        pytest.param(
            "liveness._is_quorum",
            lambda _lost_by, _voters: False,
            test_liveness.test_what_a_silent_cluster_observed_is_old_news,
            id="nobody-is-silent",
        ),
        pytest.param(
            "liveness.is_suspended",
            lambda _lost, _others: False,
            test_liveness.test_an_observer_that_misses_nearly_everybody_does_not_count,
            id="no-self-preservation",
        ),
        pytest.param(
            "verdicts.hold_ms",
            lambda _deaths, _now_ms: 0,
            test_verdicts.test_a_second_death_is_held_back_by_federation_time_and_told_by_a_tick,
            id="no-damping",
        ),
        pytest.param(
            "catalog.next_due",
            lambda _tables: None,
            test_verdicts.test_a_second_death_is_held_back_by_federation_time_and_told_by_a_tick,
            id="a-hold-without-end",
        ),
        pytest.param(
            "ownership._check_observer",
            lambda _draft, _proposer, _key: None,
            lambda: test_verdicts.test_an_observer_speaks_for_itself_about_others_and_nobody_writes_a_verdict(
                "alpha", test_verdicts.observe("alpha", "alpha"), 7, "a cluster does not observe itself"
            ),
            id="it-observes-itself",
        ),
        pytest.param(
            "policies.on_loss",
            lambda _service, _policies: "withdraw",
            lambda: test_loss_policies.test_the_owner_says_what_its_death_means_for_a_service(
                [test_loss_policies.verdict()], ["alpha", "beta", "gamma"]
            ),
            id="withdrawn-unasked",
        ),
    ],
)
def test_a_planted_mistake_is_noticed(
    monkeypatch: pytest.MonkeyPatch, place: str, mistake: object, test: Callable[[], None]
) -> None:
    test()
    monkeypatch.setattr(f"{CORE}.{place}", mistake)
    with pytest.raises(AssertionError):
        test()

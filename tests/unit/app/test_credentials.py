"""A controller makes its keys anew in time, also when its machine's clock was wrong meanwhile."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certs.core.spiffe import system_id
from certs.runtime.authority import Authority, RootAuthority
from certs.runtime.identity import LeafIdentity
from federation.app.credentials import Credentials

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
Open = Callable[[datetime], Credentials]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open the same keys at any time of day."""
    root = RootAuthority.create("alpha.example", clock=lambda: NOW)

    def opened_at(now: datetime) -> Credentials:
        root._clock = lambda: now
        credentials = Credentials(
            root,
            Authority.open(tmp_path / "authority", clock=lambda: now),
            LeafIdentity.load(tmp_path / "identity"),
            system_id("alpha.example", "alpha", "controller", "c1"),
            clock=lambda: now,
        )
        credentials.renew()
        credentials.close()
        return credentials

    return opened_at


def holds(credentials: Credentials, now: datetime) -> bool:
    chains = (credentials.authority.intermediate.current, credentials.leaf.current)
    return all(one.not_before <= now < one.not_after for one in chains)


@pytest.mark.parametrize(
    ("later", "renewed"),
    [
        pytest.param(timedelta(hours=11), (False, False), id="neither"),
        pytest.param(timedelta(hours=12), (False, True), id="leaf"),
        pytest.param(timedelta(days=4), (True, True), id="both"),
    ],
)
def test_keys_are_made_anew_at_half_their_life(
    opened: Open, later: timedelta, renewed: tuple[bool, bool]
) -> None:
    before, after = opened(NOW), opened(NOW + later)

    pairs = ((before.authority.intermediate, after.authority.intermediate), (before.leaf, after.leaf))
    assert tuple(one.chain_der[0] != other.chain_der[0] for one, other in pairs) == renewed


def test_what_a_clock_made_that_was_ahead_is_made_anew_when_it_is_right(opened: Open) -> None:
    opened(NOW)
    assert not holds(opened(NOW + YEAR), NOW)

    assert holds(opened(NOW + timedelta(minutes=10)), NOW + timedelta(minutes=10))


def test_a_clock_from_before_the_root_is_named_and_spoils_nothing(opened: Open) -> None:
    opened(NOW)
    with capture_logs() as logs:
        behind = opened(NOW - YEAR)

    assert holds(behind, NOW)
    assert [(line["event"], line["log_level"], line["now"]) for line in logs] == [
        ("clock_is_behind", "error", (NOW - YEAR).isoformat())
    ]

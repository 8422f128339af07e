"""The wall clock, read in one place; everything that judges time takes it as a parameter."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present time with its zone."""
    return datetime.now(UTC)

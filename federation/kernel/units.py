"""Quantities as people write them in configuration files, as integers in code."""

import re

from federation.kernel.errors import InvalidInputError

_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """Return the milliseconds of a duration such as `1500ms`, `10s`, `5m`, `24h` or `7d`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidInputError(
            f"{text!r} is not a duration: expected a whole number and a unit, such as 500ms, 10s, 5m, 24h or 7d"
        )
    return int(match[1]) * _MS[match[2]]

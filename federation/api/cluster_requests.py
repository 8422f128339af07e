"""What an operator asks about a cluster: shared by the commands, which need nothing of a controller, and the handlers."""

import msgspec

from discovery.core.specs import DRAIN_ERRORS_PER_MILLION_MAX

PER_PERCENT = 10_000  # Of a million.


class DrainRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """POST /v1/clusters/NAME/drain."""

    step_percent: int = 25
    every_ms: int = 10_000
    force: bool = False
    min_capacity: int = 0  # Of each service's ready weight so many per cent must be elsewhere.
    max_error_rate: float = (
        DRAIN_ERRORS_PER_MILLION_MAX / PER_PERCENT
    )  # In per cent, beyond what failed before.


class RemoveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/clusters/NAME/remove."""

    force: bool = False


class RehomeRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """POST /v1/clusters/NAME/rehome. The token's secret stays where it is: its hash says which one it is."""

    to: str
    secret_sha256: str = ""  # Not needed for a forecast.
    within_ms: int = 600_000
    force: bool = False

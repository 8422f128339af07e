"""What `--report` writes, and what makes a run a failure."""

import msgspec

from chaos.load.dns_watch import Check
from chaos.load.records import Result


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--report` writes."""

    scenarios: tuple[Result, ...]
    checks: tuple[Check, ...]
    versions: dict[str, str]

    @property
    def problems(self) -> list[str]:
        """Why the run is not a success; empty if it is."""
        found = [
            f"{one.name}: {one.failed} of {one.requests} requests failed"
            f" ({one.chain_failed} of {one.chain_requests} through the whole shop), a client itself was held up for at most {one.sent_late_ms:g} ms"
            for one in self.scenarios
            if one.failed
        ]
        found += [
            f"{one.name}: invalid, {one.requests} of {one.planned} planned requests were sent,"
            f" the last {one.outlasted_ms:g} ms after the last event"
            for one in self.scenarios
            if not one.valid
        ]
        return found + [f"{one.name}: {one.detail}" for one in self.checks if not one.passed]

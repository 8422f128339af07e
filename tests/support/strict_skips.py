"""pytest plugin: in CI (`CI=true`) a test that skips itself fails.

A skip hides that a machine could not run a test; in CI every test can run. The exceptions are listed here
by node id, each with its reason; elsewhere a skip stays a skip.
"""

import os
from collections.abc import Generator

import pytest

SKIPS_ALLOWED: frozenset[str] = frozenset()


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"true", "1"}


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _forbid(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as skipped too; it ran.
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    if _is_ci() and report.nodeid not in SKIPS_ALLOWED:
        report.longrepr = f"{report.nodeid} was skipped in CI, where every test must run: {_reason(report)}"
        report.outcome = "failed"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of one test into its failure."""
    report = yield
    _forbid(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a collection error."""
    report = yield
    _forbid(report)
    return report

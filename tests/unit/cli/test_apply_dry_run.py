"""`isthmus apply --dry-run` says what the write would do to an object, by what the controller has of it."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from federation.cli.resource_commands import apply
from federation.kernel.errors import NotFoundError

POLICY = """\
apiVersion: federation.isthmus.dev/v1alpha1
kind: ExportPolicy
metadata: {name: all, namespace: shop, labels: {team: a}}
spec: %s
"""
SPEC = {"services": ["orders"], "consumers": ["beta"]}


class Controller:
    """A controller that has one object, or none, and takes no write."""

    def __init__(self, spec: dict[str, Any] | None) -> None:
        self.context = SimpleNamespace(file=SimpleNamespace(cluster="alpha"))
        self._spec = spec

    def get(self, path: str) -> dict[str, Any]:
        if self._spec is None:
            raise NotFoundError(f"{path} does not exist")
        return {"metadata": {"resourceVersion": "7", "labels": {"team": "a"}}, "spec": self._spec}


@pytest.mark.parametrize(
    ("before", "wanted", "said"),
    [
        pytest.param(None, "{services: [orders]}", "created", id="new"),
        pytest.param(SPEC, "{services: [orders], consumers: [beta]}", "unchanged", id="the-same"),
        pytest.param(SPEC, '{"services": ["orders"], "consumers": ["beta"]}', "unchanged", id="the-same-in-json"),
        pytest.param(SPEC, "{services: [orders], consumers: [gamma]}", "configured", id="another-value"),
        # The catalog keeps a spec as it was written: this is a write, and a new generation.
        pytest.param(SPEC, "{consumers: [beta], services: [orders]}", "configured", id="another-order"),
    ],
)  # fmt: skip
def test_a_dry_run_says_what_the_write_would_do(
    before: dict[str, Any] | None, wanted: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.cli.resource_commands.Session", lambda _directory: Controller(before))
    outcome = CliRunner().invoke(apply, ["-f", "-", "--dry-run"], input=POLICY % wanted)
    assert outcome.output == f"exportpolicy/all {said} (dry run)\n"

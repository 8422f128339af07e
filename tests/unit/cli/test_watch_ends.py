"""Why `isthmus get --watch` ended, as the controller said."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from federation.cli.resource_commands import _watch
from federation.kernel.errors import BadIdentityError, CompactedError, IsthmusError, NotAllowedError


@pytest.mark.parametrize(
    ("status", "expected"),
    [(410, CompactedError), (401, BadIdentityError), (403, NotAllowedError)],
)
def test_a_watch_ends_with_the_error_that_the_controller_says(
    status: int, expected: type[IsthmusError]
) -> None:
    line = json.dumps({"type": "ERROR", "object": {"code": status, "message": "so it is"}}).encode()
    session: Any = SimpleNamespace(api=SimpleNamespace(stream=lambda _path: iter([line])))
    with pytest.raises(expected, match="so it is"):
        _watch(session, "/path", "1", None, "table")

"""`isthmus cluster list` and `status` show the state of now or, where nobody knows it, say that it may be old."""

from typing import Any

import pytest

from federation.cli.federation_commands import _newest_clusters
from federation.cli.session import Session
from federation.kernel.errors import OutcomeUnknownError, UnavailableError

CLUSTERS = [{"name": "alpha"}]


class Controller:
    """A session with a controller that may have a leader, or not."""

    def __init__(self, *, has_leader: bool) -> None:
        self.has_leader = has_leader

    def get(self, path: str) -> dict[str, Any]:
        if path == "/v1/status?newest=true" and not self.has_leader:
            raise UnavailableError("no leader")
        return {"revision": 7, "clusters": CLUSTERS}


@pytest.mark.parametrize(
    ("has_leader", "said"), [(True, ""), (False, "as of revision 7, it may be old: no leader\n")]
)
def test_what_may_be_old_is_shown_as_such(
    has_leader: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session: Any = Controller(has_leader=has_leader)
    assert _newest_clusters(session) == CLUSTERS
    assert capsys.readouterr().err == said


def test_a_read_that_is_lost_is_unavailable_since_it_changes_nothing() -> None:
    class Lost:
        def call(self, _method: str, _path: str) -> bytes:
            raise OutcomeUnknownError("GET /v1/status: the controller went away")

    session = Session.__new__(Session)
    session.api = Lost()  # type: ignore[assignment] # what a session needs of a client
    with pytest.raises(UnavailableError, match="went away"):
        session.get("/v1/status")

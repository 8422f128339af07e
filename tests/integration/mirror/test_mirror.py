"""A mirror beside the member of its cluster: it serves, forwards, and goes on alone."""

from tests.integration.controller.installation import BASE, export_policy
from tests.integration.mirror.cluster import Federation

POLICIES = f"{BASE}/namespaces/shop/exportpolicies"
ANY_STATE = "?resourceVersion=0"


def test_a_write_at_a_mirror_is_the_federations_and_read_back_at_once(federation: Federation) -> None:
    mirror, _ = federation.mirror()
    made = mirror.operator().ok("POST", POLICIES, export_policy("by-mirror"))
    assert federation.operator().ok("GET", f"{POLICIES}/by-mirror") == made
    assert mirror.operator().ok("GET", f"{POLICIES}/by-mirror") == made
    assert mirror.operator().call("POST", POLICIES, export_policy("by-mirror"))[0] == 409

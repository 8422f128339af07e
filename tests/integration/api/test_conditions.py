"""What a running controller tells the owners of policies, in the API and on the terminal."""

import subprocess
from typing import Any

from tests.integration.controller.installation import API_VERSION, BASE, ISTHMUS, Caller, Controller
from tests.support.wait import eventually

WAIT_S = 60.0
GRANT = f"{BASE}/namespaces/told/grants/told"


def grant(*trust_domains: str) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Grant",
        "metadata": {"name": "told", "namespace": "told"},
        "spec": {"services": ["*"], "sources": [{"trustDomains": list(trust_domains)}]},
    }


def test_a_grant_to_nobody_is_told_and_heals(controller: Controller, operator: Caller) -> None:
    def is_resolved(status: str) -> dict[str, Any] | None:
        conditions = operator.ok("GET", GRANT)["status"].get("conditions", [])
        found = [one for one in conditions if (one["type"], one["status"]) == ("ResolvedRefs", status)]
        return found[0] if found else None

    operator.ok("PUT", GRANT, grant("nowhere.example"))
    told = eventually(lambda: is_resolved("False"), timeout_s=WAIT_S, message="the grant names nobody")
    assert told["reason"] == "UnknownTrustDomain"
    assert "nowhere.example" in told["message"]
    context = str(controller.installation.context)
    for arguments in (["-n", "told"], ["told", "-n", "told"]):
        shown = subprocess.run(
            [*ISTHMUS, "get", "grants", *arguments, "--context", context],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        assert "ResolvedRefs=False" in shown
    assert "no trust domain of the federation is called nowhere.example" in shown
    operator.ok("PUT", GRANT, grant("alpha.example"))
    eventually(lambda: is_resolved("True"), timeout_s=WAIT_S, message="the grant names somebody")
    operator.ok("DELETE", GRANT)

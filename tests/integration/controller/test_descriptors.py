"""A controller without file descriptors: it serves whom it has, closes or leaves waiting who comes, and recovers."""

import http.client
import socket

import msgspec

from tests.integration.controller.installation import API_PORT, BASE, ISTHMUS, Installation, export_policy
from tests.support.processes import ProcessSet
from tests.support.wait import eventually

DESCRIPTORS = 96  # It needs some 25 by itself.
FLOOD = 150
LOG_LINES_MAX = 1_000
POLICIES = f"{BASE}/namespaces/shop/exportpolicies"
WAIT_S = 60.0


def write(connection: http.client.HTTPSConnection, name: str) -> int:
    connection.request("POST", POLICIES, body=msgspec.json.encode(export_policy(name)))
    response = connection.getresponse()
    response.read()
    return response.status


def test_a_flood_of_connections_ends_nothing_and_is_over_when_they_go(
    founded: Installation, processes: ProcessSet
) -> None:
    command = ["bash", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "controller"]
    process = processes.start(
        "controller", [*command, *ISTHMUS, "controller", "run", "--config", founded.config_path]
    )
    founded.wait_ready(process)
    known = founded.operator().connect()
    assert write(known, "before") == 201

    flood = [socket.create_connection((founded.host, API_PORT), timeout=WAIT_S) for _ in range(FLOOD)]
    eventually(
        lambda: "out of file descriptors" in process.log_path.read_text(),
        timeout_s=WAIT_S,
        message="the controller says that it has none left",
    )
    assert write(known, "during") == 201
    for one in flood:
        one.close()

    def written() -> bool:
        try:
            return founded.operator().call("POST", POLICIES, export_policy("after"))[0] in (201, 409)
        except OSError:  # Some of the flood are not closed there yet.
            return False

    eventually(written, timeout_s=WAIT_S, message=lambda: f"newcomers are served again\n{process.log()}")
    process.check_running()
    names = {one["metadata"]["name"] for one in founded.operator().ok("GET", POLICIES)["items"]}
    assert names == {"before", "during", "after"}
    assert len(process.log_path.read_text().splitlines()) < LOG_LINES_MAX
    known.close()

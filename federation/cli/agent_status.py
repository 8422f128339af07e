"""`isthmus agent status`: what an agent or gateway says of itself, asked at its metrics port on the same host."""

import http.client
from typing import Any

import click
import msgspec

from federation.cli.output import print_json, print_table, say
from federation.cli.session import output_option
from federation.kernel.codec import MALFORMED
from federation.kernel.configfile import host_port
from federation.kernel.errors import InvalidInputError, UnavailableError

ANSWER_BYTES_MAX = 8 * 1024 * 1024
TIMEOUT_S = 5.0


@click.command("status")
@click.argument("address", metavar="HOST:PORT")
@output_option
def agent_status(address: str, output: str) -> None:
    """Show what the agent or gateway whose metrics port is HOST:PORT declares, and how safe that is."""
    status = _ask(address)
    if output == "json":
        print_json(status)
        return
    missing = status["missing"]
    say(
        f"{status['purpose']} {status['id']} of cluster {status['cluster']}: "
        + (f"not ready: {'; '.join(missing)}" if missing else "ready")
    )
    print_table(
        ("controller", "connected", "global revision", "error"),
        [
            (one["name"], "yes" if one["connected"] else "no", one["revision"] or "-", one["error"])
            for one in status["controllers"]
        ],
    )
    say("")
    print_table(
        ("endpoint", "address", "ready", "level", "refused, or why not ready"),
        [
            (
                one["endpoint"],
                one["address"],
                "yes" if one["ready"] else "no",
                one["level"],
                "; ".join(one["refusals"]) or one["why"],
            )
            for one in status["endpoints"]
        ],
    )


def _ask(address: str) -> dict[str, Any]:
    try:
        host, port = host_port(address, "address")
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX + 1)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnavailableError(f"no agent answers at {address}: {reason}") from error
    finally:
        connection.close()
    try:
        answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        if response.status == http.client.OK and {"endpoints", "controllers", "missing"} <= answer.keys():
            return answer
    except MALFORMED:
        pass
    raise InvalidInputError(f"what listens at {address} is no agent or gateway: expected its metrics port")

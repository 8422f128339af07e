"""`isthmus agent status` against the port that agents really serve."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner, Result

from federation.agent.metrics import StatusEndpoint
from federation.agent.status import AgentStatus, ControllerStatus, EndpointStatus, ProxyStatus
from federation.cli.main import cli
from federation.kernel.errors import InvalidInputError, UnavailableError
from tests.support.loopback import claim_block
from tests.support.wait import eventually_async

PORT = 9101
STATUS = AgentStatus(
    purpose="agent",
    id="a1",
    cluster="alpha",
    identity="spiffe://alpha.example/isthmus/alpha/agent/a1",
    incarnation=1,
    leaving=False,
    missing=(),
    controllers=(ControllerStatus(name="alpha-c1", connected=True, revision=7),),
    endpoints=(
        EndpointStatus(endpoint="shop/orders/o1", address="10.0.0.1:15006", ready=True, level="global"),
        EndpointStatus(endpoint="shop/orders/o2", address="10.0.0.1:15007", ready=True, level="local"),
        EndpointStatus(
            endpoint="shop/orders/o3",
            address="10.0.0.1:15008",
            ready=True,
            level="declared",
            refusals=("alpha-c1: at most 2 are allowed",),
        ),
    ),
    leaves=(),
    proxy=ProxyStatus(state="ready", ready=True),
)


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(StatusEndpoint(address, lambda: STATUS).run())
        host, _, port = address.rpartition(":")

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return False
            writer.close()
            return True

        await eventually_async(listens, timeout_s=60)
        yield
        running.cancel()


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["agent", "status", *arguments])


async def test_each_endpoint_is_shown_with_how_safe_it_is_and_why_it_was_refused() -> None:
    with claim_block() as block:
        address = f"{block.host(1)}:{PORT}"
        async with serving(address):
            shown = await asyncio.to_thread(ask, address)
            told = await asyncio.to_thread(ask, address, "-o", "json")
    rows = [line.split() for line in shown.stdout.splitlines() if line.startswith("shop/")]
    assert [row[:4] for row in rows] == [
        ["shop/orders/o1", "10.0.0.1:15006", "yes", "global"],
        ["shop/orders/o2", "10.0.0.1:15007", "yes", "local"],
        ["shop/orders/o3", "10.0.0.1:15008", "yes", "declared"],
    ]
    assert " ".join(rows[2][4:]) == "alpha-c1: at most 2 are allowed"
    assert [one["level"] for one in json.loads(told.stdout)["endpoints"]] == ["global", "local", "declared"]


def test_where_nobody_listens_the_address_is_named() -> None:
    with claim_block() as block:
        error = ask(f"{block.host(1)}:{PORT}").exception
    assert isinstance(error, UnavailableError)
    assert "no agent answers at" in error.message


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    assert isinstance(ask(address).exception, InvalidInputError)

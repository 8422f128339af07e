"""A mirror's proposals at a member: stamped with the mirror's cluster, and answered whatever became of them."""

import pytest

from certs.core.spiffe import SpiffeId, parse
from discovery.core.commands import Command, Outcome, Tick, Write, decode_outcome, encode_command
from discovery.core.tables import Tables
from federation.api.audit import AuditTrail
from federation.api.forwarding import (
    ForwardReply,
    ForwardRequest,
    ForwardService,
    decode_forward_reply,
    encode_forward,
)
from federation.kernel.errors import Code, OutcomeUnknownError, UnavailableError
from federation.kernel.limits import COMMAND_BYTES_MAX
from federation.kernel.versions import SCHEMA_VERSION
from tests.unit.api.logs import CatalogLog, ScriptedLog
from tests.unit.discovery.builders import Log, founded, key, put, put_export

MIRROR = "spiffe://alpha.test/isthmus/delta/controller/m1"


def enrolled() -> Log:
    """Delta, a remote cluster of alpha, has a mirror."""
    log = founded()
    record = put(key("Agent", "controller.m1", scope="delta"), {"role": "controller"})
    assert log.write("alpha", record).code == 0
    return log


def service(wire: CatalogLog | ScriptedLog, tables: Tables, peer: str = MIRROR) -> ForwardService:
    identity: SpiffeId = parse(peer)
    return ForwardService(
        wire,
        tables=lambda: tables,
        schema=lambda: SCHEMA_VERSION,
        audit=AuditTrail(),
        peer=lambda: identity,
    )


def request(command: bytes) -> bytes:
    return encode_forward(ForwardRequest(timeout_ms=1_000, command=command))


def command(proposer: str = "alpha", owner: str = "delta") -> bytes:
    body = Write(operations=(put_export(owner, "shop", "orders"),))
    return encode_command(Command(request_id=f"r-{owner}", proposer=proposer, body=body))


async def ask(asked: ForwardService, raw: bytes) -> ForwardReply:
    return decode_forward_reply(await asked.propose(raw, None))  # type: ignore[arg-type]  # no handler uses it


async def test_the_proposer_is_the_mirrors_cluster_whatever_the_command_says() -> None:
    log = enrolled()
    wire = CatalogLog(log)
    asked = service(wire, log.catalog.tables)

    reply = await ask(asked, request(command(proposer="beta")))

    assert [one.proposer for one in wire.proposed] == ["delta"]
    assert decode_outcome(reply.result).code == 0
    foreign = decode_outcome((await ask(asked, request(command(owner="alpha")))).result)
    assert foreign.code != 0


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        pytest.param("spiffe://alpha.test/isthmus/delta/agent/a1", "expected another controller", id="agent"),
        pytest.param("spiffe://alpha.test/isthmus/delta/controller/m2", "is not enrolled as a mirror", id="unknown"),
        pytest.param("spiffe://beta.test/isthmus/delta/controller/m1", "is not of trust domain", id="stranger"),
        pytest.param("spiffe://alpha.test/isthmus/omega/controller/m1", "has not joined", id="no cluster"),
    ],
)  # fmt: skip
async def test_only_an_enrolled_mirror_may_forward(peer: str, said: str) -> None:
    log = enrolled()
    wire = CatalogLog(log)
    reply = await ask(service(wire, log.catalog.tables, peer), request(command()))
    assert (reply.code, said in reply.message) == (Code.PERMISSION_DENIED, True)
    assert wire.proposed == []


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"garbage", Code.INVALID_ARGUMENT, id="no message"),
        pytest.param(request(b"garbage"), Code.INVALID_ARGUMENT, id="no command"),
        pytest.param(request(b"x" * (COMMAND_BYTES_MAX + 1)), Code.INVALID_ARGUMENT, id="too long"),
        pytest.param(
            request(encode_command(Command(request_id="r", proposer="delta", body=Tick(now_ms=1)))),
            Code.PERMISSION_DENIED,
            id="time is the members'",
        ),
        pytest.param(
            request(
                encode_command(
                    Command(
                        request_id="r",
                        proposer="delta",
                        body=Write(operations=()),
                        schema=SCHEMA_VERSION + 1,
                    )
                )
            ),
            Code.FAILED_PRECONDITION,
            id="a newer schema than every controller can apply",
        ),
    ],
)
async def test_what_a_mirror_may_not_propose_is_refused_before_the_log(raw: bytes, code: Code) -> None:
    log = enrolled()
    wire = CatalogLog(log)
    assert (await ask(service(wire, log.catalog.tables), raw)).code == code
    assert wire.proposed == []


@pytest.mark.parametrize("error", [UnavailableError("no leader"), OutcomeUnknownError("lost")])
async def test_what_did_not_happen_and_what_may_have_happened_stay_apart(
    error: UnavailableError | OutcomeUnknownError,
) -> None:
    asked = service(ScriptedLog(error), enrolled().catalog.tables)
    reply = await ask(asked, request(command()))
    assert (reply.code, reply.message) == (error.code, error.message)


async def test_a_barrier_answers_with_a_revision_that_holds_what_was_written() -> None:
    log = enrolled()
    asked = service(ScriptedLog(Outcome()), log.catalog.tables)
    raw = await asked.barrier(encode_forward(ForwardRequest(timeout_ms=1_000)), None)  # type: ignore[arg-type]
    assert decode_forward_reply(raw).revision == log.catalog.revision

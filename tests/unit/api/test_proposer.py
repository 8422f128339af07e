"""A write is sent until it is answered, under one request id, and says truly what is known of it."""

import msgspec
import pytest

from discovery.core.commands import Delete, Outcome, Write
from discovery.core.model import ResourceKey
from federation.api.proposer import Proposer
from federation.kernel.errors import (
    Code,
    IsthmusError,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
    StaleRevisionError,
    UnavailableError,
)
from tests.unit.api.logs import CatalogLog, ScriptedLog
from tests.unit.discovery.builders import founded, put_export

DELETE = Delete(key=ResourceKey("alpha", "Grant", "shop", "g"))
GONE, UNKNOWN = UnavailableError("no leader"), OutcomeUnknownError("no answer")
DONE = Outcome(revision=7)


@pytest.mark.parametrize(
    ("script", "attempts"),
    [((DONE,), 1), ((GONE, DONE), 2), ((UNKNOWN, DONE), 2), ((UNKNOWN, GONE, UNKNOWN, DONE), 4)],
)
async def test_a_write_is_repeated_under_one_request_id_until_it_is_answered(
    script: tuple[Outcome | IsthmusError, ...], attempts: int
) -> None:
    log = ScriptedLog(*script)
    assert await Proposer(log, cluster="alpha").write(DELETE) == DONE
    assert len(log.proposed) == attempts
    assert len({command.request_id for command in log.proposed}) == 1
    assert {command.proposer for command in log.proposed} == {"alpha"}


async def test_every_write_has_a_request_id_of_its_own_unless_one_is_given() -> None:
    log = ScriptedLog(DONE)
    proposer = Proposer(log, cluster="alpha")
    for given in ("", "", "mine"):
        await proposer.write(DELETE, request_id=given)
    first, second, third = (command.request_id for command in log.proposed)
    assert first != second
    assert third == "mine"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param((GONE,), UnavailableError, id="it-certainly-did-not-happen"),
        pytest.param((UNKNOWN,), OutcomeUnknownError, id="it-may-have-happened"),
        pytest.param((UNKNOWN, GONE), OutcomeUnknownError, id="an-earlier-attempt-may-have-happened"),
    ],
)
async def test_when_time_is_up_the_error_says_whether_it_may_have_happened(
    script: tuple[IsthmusError, ...], expected: type[IsthmusError]
) -> None:
    with pytest.raises(IsthmusError) as caught:
        await Proposer(ScriptedLog(*script), cluster="alpha").propose(
            Write(operations=(DELETE,)), timeout_ms=300
        )
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [(Code.NOT_FOUND, NotFoundError), (Code.ABORTED, StaleRevisionError), (Code.INTERNAL, IsthmusError)],
)
async def test_a_refusal_of_the_catalog_is_raised_as_its_own_error_and_not_repeated(
    code: Code, expected: type[IsthmusError]
) -> None:
    log = ScriptedLog(Outcome(code=int(code), message="why not"))
    with pytest.raises(IsthmusError, match="why not") as caught:
        await Proposer(log, cluster="alpha").write(DELETE)
    assert type(caught.value) is expected
    assert len(log.proposed) == 1


async def test_a_write_that_fits_no_log_entry_is_not_sent() -> None:
    log = ScriptedLog(DONE)
    operations = [put_export("alpha", "shop", "x" * 60, name=f"p{number}") for number in range(1_000)]
    with pytest.raises(LimitExceededError, match="at most 49152 are allowed"):
        await Proposer(log, cluster="alpha").write(*operations)
    assert log.proposed == []


async def test_a_repeated_request_takes_effect_once() -> None:
    catalog = founded()
    lost = iter([True, False])
    log = CatalogLog(catalog)
    proposer = Proposer(log, cluster="alpha")
    real = log.propose

    async def losing_the_first_answer(command: bytes, *, timeout_ms: int) -> object:
        answer = await real(command, timeout_ms=timeout_ms)
        if next(lost):
            raise OutcomeUnknownError("the answer was lost")
        return answer

    log.propose = losing_the_first_answer  # type: ignore[method-assign, assignment]
    created = msgspec.structs.replace(put_export("alpha", "shop", "orders"), expected_revision=0)
    outcome = await proposer.write(created)
    row = catalog.catalog.tables.resource(ResourceKey("alpha", "ExportPolicy", "shop", "export"))
    assert row is not None
    assert (row.generation, row.revision) == (1, outcome.revision)


async def test_the_schema_of_a_command_is_asked_for_each_time() -> None:
    log = ScriptedLog(DONE)
    schemas = iter([1, 2])
    proposer = Proposer(log, cluster="alpha", schema=lambda: next(schemas))
    await proposer.write(DELETE)
    await proposer.write(DELETE)
    assert [command.schema for command in log.proposed] == [1, 2]


async def test_a_barrier_is_repeated_until_there_is_a_leader() -> None:
    log = ScriptedLog(GONE, GONE, DONE)
    await Proposer(log, cluster="alpha").barrier()
    assert log.barriers == 3
    with pytest.raises(UnavailableError, match="no leader"):
        await Proposer(ScriptedLog(GONE), cluster="alpha").barrier(timeout_ms=200)

"""Enrollment against an HTTPS server in this process: tokens, pins, lost answers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from certs.core.token import parse_token
from certs.runtime.identity import LeafIdentity
from discovery.core.specs import GroupPort, WorkloadGroupSpec
from federation.agent.directory import DirectoryStore
from federation.agent.enrollment import (
    ENROLLMENT_FILE,
    IDENTITY_FOLDER,
    enroll,
    ensure_enrolled,
    load_enrollment,
)
from federation.kernel.errors import (
    BadIdentityError,
    CorruptError,
    InvalidInputError,
    NotAllowedError,
    OutcomeUnknownError,
    PreconditionError,
    UnavailableError,
)
from tests.integration.agent.fake_api import FakeApi
from tests.integration.agent.fake_controller import FakeController, directory_of
from tests.support.loopback import LoopbackBlock
from tests.support.pki import TestDomain

Loopback = Callable[[], LoopbackBlock]


@asynccontextmanager
async def api_at(domain: TestDomain, block: LoopbackBlock, number: int = 1) -> AsyncIterator[FakeApi]:
    host = block.host(number)
    directory = directory_of(FakeController(domain, "alpha", host))
    async with FakeApi(domain, "alpha", host, directory) as api:
        yield api


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


async def test_a_token_becomes_an_identity_a_directory_and_an_enrollment_on_disk(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        enrollment = await enroll(api.token(), "agent", "a1", data_dir)
    assert enrollment.identity == "spiffe://alpha.example/isthmus/alpha/agent/a1"
    assert enrollment.workload_identity == "spiffe://alpha.example/ns/shop/sa/orders"
    assert load_enrollment(data_dir) == enrollment
    assert str(LeafIdentity.load(data_dir / IDENTITY_FOLDER).spiffe_id) == enrollment.identity
    assert DirectoryStore.open(data_dir).current == api.directory


GROUP = WorkloadGroupSpec(
    service_account="orders",
    service="orders",
    ports=(GroupPort(name="http", port=8080),),
    labels={"version": "v1"},
)


async def test_a_workload_groups_template_is_on_disk_with_the_enrollment(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        api.template = GROUP
        await enroll(api.token(), "agent", "a1", data_dir)
    held = load_enrollment(data_dir)
    assert held is not None
    assert (held.workload_group, held.template) == ("machines", GROUP)


async def test_a_template_that_makes_no_sense_is_refused_and_leaves_no_enrollment(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        api.template = msgspec.structs.replace(GROUP, ports=())
        with pytest.raises(InvalidInputError, match=r"enroll: template: spec\.ports has 0 entries"):
            await enroll(api.token(), "agent", "a1", data_dir)
    assert load_enrollment(data_dir) is None


async def test_a_second_start_needs_neither_token_nor_controller(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        first = await ensure_enrolled(api.token(), "agent", "a1", data_dir)
    assert await ensure_enrolled(None, "agent", "a1", data_dir) == first
    assert await ensure_enrolled("isthmus1.whatever", "agent", "a1", data_dir) == first


async def test_without_identity_and_token_the_message_says_what_to_do(data_dir: Path) -> None:
    with pytest.raises(PreconditionError, match="start once with --token"):
        await ensure_enrolled(None, "agent", "a1", data_dir)


async def test_the_data_of_another_process_is_not_used(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        await enroll(api.token(), "agent", "a1", data_dir)
    with pytest.raises(PreconditionError, match="belongs to agent 'a1', not to gateway 'gw'"):
        await ensure_enrolled(None, "gateway", "gw", data_dir)


async def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        token = api.token()
        api.lose_answers = 1
        with pytest.raises(OutcomeUnknownError, match=api.address):
            await enroll(token, "agent", "a1", data_dir)
        assert load_enrollment(data_dir) is None
        await enroll(token, "agent", "a1", data_dir)
    first, second = api.requests
    assert LeafIdentity.load(data_dir / IDENTITY_FOLDER).installed
    assert first.secret == second.secret


async def test_a_used_token_is_refused_with_the_controllers_words(
    domain: TestDomain, loopback: Loopback, data_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    async with api_at(domain, loopback()) as api:
        token = api.token()
        await enroll(token, "agent", "a1", data_dir)
        with pytest.raises(PreconditionError, match="already used"):
            await enroll(token, "agent", "a2", other)
    assert load_enrollment(other) is None


async def test_an_expired_token_is_refused(domain: TestDomain, loopback: Loopback, data_dir: Path) -> None:
    async with api_at(domain, loopback()) as api:
        token = api.token()
        api.expired.update(api._tokens)
        with pytest.raises(PreconditionError, match="expired"):
            await enroll(token, "agent", "a1", data_dir)


async def test_a_forged_token_is_refused(domain: TestDomain, loopback: Loopback, data_dir: Path) -> None:
    async with api_at(domain, loopback()) as api:
        token = api.token()
        api._tokens.clear()
        with pytest.raises(NotAllowedError, match="not known here"):
            await enroll(token, "agent", "a1", data_dir)


async def test_a_token_for_another_purpose_is_not_even_sent(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        with pytest.raises(InvalidInputError, match="made for purpose gateway"):
            await enroll(api.token("gateway"), "agent", "a1", data_dir)
    assert api.requests == []


@pytest.mark.parametrize("text", ["", "isthmus1.", "isthmus2.abc", "nonsense"])
async def test_a_text_that_is_no_token_is_refused(text: str, data_dir: Path) -> None:
    with pytest.raises(InvalidInputError, match="token"):
        await enroll(text, "agent", "a1", data_dir)


async def test_a_server_without_the_pinned_root_never_sees_the_secret(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        with pytest.raises(BadIdentityError, match=f"{api.address}: .*pinned"):
            await enroll(api.token(pin="0" * 64), "agent", "a1", data_dir)
    assert api.requests == []


async def test_a_workload_of_the_pinned_domain_is_no_controller(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    block = loopback()
    host = block.host(1)
    api = FakeApi(domain, "alpha", host, directory_of(FakeController(domain, "alpha", host)))
    api.identity = domain.leaf("/ns/shop/sa/orders")
    async with api:
        with pytest.raises(BadIdentityError, match="expected a controller"):
            await enroll(api.token(), "agent", "a1", data_dir)
    assert api.requests == []


async def test_each_controller_of_the_token_is_tried(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    block = loopback()
    async with api_at(domain, block) as api:
        await enroll(api.token(endpoints=(f"{block.host(2)}:7445", api.address)), "agent", "a1", data_dir)
    assert load_enrollment(data_dir) is not None


async def test_where_no_controller_answers_each_is_named(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    block = loopback()
    async with api_at(domain, block) as api:
        token = api.token(endpoints=(f"{block.host(2)}:7445", f"{block.host(3)}:7445"))
    with pytest.raises(UnavailableError, match=f"{block.host(2)}.*{block.host(3)}"):
        await enroll(token, "agent", "a1", data_dir)
    assert parse_token(token).endpoints[0] == f"{block.host(2)}:7445"


async def test_damaged_files_are_an_error_that_names_them(
    domain: TestDomain, loopback: Loopback, data_dir: Path
) -> None:
    async with api_at(domain, loopback()) as api:
        await enroll(api.token(), "agent", "a1", data_dir)
    path = data_dir / ENROLLMENT_FILE
    good = path.read_bytes()
    path.write_bytes(good.replace(b"alpha", b"omega", 1))
    with pytest.raises(CorruptError, match=ENROLLMENT_FILE):
        load_enrollment(data_dir)
    path.write_bytes(good)
    identity = data_dir / IDENTITY_FOLDER / "identity.pem"
    identity.write_bytes(identity.read_bytes()[:100])
    with pytest.raises(CorruptError, match=r"identity\.pem"):
        load_enrollment(data_dir)

"""Join tokens: what may be asked for, and that only the secret finds one."""

from typing import Any

import pytest

from certs.core.token import parse_token, token_hash
from certs.runtime.authority import RootAuthority
from certs.runtime.clock import utc_now
from discovery.core.specs import ClusterSpec
from federation.api.joining import check_proof, join_message
from federation.api.messages import JoinRequest
from federation.api.proposer import Proposer
from federation.api.tokens import (
    TOKEN_KEPT_MS,
    TTL_MS_DEFAULT,
    TTL_MS_MAX,
    TokenReply,
    TokenRequest,
    collectable,
    create_token,
    find_token,
)
from federation.kernel.errors import (
    BadIdentityError,
    InvalidInputError,
    IsthmusError,
    NotFoundError,
    PreconditionError,
)
from federation.kernel.versions import PROTOCOL_VERSION
from tests.unit.api.logs import CatalogLog
from tests.unit.discovery.builders import Log, founded, key, put

ADDRESS = "10.0.0.1:7445"


def federation() -> Log:
    """As `founded`, where alpha's controller has an address."""
    log = founded()
    identity = "spiffe://alpha.test/isthmus/alpha/controller/alpha-1"
    spec = {
        "cluster": "alpha",
        "role": "member",
        "identity": identity,
        "api": ADDRESS,
        "protocol": PROTOCOL_VERSION,
    }
    log.accept("alpha", put(key("Controller", "alpha-1"), spec))
    return log


async def create(log: Log, **request: Any) -> TokenReply:
    return await create_token(
        TokenRequest(**request),
        tables=log.catalog.tables,
        now_ms=log.catalog.now_ms,
        proposer=Proposer(CatalogLog(log), cluster="alpha"),
        cluster="alpha",
        pin="0" * 64,
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"purpose": "cluster", "cluster": "gamma"},
        {"purpose": "dns", "cluster": "alpha"},
        {"purpose": "gateway", "cluster": "delta"},
        {"purpose": "agent", "cluster": "delta", "namespace": "shop", "service_account": "orders"},
    ],
    ids=lambda request: request["purpose"],
)
async def test_a_token_leads_here_and_is_found_by_its_secret_alone(request_: dict[str, str]) -> None:
    log = federation()
    reply = await create(log, ttl_ms=5_000, **request_)
    token = parse_token(reply.token)
    assert (token.purpose, token.cluster) == (request_["purpose"], request_["cluster"])
    assert (token.federation, token.trust_domain, token.endpoints) == ("f1", "alpha.test", (ADDRESS,))
    assert reply.expires_ms == log.catalog.now_ms + 5_000
    spec = find_token(log.catalog.tables, token.secret)
    assert spec is not None
    assert (spec.secret_sha256, spec.expires_ms) == (token_hash(token.secret), reply.expires_ms)
    assert find_token(log.catalog.tables, token.secret[:-1] + bytes([token.secret[-1] ^ 1])) is None
    assert find_token(log.catalog.tables, b"") is None


async def test_a_token_is_collected_a_day_after_it_expired_and_not_before() -> None:
    log = federation()
    reply = await create(log, purpose="dns", cluster="alpha", ttl_ms=5_000)
    due_ms = reply.expires_ms + TOKEN_KEPT_MS

    assert collectable(log.catalog.tables, due_ms - 1) == []
    assert [one.name for one in collectable(log.catalog.tables, due_ms)] == [reply.name]


async def test_a_token_made_before_the_first_tick_of_a_federation_is_good_after_it() -> None:
    log = federation()
    reply = await create_token(
        TokenRequest(purpose="dns", cluster="alpha"),
        tables=log.catalog.tables,
        now_ms=0,
        proposer=Proposer(CatalogLog(log), cluster="alpha"),
        cluster="alpha",
        pin="0" * 64,
    )
    first_tick_ms = int(utc_now().timestamp() * 1000)
    assert first_tick_ms < reply.expires_ms <= first_tick_ms + TTL_MS_DEFAULT
    assert collectable(log.catalog.tables, first_tick_ms) == []


async def test_two_tokens_have_nothing_in_common() -> None:
    log = federation()
    first, second = [await create(log, purpose="dns", cluster="alpha") for _ in range(2)]
    assert first.name != second.name
    assert first.token != second.token


AGENT = {"purpose": "agent", "cluster": "alpha", "namespace": "shop", "service_account": "shop"}


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({**AGENT, "namespace": ""}, InvalidInputError, "are missing: an agent token says who its workloads are"),
        ({**AGENT, "service_account": ""}, InvalidInputError, "service account and workload group, are missing"),
        ({**AGENT, "namespace": "S"}, InvalidInputError, "namespace: 'S' is not a name"),
        ({**AGENT, "service_account": "a b"}, InvalidInputError, "serviceAccount: 'a b' is not a name"),
        ({**AGENT, "cluster": "nowhere"}, NotFoundError, "Cluster/nowhere does not exist"),
        ({**AGENT, "cluster": "beta"}, PreconditionError, "enroll at a controller of beta: create the token there"),
        ({**AGENT, "ttl_ms": 999}, InvalidInputError, "ttl: 999 ms is outside 1s to 7d"),
        ({**AGENT, "ttl_ms": TTL_MS_MAX + 1}, InvalidInputError, "is outside 1s to 7d"),
        ({**AGENT, "ttl_ms": -1}, InvalidInputError, "is outside 1s to 7d"),
        ({**AGENT, "purpose": "gateway"}, InvalidInputError, "belong to agent tokens, not to gateway tokens"),
        ({"purpose": "cluster", "cluster": "A"}, InvalidInputError, "cluster: 'A' is not a name"),
    ],
)  # fmt: skip
async def test_a_token_that_makes_no_sense_is_not_made(
    request_: dict[str, Any], error: type[IsthmusError], message: str
) -> None:
    log = federation()
    before = log.catalog.revision
    with pytest.raises(error, match=message):
        await create(log, **request_)
    assert log.catalog.revision == before


ROOT = RootAuthority.create("new.example")
OTHER = RootAuthority.create("new.example")


def join(
    *, signer: RootAuthority = ROOT, signed: bytes = join_message(b"s", "new"), **changes: Any
) -> JoinRequest:
    fields: dict[str, Any] = {
        "secret": b"s",
        "cluster": "new",
        "spec": ClusterSpec(role="primary", trust_domain="new.example"),
        "roots": (ROOT.bundle().pem().decode(),),
        "proof": signer.sign(signed),
    }
    return JoinRequest(**{**fields, **changes})


def test_the_holder_of_the_root_key_is_known_by_that_key() -> None:
    assert check_proof(join()) == check_proof(join())
    other = join(signer=OTHER, roots=(OTHER.bundle().pem().decode(),))
    assert check_proof(other) != check_proof(join())


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        pytest.param(join(signer=OTHER), BadIdentityError, id="another-key"),
        pytest.param(join(signed=join_message(b"s", "old")), BadIdentityError, id="of-another-cluster"),
        pytest.param(join(signed=join_message(b"t", "new")), BadIdentityError, id="of-another-token"),
        pytest.param(join(proof=b""), BadIdentityError, id="none"),
        pytest.param(join(proof=b"\x30\x00"), BadIdentityError, id="no-signature"),
        pytest.param(join(roots=()), InvalidInputError, id="no-root"),
        pytest.param(join(roots=("PEM",)), InvalidInputError, id="no-certificate"),
        pytest.param(join(roots=("ä\0",)), InvalidInputError, id="no-text"),
        pytest.param(join(roots=join().roots * 2), InvalidInputError, id="two-roots"),
    ],
)
def test_a_proof_is_of_this_root_this_token_and_this_cluster(
    request_: JoinRequest, error: type[IsthmusError]
) -> None:
    with pytest.raises(error):
        check_proof(request_)


def test_a_root_message_is_never_the_inside_of_a_certificate() -> None:
    assert join_message(b"secret", "new").startswith(b"isthmus join\0")

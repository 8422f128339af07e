"""Whatever arrives, the decoders of certs answer with a value or with one of our errors."""

import functools
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from certs.core.bundle import from_jwks, to_jwks
from certs.core.issuance import csr_public_key
from certs.core.token import JoinToken, format_token, parse_token
from certs.core.verifier import verify_chain
from certs.runtime.keystore import new_key
from federation.kernel.errors import BadIdentityError, InvalidInputError
from tests.support.pki import TestDomain, request


@functools.cache
def domain() -> TestDomain:
    with tempfile.TemporaryDirectory() as directory:
        return TestDomain("alpha.example", Path(directory))


@functools.cache
def honest_chain() -> tuple[bytes, ...]:
    issued = domain().forge(uris=["spiffe://alpha.example/ns/shop/sa/cart"], dns=["a.example"])
    return issued.chain_der


@functools.cache
def honest_request() -> bytes:
    return request(new_key(), subject="x")


def changed(content: bytes, position: int, octet: int) -> bytes:
    at = position % len(content)
    return content[:at] + bytes([octet]) + content[at + 1 :]


@given(st.integers(0, 5_000), st.integers(0, 255), st.integers(0, 1))
def test_a_chain_with_one_changed_byte_is_refused(position: int, octet: int, which: int) -> None:
    chain = list(honest_chain())
    chain[which] = changed(chain[which], position, octet)
    if tuple(chain) == honest_chain():
        return
    try:
        verify_chain(chain, domain().bundles, datetime.now(UTC), purpose="client")
    except BadIdentityError:
        return
    # The count of unused bits in front of the signature is outside what is signed.
    before, after = (x509.load_der_x509_certificate(chains[which]) for chains in (honest_chain(), chain))
    assert after.tbs_certificate_bytes == before.tbs_certificate_bytes


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_arbitrary_bytes_are_no_chain(chain: list[bytes]) -> None:
    with pytest.raises(BadIdentityError):
        verify_chain(chain, domain().bundles, datetime.now(UTC), purpose="server")


@given(st.integers(0, 5_000), st.integers(0, 255))
def test_a_request_with_one_changed_byte_is_refused_or_for_the_same_key(position: int, octet: int) -> None:
    content = changed(honest_request(), position, octet)
    try:
        key = csr_public_key(content)
    except InvalidInputError:
        return
    assert key == csr_public_key(honest_request())


@given(st.integers(0, 5_000), st.integers(0, 255))
def test_a_bundle_with_one_changed_byte_is_read_or_refused(position: int, octet: int) -> None:
    try:
        bundle = from_jwks("alpha.example", changed(to_jwks(domain().bundle), position, octet))
    except InvalidInputError:
        return
    assert from_jwks("alpha.example", to_jwks(bundle)) == bundle


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode))
def test_any_bytes_are_a_bundle_or_refused(content: bytes) -> None:
    try:
        from_jwks("alpha.example", content)
    except InvalidInputError:
        return


TOKENS = st.builds(
    JoinToken,
    purpose=st.sampled_from(["cluster", "agent", "gateway", "dns"]),
    secret=st.binary(min_size=32, max_size=32),
    federation=st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    cluster=st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    endpoints=st.lists(st.integers(1, 65_535).map("api.example:{}".format), min_size=1, max_size=16).map(
        tuple
    ),
    pin=st.binary(min_size=32, max_size=32).map(bytes.hex),
    trust_domain=st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True),
)


@given(TOKENS)
def test_every_token_survives_its_text_form(token: JoinToken) -> None:
    assert parse_token(format_token(token)) == token


@given(TOKENS, st.integers(0), st.characters())
def test_a_token_with_one_changed_character_is_refused(
    token: JoinToken, position: int, character: str
) -> None:
    text = format_token(token)
    at = position % len(text)
    mutilated = text[:at] + character + text[at + 1 :]
    try:
        found = parse_token(mutilated)
    except InvalidInputError:
        return
    assert found == token


@given(st.text() | st.text().map("isthmus1.".__add__))
def test_arbitrary_text_is_no_token(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_token(text)

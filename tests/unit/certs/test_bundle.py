"""The SPIFFE bundle document: what the standard lets others send, and what it forbids."""

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certs.core import bundle
from certs.core.bundle import ROOTS_MAX, from_jwks, make_bundle, pooled_pem, to_jwks
from certs.core.certificate import spki_pin
from federation.kernel.errors import InvalidInputError
from tests.support.pki import TestDomain, bundles_of, sign

TD = "alpha.example"


def document(*keys: object, **fields: object) -> bytes:
    return json.dumps({"keys": list(keys), **fields}).encode()


def entry(root: bytes, **changes: object) -> dict[str, object]:
    return {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(root).decode()], **changes}


def test_a_bundle_survives_its_exchange_form(alpha: TestDomain, beta: TestDomain) -> None:
    both = make_bundle(TD, [alpha.root.certificate_der, beta.root.certificate_der], sequence=2**40)
    assert from_jwks(TD, to_jwks(both)) == both
    assert to_jwks(both) == to_jwks(from_jwks(TD, to_jwks(both)))


def test_what_we_emit_is_what_the_standard_asks(alpha: TestDomain) -> None:
    written = json.loads(to_jwks(alpha.root.bundle(sequence=7)))
    (key,) = written["keys"]
    assert key["use"] == "x509-svid"
    assert (key["kty"], key["crv"]) == ("EC", "P-256")
    assert "kid" not in key
    assert [base64.b64decode(one) for one in key["x5c"]] == [alpha.root.certificate_der]
    public = x509.load_der_x509_certificate(alpha.root.certificate_der).public_key().public_numbers()  # type: ignore[union-attr]
    assert int.from_bytes(base64.urlsafe_b64decode(key["x"] + "="), "big") == public.x  # type: ignore[union-attr]
    assert written["spiffe_sequence"] == 7
    assert written["spiffe_refresh_hint"] == 300


def test_an_rsa_root_of_a_foreign_domain_is_carried(alpha: TestDomain) -> None:
    key = rsa.generate_private_key(65537, 2048)
    signed = sign(
        key.public_key(),  # type: ignore[arg-type]
        issuer=x509.load_der_x509_certificate(alpha.root.certificate_der),
        issuer_key=alpha.root._root.key,
        names=[],
        usages=(),
        is_authority=True,
        signs_certificates=True,
    )
    foreign = make_bundle(TD, [signed])
    assert json.loads(to_jwks(foreign))["keys"][0]["kty"] == "RSA"
    assert from_jwks(TD, to_jwks(foreign)) == foreign


def test_an_empty_key_set_is_legal_and_trusts_nobody() -> None:
    assert from_jwks(TD, b'{"keys":[]}').roots == ()


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param({"kty": "EC", "use": "jwt-svid", "kid": "1"}, id="jwt-key"),
        pytest.param({"kty": "EC", "use": "wit-svid"}, id="unknown-use"),
        pytest.param({"kty": "EC"}, id="no-use"),
        pytest.param({"kty": "XYZ", "use": "x509-svid", "x5c": ["!"]}, id="unknown-kind"),
        pytest.param({"kty": "EC", "use": "x509-svid"}, id="no-certificate"),
        pytest.param({"kty": "EC", "use": "x509-svid", "x5c": []}, id="empty-chain"),
        pytest.param({}, id="empty-element"),
    ],
)
def test_an_element_that_we_do_not_know_is_ignored(alpha: TestDomain, ignored: dict[str, Any]) -> None:
    read = from_jwks(TD, document(ignored, entry(alpha.root.certificate_der), future_field={"a": [1]}))
    assert read.roots == (alpha.root.certificate_der,)


def test_only_the_first_certificate_of_an_element_counts(alpha: TestDomain, beta: TestDomain) -> None:
    texts = [base64.b64encode(domain.root.certificate_der).decode() for domain in (alpha, beta)]
    read = from_jwks(TD, document(entry(b"", x5c=texts)))
    assert read.roots == (alpha.root.certificate_der,)


def test_a_root_named_twice_counts_once(alpha: TestDomain) -> None:
    root = alpha.root.certificate_der
    assert from_jwks(TD, document(entry(root), entry(root))).roots == (root,)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"{", "not JSON", id="cut-off"),
        pytest.param(b"[]", "not a JSON object", id="list"),
        pytest.param(b"{}", "no list named keys", id="no-keys"),
        pytest.param(b'{"keys":{}}', "no list named keys", id="keys-no-list"),
        pytest.param(b'{"keys":[1]}', "key 0 is not a JSON object", id="element-no-object"),
        pytest.param(b'{"keys":[],"keys":[]}', "same name twice", id="duplicate-name"),
        pytest.param(b'{"keys":[{"use":"a","use":"b"}]}', "same name twice", id="duplicate-name-inside"),
        pytest.param(b"[" * 100_000, "not JSON", id="deep"),
        pytest.param(b"\xff\xfe{}", "not JSON", id="not-utf-8"),
        pytest.param(b'{"keys":[],"spiffe_sequence":-1}', "spiffe_sequence", id="negative-sequence"),
        pytest.param(b'{"keys":[],"spiffe_sequence":1.5}', "spiffe_sequence", id="fraction"),
        pytest.param(b'{"keys":[],"spiffe_sequence":true}', "spiffe_sequence", id="boolean"),
        pytest.param(b'{"keys":[],"spiffe_sequence":9223372036854775808}', "spiffe_sequence", id="2-to-63"),
        pytest.param(b'{"keys":[],"spiffe_sequence":' + b"9" * 5000 + b"}", "not JSON", id="huge-number"),
        pytest.param(b'{"keys":[],"spiffe_refresh_hint":"5"}', "spiffe_refresh_hint", id="hint-text"),
        pytest.param(document(entry(b"", x5c=[1])), "expected base64", id="x5c-number"),
        pytest.param(document(entry(b"", x5c=["*"])), "not base64", id="x5c-no-base64"),
        pytest.param(document(entry(b"abc")), "not a certificate", id="x5c-garbage"),
        pytest.param(document(*[{}] * 257), "257 keys", id="too-many-keys"),
        pytest.param(b" " * (bundle.BUNDLE_BYTES_MAX + 1), "more than", id="too-long"),
    ],
)
def test_a_malformed_document_is_refused_as_a_whole(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        from_jwks(TD, content)


def test_a_leaf_is_no_root(alpha: TestDomain) -> None:
    with pytest.raises(InvalidInputError, match="not a certificate authority"):
        make_bundle(TD, [alpha.leaf("/x").chain_der[0]])


def test_the_number_of_roots_is_bounded(alpha: TestDomain) -> None:
    chain = alpha.long_chain("spiffe://alpha.example/x", ROOTS_MAX + 1).chain_der[1:]
    with pytest.raises(InvalidInputError, match=f"{ROOTS_MAX + 1} roots"):
        make_bundle(TD, chain)


def test_the_pool_for_handshakes_holds_every_root(alpha: TestDomain, beta: TestDomain) -> None:
    found = x509.load_pem_x509_certificates(pooled_pem(bundles_of(alpha, beta)))
    assert {one.public_bytes(Encoding.DER) for one in found} == {
        alpha.root.certificate_der,
        beta.root.certificate_der,
    }
    assert pooled_pem({}) == b""


def test_a_pin_names_the_key_not_the_certificate(alpha: TestDomain, beta: TestDomain) -> None:
    assert spki_pin(alpha.root.certificate_der) != spki_pin(beta.root.certificate_der)
    assert len(spki_pin(alpha.root.certificate_der)) == 64

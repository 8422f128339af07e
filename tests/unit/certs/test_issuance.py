"""What an authority reads of a request, and what it lets a certificate say."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs.core import issuance
from certs.core.issuance import (
    CONTROLLER_DNS_NAME,
    check_dns_names,
    clamped_not_after,
    controller_dns_names,
    csr_public_key,
    leaf_request,
    renew_at,
    spki,
)
from certs.core.spiffe import SpiffeId, system_id, workload_id
from federation.kernel.errors import InvalidInputError, NotAllowedError
from tests.support.pki import request

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
CART = workload_id("alpha.example", "shop", "cart")
HOUR = timedelta(hours=1)


def test_only_the_public_key_of_a_request_is_read() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = request(
        key,
        subject="root",
        names=[x509.UniformResourceIdentifier("spiffe://alpha.example/isthmus/alpha/controller/c1")],
    )
    assert leaf_request(greedy, CART) == spki(key.public_key())


@pytest.mark.parametrize(
    ("make_key", "kind"),
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), "secp384r1", id="p-384"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP521R1()), "secp521r1", id="p-521"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP256K1()), "secp256k1", id="bitcoin-curve"),
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), "RSA", id="rsa"),
        pytest.param(ed25519.Ed25519PrivateKey.generate, "Ed25519", id="ed25519"),
    ],
)
def test_only_p256_keys_are_certified(make_key: Any, kind: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{kind}.*expected P-256"):
        csr_public_key(request(make_key()))


def test_a_request_signed_by_another_key_is_refused() -> None:
    good = bytearray(request(ec.generate_private_key(ec.SECP256R1())))
    other = request(ec.generate_private_key(ec.SECP256R1()))
    at = bytes(good).index(b"\x03\x42\x00\x04") + 4  # the point of the public key
    good[at : at + 64] = other[other.index(b"\x03\x42\x00\x04") + 4 :][:64]
    with pytest.raises(InvalidInputError, match="not signed by the key"):
        csr_public_key(bytes(good))


@pytest.mark.parametrize("content", [b"", b"abc", b"\x30\x82\xff\xff", b"0" * (issuance.CSR_BYTES_MAX + 1)])
def test_garbage_is_no_request(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match="certificate request"):
        csr_public_key(content)


def test_every_cut_of_a_request_is_refused() -> None:
    whole = request(ec.generate_private_key(ec.SECP256R1()))
    for length in range(len(whole)):
        with pytest.raises(InvalidInputError):
            csr_public_key(whole[:length])


def test_nobody_is_certified_as_a_whole_trust_domain() -> None:
    with pytest.raises(InvalidInputError, match="no path"):
        leaf_request(request(ec.generate_private_key(ec.SECP256R1())), SpiffeId(trust_domain="alpha.example"))


def test_a_controller_carries_the_common_and_its_own_dns_name() -> None:
    names = controller_dns_names(system_id("alpha.example", "alpha", "controller", "c1"))
    assert names == (CONTROLLER_DNS_NAME, f"c1.alpha.{CONTROLLER_DNS_NAME}")


@pytest.mark.parametrize("spiffe_id", [CART, system_id("alpha.example", "alpha", "agent", "c1")], ids=str)
def test_nobody_else_carries_a_dns_name(spiffe_id: SpiffeId) -> None:
    assert controller_dns_names(spiffe_id) == ()
    check_dns_names(spiffe_id, ())
    with pytest.raises(NotAllowedError, match="may not carry"):
        check_dns_names(spiffe_id, (CONTROLLER_DNS_NAME,))


def test_a_controller_may_not_carry_anothers_dns_name() -> None:
    with pytest.raises(NotAllowedError, match=r"c2\.alpha"):
        check_dns_names(
            system_id("alpha.example", "alpha", "controller", "c1"), (f"c2.alpha.{CONTROLLER_DNS_NAME}",)
        )


def test_two_controllers_never_share_a_dns_name() -> None:
    """A dot in a name would make `a.b` of `c` equal `a` of `b.c`."""
    with pytest.raises(InvalidInputError, match="not a DNS label"):
        controller_dns_names(system_id("alpha.example", "c", "controller", "a.b"))


@pytest.mark.parametrize(
    ("ttl", "issuer_left", "expected"),
    [
        pytest.param(HOUR, 7 * HOUR, HOUR, id="as-asked"),
        pytest.param(HOUR, HOUR / 2, HOUR / 2, id="never-beyond-the-issuer"),
        pytest.param(issuance.LEAF_TTL, 100 * HOUR, 24 * HOUR, id="longest"),
    ],
)
def test_a_certificate_ends_as_asked_or_with_its_issuer(
    ttl: timedelta, issuer_left: timedelta, expected: timedelta
) -> None:
    assert clamped_not_after(NOON, ttl, NOON + issuer_left, ttl_max=issuance.LEAF_TTL) == NOON + expected


@pytest.mark.parametrize("ttl", [timedelta(0), -HOUR, 25 * HOUR])
def test_a_life_time_out_of_bounds_is_refused(ttl: timedelta) -> None:
    with pytest.raises(InvalidInputError, match="life time"):
        clamped_not_after(NOON, ttl, NOON + HOUR, ttl_max=issuance.LEAF_TTL)


def test_renewal_is_due_at_half_life() -> None:
    assert renew_at(NOON, NOON + 24 * HOUR) == NOON + 12 * HOUR

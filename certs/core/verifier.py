"""The one judge of peer certificates: every Python endpoint of ours asks this module.

Roots are never pooled (invariant S1). Pooled roots let the authority of one trust domain issue
identities of another, and a leaf with two URI names lets it be read as either; so the leaf first
says which trust domain it belongs to, with exactly one URI name, and only that domain's roots may
vouch for it. Sources: X509-SVID sections 2 to 5, RFC 5280 section 6 (by cryptography's
verifier), SPIFFE Federation section 7.3.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID
from msgspec import Struct

from certs.core.bundle import Bundles, TrustBundle
from certs.core.certificate import load_certificate, uri_names
from certs.core.spiffe import SpiffeId, parse
from federation.kernel.errors import BadIdentityError, InvalidInputError

Purpose = Literal["client", "server"]
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

INTERMEDIATES_MAX = 4
# A leaf, its intermediates, and the root, which a controller appends so that a pin can be checked.
CHAIN_CERTIFICATES_MAX = 1 + INTERMEDIATES_MAX + 1
# Proved leaves remembered: two generations of this size, some 300 bytes each.
VERIFIED_LEAVES_MAX = 4096
# Parsed root sets kept; more trust domains than this only cost time.
STORES_KEPT_MAX = 256

_Key = tuple[bytes, Purpose]
_PURPOSE_USAGE = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


class Verified(Struct, frozen=True, kw_only=True):
    """A leaf that was proved, and how long the proof holds: the shortest validity along its path."""

    spiffe_id: SpiffeId
    not_before: datetime
    not_after: datetime


def verify_chain(
    chain_der: Sequence[bytes], bundles: Bundles, now: datetime, *, purpose: Purpose
) -> SpiffeId:
    """Return who the peer is, or raise BadIdentityError with the reason.

    `chain_der` is what the peer sent, leaf first. `purpose` is the part the peer plays.
    """
    return prove(chain_der, bundles, now, purpose=purpose).spiffe_id


def prove(chain_der: Sequence[bytes], bundles: Bundles, now: datetime, *, purpose: Purpose) -> Verified:
    """As `verify_chain`, and say how long the answer holds."""
    if not chain_der:
        raise BadIdentityError("the peer sent no certificate")
    if len(chain_der) > CHAIN_CERTIFICATES_MAX:
        raise BadIdentityError(
            f"the peer sent {len(chain_der)} certificates, more than {CHAIN_CERTIFICATES_MAX}"
        )
    try:
        leaf = load_certificate(chain_der[0], where="leaf certificate")
        issuers = [
            load_certificate(der, where=f"certificate {index} of the chain")
            for index, der in enumerate(chain_der[1:], start=1)
        ]
    except InvalidInputError as error:
        raise BadIdentityError(error.message) from error
    spiffe_id = leaf_identity(leaf, purpose)
    for index, issuer in enumerate(issuers, start=1):
        _check_issuer(issuer, spiffe_id, index)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or bundle.trust_domain != spiffe_id.trust_domain:
        raise BadIdentityError(f"{spiffe_id}: trust domain {spiffe_id.trust_domain} is not known here")
    if not bundle.roots:
        raise BadIdentityError(
            f"{spiffe_id}: the bundle of {spiffe_id.trust_domain} is empty, all its identities are revoked"
        )
    _check_validity(leaf, now, f"{spiffe_id}: leaf certificate")
    path = _path(leaf, issuers, bundle, now, spiffe_id)
    return Verified(
        spiffe_id=spiffe_id,
        not_before=max(certificate.not_valid_before_utc for certificate in path),
        not_after=min(certificate.not_valid_after_utc for certificate in path),
    )


def leaf_identity(leaf: x509.Certificate, *purposes: Purpose) -> SpiffeId:
    """Return what the leaf claims to be, after every check that needs no trust: X509-SVID section 4.

    BadIdentityError: it is malformed, or may not play one of the `purposes`.
    """
    names = uri_names(leaf)
    if len(names) != 1:
        raise BadIdentityError(f"leaf certificate has {len(names)} URI names, expected exactly one")
    try:
        spiffe_id = parse(names[0])
    except InvalidInputError as error:
        raise BadIdentityError(f"leaf certificate: {error.message}") from error
    if not spiffe_id.path:
        raise BadIdentityError(f"{spiffe_id} has no path: it names a trust domain, not a workload")
    _check_leaf_profile(leaf, spiffe_id)
    usages = _extension(leaf, x509.ExtendedKeyUsage)
    for purpose in purposes:
        if usages is not None and _PURPOSE_USAGE[purpose] not in usages:
            raise BadIdentityError(
                f"{spiffe_id}: leaf certificate's extended key usage does not allow a {purpose}"
            )
    return spiffe_id


def authority_domain(certificate: x509.Certificate) -> str:
    """Return the trust domain of an authority's certificate: X509-SVID section 3. InvalidInputError otherwise."""
    names = uri_names(certificate)
    if len(names) != 1:
        raise InvalidInputError(f"authority's certificate has {len(names)} URI names, expected exactly one")
    spiffe_id = parse(names[0])
    if spiffe_id.path:
        raise InvalidInputError(
            f"authority's certificate names {spiffe_id}, expected a trust domain without a path"
        )
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise InvalidInputError(f"certificate of {spiffe_id} may not sign certificates")
    return spiffe_id.trust_domain


def _check_leaf_profile(leaf: x509.Certificate, spiffe_id: SpiffeId) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise BadIdentityError(f"{spiffe_id}: leaf certificate is a certificate authority")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise BadIdentityError(f"{spiffe_id}: leaf certificate's key usage lacks digitalSignature")
    if usage.key_cert_sign or usage.crl_sign:
        raise BadIdentityError(
            f"{spiffe_id}: leaf certificate's key usage allows signing certificates or CRLs"
        )


def _check_issuer(issuer: x509.Certificate, spiffe_id: SpiffeId, index: int) -> None:
    """An issuer that names an identity must name the leaf's trust domain, and nothing in it."""
    names = uri_names(issuer)
    expected = f"spiffe://{spiffe_id.trust_domain}"
    if names and names != [expected]:
        raise BadIdentityError(
            f"{spiffe_id}: certificate {index} of the chain is of another trust domain or names a workload:"
            f" expected no URI name, or only {expected}"
        )


def _check_validity(certificate: x509.Certificate, now: datetime, what: str) -> None:
    if now < certificate.not_valid_before_utc:
        raise BadIdentityError(f"{what} is not valid before {certificate.not_valid_before_utc.isoformat()}")
    if now > certificate.not_valid_after_utc:
        raise BadIdentityError(f"{what} expired at {certificate.not_valid_after_utc.isoformat()}")


def _path(
    leaf: x509.Certificate,
    issuers: list[x509.Certificate],
    bundle: TrustBundle,
    now: datetime,
    spiffe_id: SpiffeId,
) -> list[x509.Certificate]:
    """Return leaf to root. The client verifier serves both purposes: it asks for no DNS name."""
    try:
        verifier = (
            verification.PolicyBuilder()
            .store(_store(bundle.roots))
            .time(now)
            .max_chain_depth(INTERMEDIATES_MAX)
            .build_client_verifier()
        )
        return verifier.verify(leaf, issuers).chain
    except (verification.VerificationError, ValueError, x509.UnsupportedGeneralNameType) as error:
        raise BadIdentityError(
            f"{spiffe_id}: no valid path to a root of {spiffe_id.trust_domain}: {error}"
        ) from error


@lru_cache(maxsize=STORES_KEPT_MAX)
def _store(roots: tuple[bytes, ...]) -> verification.Store:
    return verification.Store([x509.load_der_x509_certificate(root) for root in roots])


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


class Verifier:
    """Judges peers by the bundles of the moment, and remembers whom it has proved.

    A proof holds while the leaf's and its issuers' validity lasts and the bundle of its trust
    domain stays the same; refusals are never remembered. Safe to call from several threads
    without a lock: each step on the two generations is one atomic dictionary operation, and a
    race costs at most a repeated proof.
    """

    def __init__(self, bundles: Callable[[], Bundles], *, clock: Callable[[], datetime]) -> None:
        self._bundles = bundles
        self._clock = clock
        self._young: dict[_Key, tuple[Verified, TrustBundle]] = {}
        self._old: dict[_Key, tuple[Verified, TrustBundle]] = {}

    def verify(self, chain_der: Sequence[bytes], *, purpose: Purpose) -> SpiffeId:
        """Return who the peer is, or raise BadIdentityError; as `verify_chain`."""
        if not chain_der:
            raise BadIdentityError("the peer sent no certificate")
        bundles, now = self._bundles(), self._clock()
        key = (hashlib.sha256(chain_der[0]).digest(), purpose)
        remembered = self._young.get(key) or self._old.get(key)
        if remembered is not None:
            verified, bundle = remembered
            unchanged = bundles.get(verified.spiffe_id.trust_domain) == bundle
            if unchanged and verified.not_before <= now <= verified.not_after:
                return verified.spiffe_id
        verified = prove(chain_der, bundles, now, purpose=purpose)
        if len(self._young) >= VERIFIED_LEAVES_MAX:
            self._old, self._young = self._young, {}
        self._young[key] = (verified, bundles[verified.spiffe_id.trust_domain])
        return verified.spiffe_id

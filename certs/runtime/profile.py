"""What our certificates look like: X509-SVID section 4 for leaves, sections 3 and 5 for authorities.

Everything signed is read back and compared with what was meant; a difference is an error of ours,
and the certificate is not released.
"""

import hashlib
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from certs.core.issuance import p256, spki
from certs.core.spiffe import SpiffeId
from certs.core.verifier import authority_domain, leaf_identity
from federation.kernel.errors import BadIdentityError, InvalidInputError, IsthmusError


class Issuer(Struct, frozen=True, kw_only=True):
    """A key that signs, and the certificate of that key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return f"Issuer({self.certificate.subject.rfc4514_string()})"


class Validity(Struct, frozen=True, kw_only=True):
    """From when until when a certificate holds."""

    not_before: datetime
    not_after: datetime


def _usage(*, signs_data: bool) -> x509.KeyUsage:
    """Return the key usage of a leaf (signs data), or of an authority (signs certificates and CRLs)."""
    return x509.KeyUsage(
        digital_signature=signs_data,
        key_cert_sign=not signs_data,
        crl_sign=not signs_data,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


_LEAF_USAGE = _usage(signs_data=True)
_AUTHORITY_USAGE = _usage(signs_data=False)
_LEAF_PURPOSES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def sign_root(key: ec.EllipticCurvePrivateKey, trust_domain: str, validity: Validity) -> x509.Certificate:
    """Return the self-signed certificate of a trust domain's root."""
    public_key = key.public_key()
    name = _authority_name("root", public_key)
    builder = _authority(trust_domain, name, public_key, validity, path_length=None)
    signed = _sign(builder, name, key)
    _check_authority(signed, signed, public_key, trust_domain)
    return signed


def sign_intermediate(
    public_key: ec.EllipticCurvePublicKey, trust_domain: str, validity: Validity, issuer: Issuer
) -> x509.Certificate:
    """Return the certificate of an authority that signs leaves only."""
    name = _authority_name("intermediate", public_key)
    builder = _authority(trust_domain, name, public_key, validity, path_length=0)
    signed = _sign(builder, issuer.certificate.subject, issuer.key)
    _check_authority(signed, issuer.certificate, public_key, trust_domain)
    return signed


def sign_leaf(
    public_key: ec.EllipticCurvePublicKey,
    spiffe_id: SpiffeId,
    dns: tuple[str, ...],
    validity: Validity,
    issuer: Issuer,
) -> x509.Certificate:
    """Return a leaf that says `spiffe_id`, these DNS names, and nothing else."""
    names = [x509.UniformResourceIdentifier(str(spiffe_id)), *(x509.DNSName(name) for name in dns)]
    builder = (
        _builder(x509.Name([]), public_key, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(_LEAF_PURPOSES, critical=False)
        # Critical, because the subject is empty (RFC 5280 section 4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )
    signed = _sign(builder, issuer.certificate.subject, issuer.key)
    _check_leaf(signed, issuer.certificate, public_key, spiffe_id, dns)
    return signed


def _authority_name(kind: str, key: ec.EllipticCurvePublicKey) -> x509.Name:
    """Return a name that differs between keys, so that no verifier confuses two generations."""
    tag = hashlib.sha256(spki(key)).hexdigest()[:16]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"isthmus {kind} {tag}")])


def _authority(
    trust_domain: str,
    name: x509.Name,
    key: ec.EllipticCurvePublicKey,
    validity: Validity,
    *,
    path_length: int | None,
) -> x509.CertificateBuilder:
    own = x509.UniformResourceIdentifier(str(SpiffeId(trust_domain=trust_domain)))
    return (
        _builder(name, key, validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.SubjectAlternativeName([own]), critical=False)
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, issuer_name: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return (
        builder.issuer_name(issuer_name).add_extension(identifier, critical=False).sign(key, hashes.SHA256())
    )


def _check_signed(signed: x509.Certificate, issuer: x509.Certificate, key: ec.EllipticCurvePublicKey) -> None:
    try:
        signed.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IsthmusError(
            "signed certificate does not verify with its issuer: it is not released"
        ) from error
    if spki(p256(signed.public_key(), where="signed certificate")) != spki(key):
        raise IsthmusError("signed certificate is for another key than the one requested: it is not released")


def _check_authority(
    signed: x509.Certificate, issuer: x509.Certificate, key: ec.EllipticCurvePublicKey, trust_domain: str
) -> None:
    _check_signed(signed, issuer, key)
    try:
        found = authority_domain(signed)
    except InvalidInputError as error:
        raise IsthmusError(f"signed authority is not valid, it is not released: {error.message}") from error
    if found != trust_domain:
        raise IsthmusError(f"signed authority says {found}, not {trust_domain}: it is not released")


def _check_leaf(
    signed: x509.Certificate,
    issuer: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    spiffe_id: SpiffeId,
    dns: tuple[str, ...],
) -> None:
    _check_signed(signed, issuer, key)
    try:
        claim = leaf_identity(signed, "client", "server")
    except BadIdentityError as error:
        raise IsthmusError(f"signed leaf is not valid, it is not released: {error.message}") from error
    names = signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if claim != spiffe_id or [*names][1:] != [x509.DNSName(name) for name in dns]:
        raise IsthmusError(f"signed leaf does not say {spiffe_id} and {dns} alone: it is not released")

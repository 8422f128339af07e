"""Reading certificates that strangers sent: every failure becomes one of our errors."""

import hashlib
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from federation.kernel.errors import InvalidInputError

# A P-256 certificate of ours has about 600 bytes, an RSA-8192 one with long names about 4 KiB.
CERTIFICATE_BYTES_MAX = 16 * 1024


def load_certificate(der: bytes, *, where: str) -> x509.Certificate:
    """Return the certificate in `der`; InvalidInputError says what is wrong with the one at `where`."""
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise InvalidInputError(f"{where} has {len(der)} bytes, more than {CERTIFICATE_BYTES_MAX}")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # cryptography reads lazily; here everything that could fail later fails once.
        _ = certificate.extensions, certificate.not_valid_after_utc, certificate.subject, certificate.issuer
        certificate.public_key()
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
    ) as error:
        raise InvalidInputError(f"{where} is not a certificate: {error}") from error
    except x509.UnsupportedGeneralNameType as error:
        raise InvalidInputError(f"{where} carries a kind of name that is not understood: {error}") from error
    return certificate


def uri_names(certificate: x509.Certificate) -> list[str]:
    """Return the URI names of the subjectAltName extension, in order; empty without the extension."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def to_pem(certificates_der: Iterable[bytes]) -> bytes:
    """Return the certificates as PEM blocks, in order."""
    return b"".join(
        load_certificate(der, where="certificate").public_bytes(Encoding.PEM) for der in certificates_der
    )


def from_pem(pem: bytes, *, where: str) -> tuple[bytes, ...]:
    """Return the DER of every certificate in `pem`; InvalidInputError when there is none."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise InvalidInputError(f"{where} holds no readable PEM certificate: {error}") from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)


def spki_pin(certificate_der: bytes) -> str:
    """Return the SHA-256 of the certificate's SubjectPublicKeyInfo in hexadecimal (as RFC 7469 pins it)."""
    key = load_certificate(certificate_der, where="certificate").public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()

"""What our authorities sign, for how long, and what they read of a request: its public key alone."""

import re
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from certs.core.spiffe import SpiffeId, system_identity
from federation.kernel.errors import InvalidInputError, NotAllowedError

LEAF_TTL = timedelta(hours=24)
INTERMEDIATE_TTL = timedelta(days=7)
ROOT_TTL = timedelta(days=3650)
# Certificates begin a little in the past, for verifiers whose clocks run behind.
BACKDATE = timedelta(seconds=60)
CA_BACKDATE = timedelta(minutes=5)

# A P-256 request of ours has about 200 bytes; one with many names that we ignore has a few KiB.
CSR_BYTES_MAX = 16 * 1024

# gRPC's client insists on a DNS name in the server's certificate; these name nothing on a network.
CONTROLLER_DNS_NAME = "controller.isthmus.internal"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def csr_public_key(csr_der: bytes) -> bytes:
    """Return the public key (DER SubjectPublicKeyInfo) of a request whose sender holds the private key.

    Subject, names and every other extension of the request are ignored. InvalidInputError: not a
    request, a wrong self-signature, or a key that is not P-256 (Envoy refuses Ed25519 and P-521
    client leaves).
    """
    if len(csr_der) > CSR_BYTES_MAX:
        raise InvalidInputError(f"certificate request has {len(csr_der)} bytes, more than {CSR_BYTES_MAX}")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"certificate request cannot be read: {error}") from error
    key = p256(key, where="certificate request")
    try:
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidInputError(f"certificate request's signature cannot be checked: {error}") from error
    if not valid:
        raise InvalidInputError("certificate request is not signed by the key that it names")
    return spki(key)


def leaf_request(csr_der: bytes, allowed: SpiffeId) -> bytes:
    """Return the public key to certify as `allowed`, the identity that the caller has decided on."""
    if not allowed.path:
        raise InvalidInputError(f"{allowed} has no path: it names a trust domain, not a workload")
    return csr_public_key(csr_der)


def controller_dns_names(spiffe_id: SpiffeId) -> tuple[str, ...]:
    """Return the DNS names that a leaf of `spiffe_id` carries: none unless it is a controller.

    The first is common to all controllers, the second names exactly this one, so that a gRPC
    channel can demand it: its client compares only DNS names.
    """
    system = system_identity(spiffe_id)
    if system is None or system.role != "controller":
        return ()
    for label in (system.id, system.cluster):
        if _LABEL.fullmatch(label) is None:
            raise InvalidInputError(f"{label!r} in {spiffe_id} is not a DNS label, as a controller's must be")
    return (CONTROLLER_DNS_NAME, f"{system.id}.{system.cluster}.{CONTROLLER_DNS_NAME}")


def check_dns_names(spiffe_id: SpiffeId, dns: tuple[str, ...]) -> None:
    """Refuse every DNS name that is not the identity's own: NotAllowedError."""
    own = controller_dns_names(spiffe_id) if dns else ()
    for name in dns:
        if name not in own:
            raise NotAllowedError(f"{spiffe_id} may not carry the DNS name {name!r}")


def p256(key: object, *, where: str) -> ec.EllipticCurvePublicKey:
    """Return `key` if it is a P-256 public key, otherwise InvalidInputError."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
        raise InvalidInputError(f"{where} has a key of kind {kind}, expected P-256")
    return key


def public_key_of(spki_der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key in a SubjectPublicKeyInfo, otherwise InvalidInputError."""
    try:
        key = load_der_public_key(spki_der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"public key cannot be read: {error}") from error
    return p256(key, where="public key")


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of `key`."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def renew_at(not_before: datetime, not_after: datetime) -> datetime:
    """Return the half of a certificate's life, from when it is renewed; callers add jitter."""
    return not_before + (not_after - not_before) / 2


def clamped_not_after(
    now: datetime, ttl: timedelta, issuer_not_after: datetime, *, ttl_max: timedelta
) -> datetime:
    """Return the end of a certificate's life: a child never outlives its issuer.

    InvalidInputError when `ttl` is not positive or longer than `ttl_max`.
    """
    if not timedelta(0) < ttl <= ttl_max:
        raise InvalidInputError(f"life time is {ttl}, expected more than 0 and at most {ttl_max}")
    return min(now + ttl, issuer_not_after).replace(microsecond=0)

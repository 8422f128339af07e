"""Signing: the root of a trust domain, and the intermediates that sign its leaves.

    RootAuthority --7 days--> Authority (one per controller) --24 hours--> leaves

The root signs intermediates, and the message by which its cluster joins a federation. No leaf is released before its record is on disk.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from certs.core import issuance
from certs.core.bundle import TrustBundle, make_bundle
from certs.core.certificate import load_certificate
from certs.core.spiffe import SpiffeId, trust_domain
from certs.core.verifier import authority_domain
from certs.runtime import profile
from certs.runtime.clock import utc_now
from certs.runtime.identity import Certified, IntermediateIdentity, LeafIdentity
from certs.runtime.issuancelog import IssuanceLog, IssuanceRecord
from certs.runtime.keystore import RootKey, export_root, import_root, make_private_directory, new_key
from certs.runtime.profile import Issuer, Validity
from federation.kernel.errors import InvalidInputError, NotAllowedError, PreconditionError

ROOT_FILE = "root.json"
ISSUANCE_FILE = "issuance.jsonl"

_DER_SEQUENCE = b"\x30"


class IssuedCertificate(Struct, frozen=True, kw_only=True):
    """A leaf and its intermediate, DER, leaf first; the serial in hexadecimal."""

    chain_der: tuple[bytes, ...]
    spiffe_id: SpiffeId
    serial: str
    not_before: datetime
    not_after: datetime


class _Signer(Struct, frozen=True, kw_only=True):
    """An intermediate, parsed once for all that it signs."""

    certified: Certified
    issuer: Issuer
    trust_domain: str


class RootAuthority:
    """The root of one trust domain. Whoever holds it can be anyone in that domain."""

    def __init__(self, root: RootKey, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._root = root
        self._issuer = Issuer(
            key=root.key, certificate=load_certificate(root.certificate_der, where="root certificate")
        )
        self._clock = clock

    @classmethod
    def create(cls, name: str, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Return a new root for trust domain `name`, in memory only: `save` it."""
        key, now = new_key(), clock()
        validity = Validity(not_before=now - issuance.CA_BACKDATE, not_after=now + issuance.ROOT_TTL)
        der = profile.sign_root(key, trust_domain(name), validity).public_bytes(Encoding.DER)
        return cls(RootKey(trust_domain=name, key=key, certificate_der=der), clock=clock)

    @classmethod
    def open(cls, directory: Path, passphrase: bytes, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Return the root that `save` wrote; errors as `import_root`. Takes about a second."""
        return cls(import_root(directory / ROOT_FILE, passphrase), clock=clock)

    def save(self, directory: Path, passphrase: bytes) -> None:
        """Write the encrypted root into `directory`; AlreadyExistsError when one is there."""
        make_private_directory(directory)
        self.export(directory / ROOT_FILE, passphrase)

    def export(self, path: Path, passphrase: bytes) -> None:
        """Write the encrypted root to a new file: the operator's copy (invariant S3)."""
        export_root(path, self._root, passphrase)

    @property
    def trust_domain(self) -> str:
        """The domain whose root this is."""
        return self._root.trust_domain

    @property
    def certificate_der(self) -> bytes:
        """The self-signed certificate."""
        return self._root.certificate_der

    @property
    def not_before(self) -> datetime:
        """When the root was made, but for what its certificate is backdated: a clock before this one is wrong."""
        return self._issuer.certificate.not_valid_before_utc

    def bundle(self, *, sequence: int = 1) -> TrustBundle:
        """Return the bundle with this root alone."""
        return make_bundle(self.trust_domain, [self.certificate_der], sequence=sequence)

    def sign(self, message: bytes) -> bytes:
        """Return an ECDSA-SHA256 signature by the root's key: proof that its holder says `message`.

        InvalidInputError: the message could be the inside of a certificate. Those begin with the
        octet of a DER sequence; whoever could have one signed here would be an authority.
        """
        if not message or message.startswith(_DER_SEQUENCE):
            raise InvalidInputError(
                "a root signs only messages that begin with a label, never DER or nothing"
            )
        return self._root.key.sign(message, ec.ECDSA(hashes.SHA256()))

    def sign_intermediate(self, public_key: bytes, ttl: timedelta = issuance.INTERMEDIATE_TTL) -> bytes:
        """Return the certificate (DER) of an intermediate for `public_key` (DER SubjectPublicKeyInfo).

        It signs leaves only (path length 0) and never outlives the root. The caller has checked
        that whoever asks holds the private key (`issuance.csr_public_key`) and may sign for this
        domain.
        """
        validity = _validity(
            self._clock(), ttl, self._issuer.certificate, issuance.INTERMEDIATE_TTL, issuance.CA_BACKDATE
        )
        key = issuance.public_key_of(public_key)
        signed = profile.sign_intermediate(key, self.trust_domain, validity, self._issuer)
        return signed.public_bytes(Encoding.DER)


class Authority:
    """Signs leaves with an intermediate key that never leaves this process and its disk.

    `sign_leaf` waits for the disk: on an event loop call it through a thread. Safe to call from
    several threads, which then share the waiting.
    """

    def __init__(
        self, intermediate: IntermediateIdentity, log: IssuanceLog, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.intermediate = intermediate
        self._log = log
        self._clock = clock
        self._signer: _Signer | None = None

    @classmethod
    def open(cls, directory: Path, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Return the authority that keeps its key and its issuance log in `directory`.

        A new one signs nothing before `enroll` or `intermediate.install`.
        """
        intermediate = IntermediateIdentity.load(directory)
        return cls(intermediate, IssuanceLog(directory / ISSUANCE_FILE), clock=clock)

    def enroll(self, root: RootAuthority) -> None:
        """Take a new intermediate key into use, certified by a root that this very process holds."""
        public_key = issuance.csr_public_key(self.intermediate.create_csr())
        self.intermediate.install([root.sign_intermediate(public_key)])

    @property
    def trust_domain(self) -> str:
        """The only domain whose identities this authority signs."""
        return self.intermediate.trust_domain

    def close(self) -> None:
        """Release the issuance log; signing afterwards fails."""
        self._log.close()

    def sign_leaf(
        self,
        csr_der: bytes,
        spiffe_id: SpiffeId,
        ttl: timedelta = issuance.LEAF_TTL,
        dns: tuple[str, ...] = (),
    ) -> IssuedCertificate:
        """Certify the key of `csr_der` as `spiffe_id`, which the caller has decided to grant.

        InvalidInputError: a bad request. NotAllowedError: an identity or DNS name that is not this
        authority's to give. PreconditionError: the intermediate is missing or expired.
        """
        public_key = issuance.public_key_of(issuance.leaf_request(csr_der, spiffe_id))
        signer = self._newest_signer()
        issuer, domain = signer.issuer, signer.trust_domain
        if spiffe_id.trust_domain != domain:
            raise NotAllowedError(f"{spiffe_id} is not of trust domain {domain}, the only one signed here")
        issuance.check_dns_names(spiffe_id, dns)
        now = self._clock()
        validity = _validity(now, ttl, issuer.certificate, issuance.LEAF_TTL, issuance.BACKDATE)
        signed = profile.sign_leaf(public_key, spiffe_id, dns, validity, issuer)
        certificate_der = signed.public_bytes(Encoding.DER)
        record = IssuanceRecord(
            issued_at=now,
            serial=f"{signed.serial_number:x}",
            subject=str(spiffe_id),
            dns=dns,
            spki_sha256=hashlib.sha256(issuance.spki(public_key)).hexdigest(),
            certificate_sha256=hashlib.sha256(certificate_der).hexdigest(),
            issuer_serial=f"{issuer.certificate.serial_number:x}",
            not_before=signed.not_valid_before_utc,
            not_after=signed.not_valid_after_utc,
        )
        self._log.append(record)
        return IssuedCertificate(
            chain_der=(certificate_der, *signer.certified.chain_der),
            spiffe_id=spiffe_id,
            serial=record.serial,
            not_before=record.not_before,
            not_after=record.not_after,
        )

    def _newest_signer(self) -> _Signer:
        """Return the parsed intermediate; read once per signature, because a renewal may replace it meanwhile."""
        certified = self.intermediate.current
        signer = self._signer
        if signer is None or signer.certified is not certified:
            certificate = load_certificate(certified.chain_der[0], where="intermediate")
            issuer = Issuer(key=certified.key, certificate=certificate)
            signer = _Signer(certified=certified, issuer=issuer, trust_domain=authority_domain(certificate))
            self._signer = signer
        return signer

    def issue_own_leaf(self, identity: LeafIdentity, spiffe_id: SpiffeId) -> IssuedCertificate:
        """Certify and install a new key of this very process: a controller needs no other's signature."""
        dns = issuance.controller_dns_names(spiffe_id)
        issued = self.sign_leaf(identity.create_csr(), spiffe_id, dns=dns)
        identity.install(issued.chain_der)
        return issued


def _validity(
    now: datetime, ttl: timedelta, issuer: x509.Certificate, ttl_max: timedelta, backdate: timedelta
) -> Validity:
    not_after = issuance.clamped_not_after(now, ttl, issuer.not_valid_after_utc, ttl_max=ttl_max)
    if not_after <= now:
        raise PreconditionError(
            f"the issuing certificate expired at {issuer.not_valid_after_utc.isoformat()}: renew it first"
        )
    return Validity(not_before=now - backdate, not_after=not_after)

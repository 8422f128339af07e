"""A certified key on disk: `LeafIdentity` for every process of ours, `IntermediateIdentity` for authorities.

DIRECTORY/            0700
    identity.pem      0600  private key, leaf, intermediates: one file, so always a matching pair
    pending.key       0600  key of a request under way; survives a crash, so that the repeated
                            request names the same key and a one-time token need not be spent twice
"""

import abc
import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from certs.core.certificate import from_pem, load_certificate, to_pem
from certs.core.issuance import p256, renew_at, spki
from certs.core.spiffe import SpiffeId
from certs.core.verifier import CHAIN_CERTIFICATES_MAX, authority_domain, leaf_identity
from certs.runtime.keystore import (
    key_from_pem,
    key_to_pem,
    make_private_directory,
    new_key,
    read_private,
    write_private,
)
from federation.kernel.errors import (
    BadIdentityError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)

IDENTITY_FILE = "identity.pem"
PENDING_FILE = "pending.key"


class IdentityPem(Struct, frozen=True, kw_only=True):
    """A private key and its chain (leaf first, without the root), as gRPC and Envoy take them."""

    key: bytes
    chain: bytes

    def __repr__(self) -> str:
        return "IdentityPem(...)"


class Certified(Struct, frozen=True, kw_only=True):
    """A key with its chain; immutable, so a reader in another thread never sees half a change."""

    key: ec.EllipticCurvePrivateKey
    chain_der: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime

    def __repr__(self) -> str:
        return f"Certified(until {self.not_after.isoformat()})"


class _KeyedChain(abc.ABC):
    """The certified key of one directory; `generation` counts the certificates installed since it was loaded.

    Safe to read from several threads; one owner calls `create_csr` and `install`.
    """

    def __init__(self, directory: Path, current: Certified | None) -> None:
        self.directory = directory
        self.generation = 0
        self._current = current

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return what lies in `directory`, which is made when it does not exist.

        An expired certificate loads: what it is still good for is for others to say.
        CorruptError: a file cannot be read. PreconditionError: others can read it.
        """
        make_private_directory(directory)
        path = directory / IDENTITY_FILE
        try:
            content = read_private(path)
        except NotFoundError:
            return cls(directory, None)
        try:
            current = _certified(key_from_pem(content, where=str(path)), from_pem(content, where=str(path)))
            cls._check(load_certificate(current.chain_der[0], where=str(path)))
        except InvalidInputError as error:
            raise CorruptError(f"{path}: {error.message}") from error
        return cls(directory, current)

    @property
    def installed(self) -> bool:
        """True once there is a certificate."""
        return self._current is not None

    @property
    def current(self) -> Certified:
        """The key and chain in use; PreconditionError before the first `install`."""
        if self._current is None:
            raise PreconditionError(f"{self.directory} holds no certificate yet: the process is not enrolled")
        return self._current

    @property
    def path(self) -> Path:
        """The PEM file with key and chain."""
        return self.directory / IDENTITY_FILE

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        """Leaf first, without the root."""
        return self.current.chain_der

    @property
    def not_after(self) -> datetime:
        """When the certificate expires."""
        return self.current.not_after

    @property
    def renew_at(self) -> datetime:
        """When to renew: half life, without jitter."""
        return renew_at(self.current.not_before, self.current.not_after)

    def is_due(self, now: datetime) -> bool:
        """True when a certificate is to be made: there is none, half of its life is over, or none of it has begun.

        One that begins later than now was made while this machine's clock was ahead: nobody believes it until then.
        """
        return not self.installed or self.renew_at <= now or now < self.current.not_before

    def pem(self) -> IdentityPem:
        """Return key and chain as PEM: for gRPC's credentials and Envoy's secrets only, never for a log."""
        current = self.current
        return IdentityPem(key=key_to_pem(current.key), chain=to_pem(current.chain_der))

    def create_csr(self) -> bytes:
        """Return a certificate request (DER) for a new key, or for the one already pending.

        The request says nothing but its public key: who we are is the issuer's decision.
        """
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return request.sign(self._pending_key(), hashes.SHA256()).public_bytes(Encoding.DER)

    def install(self, chain_der: Sequence[bytes]) -> None:
        """Take the chain issued for the pending key into use; InvalidInputError when it does not fit."""
        key = self._pending_key()
        certified = _certified(key, chain_der)
        self._check(load_certificate(certified.chain_der[0], where="issued certificate"))
        write_private(self.path, key_to_pem(key) + to_pem(certified.chain_der))
        # A crash here leaves the key pending a second time; `_pending_key` notices.
        (self.directory / PENDING_FILE).unlink(missing_ok=True)
        self._current = certified
        self.generation += 1

    def _pending_key(self) -> ec.EllipticCurvePrivateKey:
        path = self.directory / PENDING_FILE
        try:
            key = key_from_pem(read_private(path), where=str(path))
        except NotFoundError:
            key = None
        if key is None or (
            self._current is not None and spki(key.public_key()) == spki(self._current.key.public_key())
        ):
            key = new_key()
            write_private(path, key_to_pem(key))
        return key

    @classmethod
    @abc.abstractmethod
    def _check(cls, certificate: x509.Certificate) -> None:
        """Refuse with InvalidInputError a certificate that is not of this class's kind."""


class LeafIdentity(_KeyedChain):
    """Who a process of ours is: the same for controllers, agents, gateways and DNS processes."""

    @property
    def spiffe_id(self) -> SpiffeId:
        """The identity that the leaf names."""
        return leaf_identity(load_certificate(self.chain_der[0], where=str(self.path)))

    @classmethod
    def _check(cls, certificate: x509.Certificate) -> None:
        try:
            leaf_identity(certificate, "client", "server")
        except BadIdentityError as error:
            raise InvalidInputError(error.message) from error


class IntermediateIdentity(_KeyedChain):
    """The key with which an authority signs, and its certificate."""

    @property
    def trust_domain(self) -> str:
        """The trust domain that the certificate names, the only one it may sign for."""
        return authority_domain(load_certificate(self.chain_der[0], where=str(self.path)))

    @classmethod
    def _check(cls, certificate: x509.Certificate) -> None:
        authority_domain(certificate)


def _certified(key: ec.EllipticCurvePrivateKey, chain_der: Sequence[bytes]) -> Certified:
    """Return key and chain when they belong together; no root judges the chain here."""
    if not 1 <= len(chain_der) <= CHAIN_CERTIFICATES_MAX:
        raise InvalidInputError(
            f"chain has {len(chain_der)} certificates, expected 1 to {CHAIN_CERTIFICATES_MAX}"
        )
    chain = [
        load_certificate(der, where=f"certificate {index} of the chain")
        for index, der in enumerate(chain_der)
    ]
    if spki(p256(chain[0].public_key(), where="certificate")) != spki(key.public_key()):
        raise InvalidInputError("certificate is for another key than the one requested")
    for child, issuer in itertools.pairwise(chain):
        try:
            child.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise InvalidInputError(
                "chain is not in order: a certificate is not signed by the next one"
            ) from error
    return Certified(
        key=key,
        chain_der=tuple(chain_der),
        not_before=chain[0].not_valid_before_utc,
        not_after=min(certificate.not_valid_after_utc for certificate in chain),
    )

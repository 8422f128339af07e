"""Private keys on disk.

Keys of leaves and intermediates lie as plain PKCS#8 in files of mode 0600: they are short-lived
and never leave the machine. A root lives ten years, so its key exists on disk only inside an
envelope: scrypt turns the passphrase into a key, AES-256-GCM seals the PKCS#8, and everything
else in the file, the trust domain first, is authenticated with it.

    {"format": "isthmus-root-1", "trust_domain", "certificate", "work_log2", "salt", "nonce", "sealed"}

Encrypted PKCS#8 itself is not used: as cryptography writes it, it guards a passphrase with 2,048
rounds of PBKDF2 only.
"""

import base64
import binascii
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from msgspec import Struct

from certs.core import spiffe
from certs.core.certificate import load_certificate
from certs.core.issuance import p256, spki
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    AlreadyExistsError,
    BadIdentityError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)

# A key and six certificates of 16 KiB, in PEM.
PRIVATE_FILE_BYTES_MAX = 256 * 1024
PASSPHRASE_BYTES_MIN = 12

# scrypt with N=2**17, r=8, p=1 takes 128 MiB and about a second. The bounds keep a file that
# somebody else wrote from asking for less than a guess is worth, or for more memory than there is.
SCRYPT_WORK_LOG2 = 17
SCRYPT_WORK_LOG2_MIN = 10
SCRYPT_WORK_LOG2_MAX = 20
_SCRYPT_BLOCK = 8
_SCRYPT_LANES = 1
_SALT_BYTES = 16
_NONCE_BYTES = 12
_KEY_BYTES = 32

_FORMAT = "isthmus-root-1"


class RootKey(Struct, frozen=True, kw_only=True):
    """A root as it travels: the trust domain, its key and its self-signed certificate."""

    trust_domain: str
    key: ec.EllipticCurvePrivateKey
    certificate_der: bytes

    def __repr__(self) -> str:
        return f"RootKey({self.trust_domain})"


class _Envelope(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    trust_domain: str
    certificate: str
    work_log2: int
    salt: str
    nonce: str
    sealed: str


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the plain PKCS#8 PEM of `key`."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(pem: bytes, *, where: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key in `pem`; CorruptError names `where`, never the content."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CorruptError(f"{where} holds no readable private key") from error
    return _p256_private(key, where)


def make_private_directory(directory: Path) -> None:
    """Create `directory` with mode 0700; PreconditionError when others can enter it or we cannot."""
    try:
        with usable(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(directory, directory.stat(), "0700")
    except FileExistsError as error:
        raise PreconditionError(f"{directory} cannot be used: it is not a directory") from error


def write_private(path: Path, content: bytes) -> None:
    """Replace the file at `path`, mode 0600, at once or not at all, also over a power cut.

    PreconditionError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    with usable(path):
        temporary.unlink(missing_ok=True)  # left by a crash; O_EXCL below must not follow a planted link
        try:
            _write_new(temporary, content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """Return the content of a file that only its owner may read.

    NotFoundError: there is none. PreconditionError: others may read or write it, or we may not.
    CorruptError: it is too long.
    """
    try:
        with usable(path), path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()), "0600")
            content = file.read(PRIVATE_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    if len(content) > PRIVATE_FILE_BYTES_MAX:
        raise CorruptError(f"{path} has more than {PRIVATE_FILE_BYTES_MAX} bytes")
    return content


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into PreconditionError; whether a file exists stays the caller's matter."""
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise PreconditionError(f"{path} cannot be used: {error.strerror or error}") from error


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def export_root(path: Path, root: RootKey, passphrase: bytes, *, work_log2: int = SCRYPT_WORK_LOG2) -> None:
    """Write the encrypted root to a new file of mode 0600; AlreadyExistsError when there is one."""
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise InvalidInputError(
            f"passphrase has {len(passphrase)} bytes, expected at least {PASSPHRASE_BYTES_MIN}"
        )
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    plain = root.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    associated = _associated(root.trust_domain, root.certificate_der, work_log2)
    sealed = AESGCM(_derive(passphrase, salt, work_log2)).encrypt(nonce, plain, associated)
    envelope = _Envelope(
        format=_FORMAT,
        trust_domain=root.trust_domain,
        certificate=_text(root.certificate_der),
        work_log2=work_log2,
        salt=_text(salt),
        nonce=_text(nonce),
        sealed=_text(sealed),
    )
    try:
        with usable(path):
            _write_new(path, msgspec.json.format(msgspec.json.encode(envelope)) + b"\n")
            sync_directory(path.parent)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{path} exists: a root is never overwritten") from error
    except FileNotFoundError as error:
        raise NotFoundError(f"{path.parent} does not exist: make the directory first") from error


def import_root(path: Path, passphrase: bytes) -> RootKey:
    """Return the root in an encrypted file.

    BadIdentityError: wrong passphrase, or the file was changed (the two look the same).
    CorruptError: the file is not an envelope. NotFoundError, PreconditionError: as `read_private`.
    """
    try:
        envelope = msgspec.json.decode(read_private(path), type=_Envelope)
    except MALFORMED as error:
        raise CorruptError(f"{path} is not an encrypted root: {error}") from error
    if envelope.format != _FORMAT:
        raise CorruptError(f"{path} has format {spiffe.shown(envelope.format)}, expected {_FORMAT}")
    if not SCRYPT_WORK_LOG2_MIN <= envelope.work_log2 <= SCRYPT_WORK_LOG2_MAX:
        raise CorruptError(
            f"{path}: work_log2 is {envelope.work_log2}, expected {SCRYPT_WORK_LOG2_MIN} to {SCRYPT_WORK_LOG2_MAX}"
        )
    try:
        certificate_der = _octets(envelope.certificate)
        salt, nonce, sealed = _octets(envelope.salt), _octets(envelope.nonce), _octets(envelope.sealed)
        associated = _associated(envelope.trust_domain, certificate_der, envelope.work_log2)
        plain = AESGCM(_derive(passphrase, salt, envelope.work_log2)).decrypt(nonce, sealed, associated)
    except InvalidTag as error:
        raise BadIdentityError(f"{path} does not open: wrong passphrase, or the file was changed") from error
    except (ValueError, binascii.Error) as error:
        raise CorruptError(f"{path} is not an encrypted root: {error}") from error
    key = _p256_private(load_der_private_key(plain, password=None), str(path))
    certificate = load_certificate(certificate_der, where=f"root certificate in {path}")
    if spki(p256(certificate.public_key(), where=f"root certificate in {path}")) != spki(key.public_key()):
        raise CorruptError(f"{path}: the certificate is not that of the key")
    return RootKey(trust_domain=envelope.trust_domain, key=key, certificate_der=certificate_der)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask says
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()  # half a key file is worth nothing; the first error is the one to report
        raise


def _check_private(path: Path, status: os.stat_result, mode: str) -> None:
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise PreconditionError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, expected {mode}:"
            " others could take the private key, so replace the key, or run chmod go= if nobody did"
        )


def _derive(passphrase: bytes, salt: bytes, work_log2: int) -> bytes:
    scrypt = Scrypt(salt=salt, length=_KEY_BYTES, n=2**work_log2, r=_SCRYPT_BLOCK, p=_SCRYPT_LANES)
    return scrypt.derive(passphrase)


def _associated(trust_domain: str, certificate_der: bytes, work_log2: int) -> bytes:
    return msgspec.msgpack.encode((_FORMAT, trust_domain, certificate_der, work_log2))


def _p256_private(key: object, where: str) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CorruptError(f"{where} holds a private key that is not P-256")
    return key


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _octets(text: str) -> bytes:
    return base64.b64decode(text, validate=True)

"""Join tokens: what an operator carries to a new process so that both sides can trust each other.

    isthmus1.BASE64URL(payload || first 6 bytes of SHA-256(payload))      payload: MessagePack map

The token names where the API is, the pin by which the new process knows it, and a secret that the
API knows by its hash only. The checksum finds copying errors; it protects nothing.
"""

import base64
import binascii
import hashlib
import re
from typing import Literal

import msgspec
from msgspec import Struct

from certs.core.spiffe import shown, trust_domain
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError

TOKEN_CHARACTERS_MAX = 4096
SECRET_BYTES = 32
ENDPOINTS_MAX = 16

_VERSION = "1"
_CHECKSUM_BYTES = 6
_TOKEN = re.compile(r"isthmus([0-9]{1,4})\.(.*)", re.DOTALL)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PIN = re.compile(r"[0-9a-f]{64}")
_HOST_PORT = re.compile(r"(?:\[[0-9a-f:.]{2,45}\]|[a-zA-Z0-9._-]{1,253}):([0-9]{1,5})")
_PORT_MAX = 65_535


class JoinToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token says; an invalid one cannot be built: InvalidInputError.

    `pin` is the hexadecimal SHA-256 of the SubjectPublicKeyInfo of the root of `trust_domain`.
    """

    purpose: Literal["cluster", "agent", "gateway", "dns", "controller"]
    secret: bytes
    federation: str
    cluster: str
    endpoints: tuple[str, ...]
    pin: str
    trust_domain: str

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise InvalidInputError(f"token: secret has {len(self.secret)} bytes, expected {SECRET_BYTES}")
        for name, value in (("federation", self.federation), ("cluster", self.cluster)):
            if _LABEL.fullmatch(value) is None:
                raise InvalidInputError(f"token: {name} {shown(value)} is not a DNS label")
        if not 1 <= len(self.endpoints) <= ENDPOINTS_MAX:
            raise InvalidInputError(f"token: {len(self.endpoints)} endpoints, expected 1 to {ENDPOINTS_MAX}")
        for endpoint in self.endpoints:
            match = _HOST_PORT.fullmatch(endpoint)
            if match is None or not 1 <= int(match[1]) <= _PORT_MAX:
                raise InvalidInputError(f"token: endpoint {shown(endpoint)} is not host:port")
        if _PIN.fullmatch(self.pin) is None:
            raise InvalidInputError(
                f"token: pin {shown(self.pin)} is not a SHA-256 in lower case hexadecimal"
            )
        trust_domain(self.trust_domain)

    def __repr__(self) -> str:
        """Leave the secret out, so that no log shows it."""
        return f"JoinToken({self.purpose} of {self.cluster} in {self.federation}, {token_hash(self.secret)[:12]})"


def format_token(token: JoinToken) -> str:
    """Return the text form."""
    payload = msgspec.msgpack.encode(token)
    text = base64.urlsafe_b64encode(payload + _checksum(payload)).rstrip(b"=").decode()
    return f"isthmus{_VERSION}.{text}"


def parse_token(text: str) -> JoinToken:
    """Return the token that `text` spells, otherwise InvalidInputError; messages never quote it."""
    text = text.strip()
    if len(text) > TOKEN_CHARACTERS_MAX:
        raise InvalidInputError(f"token has {len(text)} characters, more than {TOKEN_CHARACTERS_MAX}")
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise InvalidInputError(
            f"this is not a join token: expected text that begins with isthmus{_VERSION}."
        )
    if match[1] != _VERSION:
        raise InvalidInputError(f"token is of version {match[1]}, this program reads version {_VERSION}")
    try:
        raw = base64.b64decode(match[2] + "=" * (-len(match[2]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError("token is damaged or cut off: it is not base64url text") from error
    payload, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if checksum != _checksum(payload):
        raise InvalidInputError("token is damaged or cut off: its checksum does not match")
    try:
        return msgspec.msgpack.decode(payload, type=JoinToken)
    except MALFORMED as error:
        raise InvalidInputError(f"token has a wrong content: {error}") from error


def token_hash(secret: bytes) -> str:
    """Return by what the federation knows a token: the hexadecimal SHA-256 of its secret."""
    return hashlib.sha256(secret).hexdigest()


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECKSUM_BYTES]

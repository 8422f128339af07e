"""The public keys of a trust domain, and their exchange form, the SPIFFE bundle.

Source: SPIFFE Trust Domain and Bundle, sections 4 and 5; X509-SVID section 6. Bundles are kept as
a map from trust domain to bundle and are never merged (invariant S1).
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec import Struct

from certs.core.certificate import load_certificate, to_pem
from certs.core.spiffe import shown, trust_domain
from federation.kernel.errors import InvalidInputError

BUNDLE_BYTES_MAX = 1024 * 1024
BUNDLE_KEYS_MAX = 256
ROOTS_MAX = 32
SEQUENCE_MAX = 2**63 - 1
REFRESH_HINT_DEFAULT_S = 300
REFRESH_HINT_MAX_S = 30 * 86_400

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


class TrustBundle(Struct, frozen=True, kw_only=True):
    """The roots of one trust domain, DER, each a CA certificate.

    No roots means that every identity of the domain is revoked: nothing falls back to an older
    bundle. `sequence` grows with every change of content.
    """

    trust_domain: str
    roots: tuple[bytes, ...]
    sequence: int = 0
    refresh_hint_s: int = REFRESH_HINT_DEFAULT_S

    def pem(self) -> bytes:
        """Return the roots as PEM."""
        return to_pem(self.roots)


Bundles = Mapping[str, TrustBundle]


def make_bundle(name: str, roots: Iterable[bytes], *, sequence: int = 0) -> TrustBundle:
    """Return the checked bundle of trust domain `name`: every root must be a CA certificate."""
    return TrustBundle(trust_domain=trust_domain(name), roots=_checked_roots(name, roots), sequence=sequence)


def pooled_pem(bundles: Bundles) -> bytes:
    """Return every root of every domain: only to finish a handshake whose peer is then verified."""
    return b"".join(bundles[name].pem() for name in sorted(bundles))


def to_jwks(bundle: TrustBundle) -> bytes:
    """Return the SPIFFE bundle document; byte-equal for equal bundles."""
    document = {
        "keys": [_to_jwk(root) for root in bundle.roots],
        "spiffe_refresh_hint": bundle.refresh_hint_s,
        "spiffe_sequence": bundle.sequence,
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def from_jwks(name: str, document: bytes) -> TrustBundle:
    """Return the bundle of trust domain `name` that a SPIFFE bundle document holds.

    Elements of an unknown kind or use, or without a certificate, are ignored, as the standard
    says; a certificate that cannot be read, or a name that occurs twice in an object, refuses the
    whole document with InvalidInputError: half a bundle would silently drop trust.
    """
    where = f"bundle of {trust_domain(name)}"
    fields = _object(document, where)
    keys = fields.get("keys")
    if not isinstance(keys, list):
        raise InvalidInputError(f"{where} has no list named keys")
    if len(keys) > BUNDLE_KEYS_MAX:
        raise InvalidInputError(f"{where} has {len(keys)} keys, more than {BUNDLE_KEYS_MAX}")
    roots = [
        root for index, key in enumerate(keys) if (root := _root_of(key, f"{where}, key {index}")) is not None
    ]
    return TrustBundle(
        trust_domain=name,
        roots=_checked_roots(name, roots),
        sequence=_integer(fields, "spiffe_sequence", default=0, maximum=SEQUENCE_MAX, where=where),
        refresh_hint_s=_integer(
            fields,
            "spiffe_refresh_hint",
            default=REFRESH_HINT_DEFAULT_S,
            maximum=REFRESH_HINT_MAX_S,
            where=where,
        ),
    )


def _checked_roots(name: str, roots: Iterable[bytes]) -> tuple[bytes, ...]:
    unique = tuple(dict.fromkeys(roots))
    if len(unique) > ROOTS_MAX:
        raise InvalidInputError(f"bundle of {name} has {len(unique)} roots, more than {ROOTS_MAX}")
    for index, der in enumerate(unique):
        where = f"bundle of {name}, root {index}"
        certificate = load_certificate(der, where=where)
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        if constraints is None or not constraints.ca:
            raise InvalidInputError(f"{where} is not a certificate authority's certificate")
    return unique


def _object(document: bytes, where: str) -> dict[str, object]:
    """Return the JSON object; `json` alone would keep the last of two equal names."""
    if len(document) > BUNDLE_BYTES_MAX:
        raise InvalidInputError(f"{where} has {len(document)} bytes, more than {BUNDLE_BYTES_MAX}")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise InvalidInputError(f"{where} has an object with the same name twice")
        return fields

    try:
        fields = json.loads(document, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidInputError(f"{where} is not a JSON object")
    return fields


def _root_of(key: object, where: str) -> bytes | None:
    if not isinstance(key, dict):
        raise InvalidInputError(f"{where} is not a JSON object")
    if key.get("use") != "x509-svid" or key.get("kty") not in ("EC", "RSA"):
        return None
    chain = key.get("x5c")
    if not isinstance(chain, list) or not chain:
        return None
    if not isinstance(chain[0], str):
        raise InvalidInputError(f"{where}: x5c holds {type(chain[0]).__name__}, expected base64 text")
    try:
        return base64.b64decode(chain[0], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"{where}: x5c {shown(chain[0])} is not base64") from error


def _integer(fields: dict[str, object], name: str, *, default: int, maximum: int, where: str) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise InvalidInputError(
            f"{where}: {name} is {shown(repr(value))}, expected an integer from 0 to {maximum}"
        )
    return value


def _to_jwk(root: bytes) -> dict[str, object]:
    key = load_certificate(root, where="root").public_key()
    common: dict[str, object] = {"use": "x509-svid", "x5c": [base64.b64encode(root).decode()]}
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        size = (key.curve.key_size + 7) // 8
        numbers = key.public_numbers()
        point = {"x": _base64url(numbers.x, size), "y": _base64url(numbers.y, size)}
        return {**common, "kty": "EC", "crv": _CURVES[key.curve.name], **point}
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        return {**common, "kty": "RSA", "n": _base64url(public.n), "e": _base64url(public.e)}
    raise InvalidInputError("root has a kind of key that a bundle cannot carry: expected RSA or a NIST curve")


def _base64url(number: int, size: int | None = None) -> str:
    octets = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()

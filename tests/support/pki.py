"""Trust domains for tests: honest ones, and the forgeries that a dishonest one could make.

alpha = TestDomain("alpha.example", tmp_path)
agent = alpha.leaf("/isthmus/alpha/agent/a1")          a LeafIdentity on disk
bundles = bundles_of(alpha, beta)
forged = alpha.forge(uris=["spiffe://beta.example/ns/x/sa/y"])   signed by alpha, says beta
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from msgspec import Struct

from certs.core.bundle import TrustBundle
from certs.core.certificate import to_pem
from certs.core.issuance import LEAF_TTL, controller_dns_names
from certs.core.spiffe import SpiffeId, parse, system_id
from certs.runtime.authority import Authority, RootAuthority
from certs.runtime.identity import IdentityPem, LeafIdentity
from certs.runtime.keystore import key_to_pem, new_key

CLIENT_AND_SERVER = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


class Forged(Struct, frozen=True, kw_only=True):
    """A key and chain that no honest authority would sign; `pem` feeds gRPC, files and Envoy."""

    key: ec.EllipticCurvePrivateKey
    chain_der: tuple[bytes, ...]

    def pem(self) -> IdentityPem:
        return IdentityPem(key=key_to_pem(self.key), chain=to_pem(self.chain_der))

    def write(self, path: Path) -> Path:
        """Write key and chain into one PEM file, as `ssl` loads it."""
        pem = self.pem()
        path.write_bytes(pem.key + pem.chain)
        path.chmod(0o600)
        return path


class TestDomain:
    """A root, one intermediate with its authority, and leaves, below one directory."""

    __test__ = False  # not a class of tests, whatever its name says to pytest

    def __init__(self, trust_domain: str, directory: Path) -> None:
        self.trust_domain = trust_domain
        self.directory = directory / trust_domain
        self.root = RootAuthority.create(trust_domain)
        self.authority = Authority.open(self.directory / "authority")
        self.authority.enroll(self.root)
        self._leaves = 0

    @property
    def bundle(self) -> TrustBundle:
        return self.root.bundle()

    @property
    def bundles(self) -> dict[str, TrustBundle]:
        """Only this domain's."""
        return {self.trust_domain: self.bundle}

    def leaf(self, identity: SpiffeId | str, *, ttl: timedelta = LEAF_TTL) -> LeafIdentity:
        """Return a new honest leaf; `identity` may be a path. Controllers get their DNS names."""
        spiffe_id = (
            parse(f"spiffe://{self.trust_domain}{identity}") if isinstance(identity, str) else identity
        )
        self._leaves += 1
        leaf = LeafIdentity.load(self.directory / f"leaf-{self._leaves}")
        self.renew(leaf, spiffe_id, ttl=ttl)
        return leaf

    def renew(self, leaf: LeafIdentity, spiffe_id: SpiffeId, *, ttl: timedelta = LEAF_TTL) -> None:
        """Install a fresh certificate and key."""
        dns = controller_dns_names(spiffe_id)
        leaf.install(self.authority.sign_leaf(leaf.create_csr(), spiffe_id, ttl, dns).chain_der)

    def controller(self, cluster: str, controller: str = "c1") -> LeafIdentity:
        return self.leaf(system_id(self.trust_domain, cluster, "controller", controller))

    def agent(self, cluster: str, agent: str = "a1") -> LeafIdentity:
        return self.leaf(system_id(self.trust_domain, cluster, "agent", agent))

    def forge(
        self,
        *,
        uris: Sequence[str] = (),
        dns: Sequence[str] = (),
        other_names: Sequence[x509.GeneralName] = (),
        usages: Sequence[x509.ObjectIdentifier] = CLIENT_AND_SERVER,
        is_authority: bool = False,
        signs_certificates: bool = False,
        signs_data: bool = True,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Forged:
        """Sign with this domain's own intermediate whatever the arguments say."""
        key = new_key()
        current = self.authority.intermediate.current
        leaf = sign(
            key.public_key(),
            issuer=x509.load_der_x509_certificate(current.chain_der[0]),
            issuer_key=current.key,
            names=[
                *(x509.UniformResourceIdentifier(uri) for uri in uris),
                *(x509.DNSName(name) for name in dns),
                *other_names,
            ],
            usages=usages,
            is_authority=is_authority,
            signs_certificates=signs_certificates,
            signs_data=signs_data,
            not_before=not_before,
            not_after=not_after,
        )
        return Forged(key=key, chain_der=(leaf, *current.chain_der))

    def long_chain(self, uri: str, intermediates: int) -> Forged:
        """Return a leaf under this many intermediates, each signed by the one before, the first by the root."""
        issuer_key, issuer = self.root._root.key, x509.load_der_x509_certificate(self.root.certificate_der)
        above: list[bytes] = []
        for _ in range(intermediates):
            key = new_key()
            name = x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")
            der = sign(
                key.public_key(),
                issuer=issuer,
                issuer_key=issuer_key,
                names=[name],
                usages=(),
                is_authority=True,
                signs_certificates=True,
                signs_data=False,
            )
            above.insert(0, der)
            issuer_key, issuer = key, x509.load_der_x509_certificate(der)
        key = new_key()
        leaf = sign(
            key.public_key(),
            issuer=issuer,
            issuer_key=issuer_key,
            names=[x509.UniformResourceIdentifier(uri)],
        )
        return Forged(key=key, chain_der=(leaf, *above))


def bundles_of(*domains: TestDomain) -> dict[str, TrustBundle]:
    """Return what a process that has federated with all of them knows."""
    return {domain.trust_domain: domain.bundle for domain in domains}


def sign(
    key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier] = CLIENT_AND_SERVER,
    is_authority: bool = False,
    signs_certificates: bool = False,
    signs_data: bool = True,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> bytes:
    """Return a certificate (DER) without asking whether it makes sense."""
    now = datetime.now(UTC)
    common_name = x509.NameAttribute(
        x509.NameOID.COMMON_NAME, x509.random_serial_number().to_bytes(20, "big").hex()
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([common_name] if is_authority else []))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - timedelta(minutes=1))
        .not_valid_after(not_after or now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(key_usage(signs_data=signs_data, signs_certificates=signs_certificates), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issuer_key_identifier(issuer), critical=False)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=not is_authority)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


def key_usage(*, signs_data: bool, signs_certificates: bool) -> x509.KeyUsage:
    others: dict[str, Any] = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(
        digital_signature=signs_data, key_cert_sign=signs_certificates, crl_sign=signs_certificates, **others
    )


def request(key: Any, *, names: Sequence[x509.GeneralName] = (), subject: str = "") -> bytes:
    """Return a certificate request (DER) for any kind of key, asking for anything."""
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    algorithm = None if type(key).__name__.startswith("Ed") else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def _issuer_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    key = issuer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)

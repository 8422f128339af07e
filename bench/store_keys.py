"""TLS for the stores under comparison: one authority, one certificate that all of them and the writer carry."""

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "leaf.pem", "leaf.key"
_TTL = timedelta(hours=1)
# etcd's members check that a peer's certificate names the address that it dials from, which on loopback is this one.
_DIALLING_HOST = "127.0.0.1"


def write_keys(directory: Path, hosts: Iterable[str]) -> None:
    """Write an authority's certificate and a leaf for all `hosts` (IP addresses), for servers and clients."""
    directory.mkdir(parents=True)
    ca_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, leaf_name = _name("bench authority"), _name("bench member")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address(host)) for host in (*hosts, _DIALLING_HOST)]
    )
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    leaf = (
        _builder(leaf_name, ca_name, leaf_key.public_key())
        .add_extension(names, critical=False)
        .add_extension(uses, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (directory / CA_FILE).write_bytes(ca.public_bytes(Encoding.PEM))
    (directory / CERTIFICATE_FILE).write_bytes(leaf.public_bytes(Encoding.PEM))
    private = directory / KEY_FILE
    private.touch(mode=0o600)
    private.write_bytes(leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def server_credentials(directory: Path) -> grpc.ServerCredentials:
    """Return credentials that demand a certificate of the same authority."""
    ca, leaf, key = _read(directory)
    return grpc.ssl_server_credentials([(key, leaf)], ca, require_client_auth=True)


def client_credentials(directory: Path) -> grpc.ChannelCredentials:
    """Return the writer's credentials."""
    ca, leaf, key = _read(directory)
    return grpc.ssl_channel_credentials(ca, key, leaf)


def _read(directory: Path) -> tuple[bytes, bytes, bytes]:
    ca, leaf, key = (directory / name for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE))
    return ca.read_bytes(), leaf.read_bytes(), key.read_bytes()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + _TTL)
    )

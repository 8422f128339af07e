"""A throwaway CA and the TransportSecurity that trusts it."""

import datetime
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.kernel.errors import BadIdentityError

DAY = datetime.timedelta(days=1)


class TestCa:
    """Issues leaves with one URI SAN into `directory`."""

    __test__ = False

    def __init__(self, directory: Path, name: str = "test") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._root = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=1), None)
        (directory / "root.pem").write_bytes(self._root.public_bytes(serialization.Encoding.PEM))

    def security(self, identity: str | None) -> "FileSecurity":
        """Issue a leaf for `identity`; None: without any name that counts."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        leaf = self._sign(subject, key, x509.BasicConstraints(ca=False, path_length=None), identity)
        path = self._directory / f"{leaf.serial_number}.pem"
        path.write_bytes(
            leaf.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return FileSecurity(path, self._directory / "root.pem")

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
        uri: str | None,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(constraints, critical=True)
        )
        if uri is not None:
            san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
            builder = builder.add_extension(san, critical=False)
        return builder.sign(self._key, hashes.SHA256())


class FileSecurity:
    """Contexts from files; the identity is the only URI SAN of the verified leaf."""

    def __init__(self, leaf: Path, root: Path) -> None:
        self.leaf = leaf
        self.root = root

    def server_context(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client_context(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def verify(self, peer_chain_der: Sequence[bytes]) -> str:
        if not peer_chain_der:
            raise BadIdentityError("peer sent no certificate")
        leaf = x509.load_der_x509_certificate(peer_chain_der[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise BadIdentityError(f"certificate has {len(uris)} URIs, expected one")
        return uris[0]

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.leaf)
        context.load_verify_locations(self.root)
        return context

"""What authorities sign, refuse and record."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.core.issuance import CONTROLLER_DNS_NAME, INTERMEDIATE_TTL, LEAF_TTL, csr_public_key, spki
from certs.core.spiffe import SpiffeId, system_id, workload_id
from certs.core.verifier import verify_chain
from certs.runtime.authority import ISSUANCE_FILE, Authority, RootAuthority
from certs.runtime.identity import LeafIdentity
from certs.runtime.issuancelog import RECORD_BYTES_MAX, IssuanceLog, IssuanceRecord, read_records
from certs.runtime.keystore import new_key
from federation.kernel.errors import (
    AlreadyExistsError,
    CorruptError,
    InvalidInputError,
    IsthmusError,
    NotAllowedError,
    PreconditionError,
    UnavailableError,
)
from tests.support.pki import TestDomain, request

TD = "alpha.example"
CART = workload_id(TD, "shop", "cart")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(clock: Clock) -> RootAuthority:
    return RootAuthority.create(TD, clock=clock)


@pytest.fixture
def authority(root: RootAuthority, clock: Clock, tmp_path: Path) -> Authority:
    authority = Authority.open(tmp_path / "authority", clock=clock)
    authority.enroll(root)
    return authority


def csr() -> bytes:
    return request(new_key())


def test_a_leaf_is_what_the_standard_asks(authority: Authority) -> None:
    key = new_key()
    issued = authority.sign_leaf(request(key), CART)
    leaf = x509.load_der_x509_certificate(issued.chain_der[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert [*names.value] == [x509.UniformResourceIdentifier(str(CART))]
    assert names.critical
    assert len(leaf.subject) == 0
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign) == (
        True,
        False,
        False,
    )
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    assert leaf.public_key() == key.public_key()
    assert leaf.not_valid_before_utc == NOW - timedelta(seconds=60)
    assert leaf.not_valid_after_utc == NOW + LEAF_TTL == issued.not_after
    assert issued.serial == f"{leaf.serial_number:x}"


def test_authorities_are_what_the_standard_asks(authority: Authority, root: RootAuthority) -> None:
    for der, path_length in [(root.certificate_der, None), (authority.intermediate.chain_der[0], 0)]:
        certificate = x509.load_der_x509_certificate(der)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, path_length)
        assert [*names] == [x509.UniformResourceIdentifier(f"spiffe://{TD}")]
        assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature


def test_what_is_signed_is_what_the_verifier_believes(authority: Authority, root: RootAuthority) -> None:
    issued = authority.sign_leaf(csr(), CART)
    assert verify_chain(issued.chain_der, {TD: root.bundle()}, NOW, purpose="client") == CART


def test_names_in_the_request_are_ignored(authority: Authority) -> None:
    key = new_key()
    greedy = request(
        key,
        subject="root",
        names=[x509.UniformResourceIdentifier(f"spiffe://{TD}/admin"), x509.DNSName("bank.example")],
    )
    leaf = x509.load_der_x509_certificate(authority.sign_leaf(greedy, CART).chain_der[0])
    assert [*leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value] == [
        x509.UniformResourceIdentifier(str(CART))
    ]
    assert len(leaf.subject) == 0


def test_an_authority_signs_for_its_own_domain_only(authority: Authority) -> None:
    with pytest.raises(NotAllowedError, match=r"beta\.example"):
        authority.sign_leaf(csr(), workload_id("beta.example", "shop", "cart"))


def test_a_dns_name_that_is_not_the_identitys_own_is_refused(authority: Authority) -> None:
    with pytest.raises(NotAllowedError, match="may not carry"):
        authority.sign_leaf(csr(), CART, dns=(CONTROLLER_DNS_NAME,))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        pytest.param((request(ec.generate_private_key(ec.SECP384R1())), CART), InvalidInputError, id="p-384"),
        pytest.param((b"junk", CART), InvalidInputError, id="garbage"),
        pytest.param((csr(), SpiffeId(trust_domain=TD)), InvalidInputError, id="whole-domain"),
        pytest.param((csr(), CART, timedelta(days=2)), InvalidInputError, id="too-long"),
        pytest.param((csr(), CART, timedelta(0)), InvalidInputError, id="no-time"),
    ],
)
def test_a_refused_request_leaves_no_record(
    authority: Authority, tmp_path: Path, arguments: tuple[bytes, SpiffeId], kind: type[IsthmusError]
) -> None:
    with pytest.raises(kind):
        authority.sign_leaf(*arguments)
    assert read_records(tmp_path / "authority" / ISSUANCE_FILE) == []


def test_a_leaf_never_outlives_its_issuer(authority: Authority, clock: Clock) -> None:
    clock.now = NOW + INTERMEDIATE_TTL - timedelta(hours=1)
    assert authority.sign_leaf(csr(), CART).not_after == NOW + INTERMEDIATE_TTL
    clock.now = NOW + INTERMEDIATE_TTL
    with pytest.raises(PreconditionError, match="expired at"):
        authority.sign_leaf(csr(), CART)


def test_an_intermediate_never_outlives_its_root(root: RootAuthority, clock: Clock) -> None:
    ends = root.bundle().roots[0]
    root_ends = x509.load_der_x509_certificate(ends).not_valid_after_utc
    clock.now = root_ends - timedelta(days=1)
    signed = x509.load_der_x509_certificate(root.sign_intermediate(spki(new_key().public_key())))
    assert signed.not_valid_after_utc == root_ends
    clock.now = root_ends
    with pytest.raises(PreconditionError, match="expired at"):
        root.sign_intermediate(spki(new_key().public_key()))


@pytest.mark.parametrize("public_key", [b"", b"junk", csr()])
def test_an_intermediate_needs_a_public_key(root: RootAuthority, public_key: bytes) -> None:
    with pytest.raises(InvalidInputError, match="public key"):
        root.sign_intermediate(public_key)


def test_an_authority_without_certificate_signs_nothing(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="holds no certificate"):
        Authority.open(tmp_path / "authority").sign_leaf(csr(), CART)


def test_a_renewed_intermediate_signs_with_its_new_key(authority: Authority, root: RootAuthority) -> None:
    before = authority.sign_leaf(csr(), CART)
    authority.enroll(root)
    after = authority.sign_leaf(csr(), CART)
    assert before.chain_der[1] != after.chain_der[1]
    for issued in (before, after):
        assert verify_chain(issued.chain_der, {TD: root.bundle()}, NOW, purpose="server") == CART


def test_a_controller_certifies_itself_with_its_dns_names(authority: Authority, tmp_path: Path) -> None:
    identity = LeafIdentity.load(tmp_path / "leaf")
    own = system_id(TD, "alpha", "controller", "c1")
    authority.issue_own_leaf(identity, own)
    leaf = x509.load_der_x509_certificate(identity.chain_der[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert identity.spiffe_id == own
    assert names.get_values_for_type(x509.DNSName) == [CONTROLLER_DNS_NAME, f"c1.alpha.{CONTROLLER_DNS_NAME}"]


def test_the_record_says_what_was_signed(authority: Authority, tmp_path: Path) -> None:
    issued = authority.sign_leaf(csr(), CART)
    (record,) = read_records(tmp_path / "authority" / ISSUANCE_FILE)
    assert (record.subject, record.serial, record.issued_at) == (str(CART), issued.serial, NOW)
    assert (record.not_before, record.not_after) == (issued.not_before, issued.not_after)
    issuer = x509.load_der_x509_certificate(issued.chain_der[1])
    assert record.issuer_serial == f"{issuer.serial_number:x}"


class WatchedLog(IssuanceLog):
    """Notes how many records the file holds at each sync; fails when told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path
        self.at_sync: list[int] = []
        self.fails = False

    def _sync(self) -> None:
        if self.fails:
            raise OSError(5, "input/output error")
        super()._sync()
        self.at_sync.append(len(read_records(self.path)))


def test_no_certificate_leaves_before_its_record_is_on_disk(
    authority: Authority, clock: Clock, tmp_path: Path
) -> None:
    log = WatchedLog(tmp_path / "watched.jsonl")
    watched = Authority(authority.intermediate, log, clock=clock)
    for count in (1, 2, 3):
        watched.sign_leaf(csr(), CART)
        assert log.at_sync == list(range(1, count + 1))


def test_when_the_disk_fails_nothing_is_released_until_a_restart(
    authority: Authority, clock: Clock, tmp_path: Path
) -> None:
    log = WatchedLog(tmp_path / "watched.jsonl")
    watched = Authority(authority.intermediate, log, clock=clock)
    log.fails = True
    with pytest.raises(UnavailableError, match="input/output error"):
        watched.sign_leaf(csr(), CART)
    log.fails = False
    with pytest.raises(UnavailableError, match="restart"):
        watched.sign_leaf(csr(), CART)


def test_threads_sign_at_once_and_every_record_is_whole(authority: Authority, tmp_path: Path) -> None:
    serials: list[str] = []

    def sign() -> None:
        serials.extend(authority.sign_leaf(csr(), CART).serial for _ in range(10))

    threads = [threading.Thread(target=sign) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = read_records(tmp_path / "authority" / ISSUANCE_FILE)
    assert len(serials) == 40
    assert {record.serial for record in records} == set(serials)


RECORD = IssuanceRecord(
    issued_at=NOW, serial="1", subject=str(CART), dns=(), spki_sha256="00", certificate_sha256="00",
    issuer_serial="2", not_before=NOW, not_after=NOW,
)  # fmt: skip


@pytest.mark.parametrize("torn", [b"{", b'{"issued_at":', msgspec.json.encode(RECORD)])
def test_a_record_torn_by_a_crash_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / ISSUANCE_FILE
    log = IssuanceLog(path)
    log.append(RECORD)
    log.close()
    with path.open("ab") as file:
        file.write(torn)
    log = IssuanceLog(path)
    log.append(RECORD)
    log.close()
    assert read_records(path) == [RECORD, RECORD]


@pytest.mark.parametrize("content", [b"junk\n", b"{}\n", b"x" * (3 * RECORD_BYTES_MAX)])
def test_a_log_that_cannot_be_read_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ISSUANCE_FILE
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=ISSUANCE_FILE):
        IssuanceLog(path)
    assert path.read_bytes() == content


def test_a_long_log_opens_by_its_end(tmp_path: Path) -> None:
    path = tmp_path / ISSUANCE_FILE
    path.write_bytes((msgspec.json.encode(RECORD) + b"\n") * 500)
    log = IssuanceLog(path)
    log.append(RECORD)
    log.close()
    assert len(read_records(path)) == 501


def test_a_root_is_saved_once_and_opened_with_its_passphrase(tmp_path: Path) -> None:
    root = RootAuthority.create(TD)
    root.save(tmp_path / "root", b"a passphrase of a good length")
    opened = RootAuthority.open(tmp_path / "root", b"a passphrase of a good length")
    assert opened.certificate_der == root.certificate_der
    key = new_key()
    certificate = opened.sign_intermediate(csr_public_key(request(key)))
    x509.load_der_x509_certificate(certificate).verify_directly_issued_by(
        x509.load_der_x509_certificate(root.certificate_der)
    )
    with pytest.raises(AlreadyExistsError):
        RootAuthority.create(TD).save(tmp_path / "root", b"a passphrase of a good length")


def test_a_root_proves_itself_by_a_message(root: RootAuthority) -> None:
    key = x509.load_der_x509_certificate(root.certificate_der).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(root.sign(b"label: hello"), b"label: hello", ec.ECDSA(hashes.SHA256()))


def test_a_root_signs_no_message_that_could_be_a_certificate(root: RootAuthority) -> None:
    inside = x509.load_der_x509_certificate(root.certificate_der).tbs_certificate_bytes
    for message in (inside, b"\x30", b""):
        with pytest.raises(InvalidInputError, match="never DER"):
            root.sign(message)


def test_a_domain_has_a_legal_name() -> None:
    with pytest.raises(InvalidInputError, match="not a trust domain"):
        RootAuthority.create("Alpha")


def test_a_later_test_domain_is_a_stranger(alpha: TestDomain) -> None:
    """Two roots of one name share nothing: the name alone vouches for nobody."""
    stranger = RootAuthority.create(alpha.trust_domain)
    with pytest.raises(IsthmusError, match="no valid path"):
        verify_chain(
            alpha.leaf("/x").chain_der,
            {alpha.trust_domain: stranger.bundle()},
            datetime.now(UTC),
            purpose="client",
        )

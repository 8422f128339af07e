"""Keys and certificates of a process over restarts and crashes."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certs.core.issuance import csr_public_key, spki
from certs.core.spiffe import workload_id
from certs.runtime.identity import IDENTITY_FILE, PENDING_FILE, IntermediateIdentity, LeafIdentity
from federation.kernel.errors import CorruptError, InvalidInputError, PreconditionError
from tests.support.pki import TestDomain

CART = workload_id("alpha.example", "shop", "cart")


def enrolled(alpha: TestDomain, directory: Path) -> LeafIdentity:
    identity = LeafIdentity.load(directory)
    identity.install(alpha.authority.sign_leaf(identity.create_csr(), CART).chain_der)
    return identity


def test_an_identity_survives_a_restart(alpha: TestDomain, tmp_path: Path) -> None:
    before = enrolled(alpha, tmp_path / "id")
    after = LeafIdentity.load(tmp_path / "id")
    assert after.installed
    assert after.spiffe_id == CART
    assert after.pem() == before.pem()
    assert after.not_after == before.not_after
    assert after.renew_at - after.current.not_before == (after.not_after - after.current.not_before) / 2


def test_files_are_for_their_owner_only(alpha: TestDomain, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        identity = enrolled(alpha, tmp_path / "id")
        identity.create_csr()
    finally:
        os.umask(before)
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "id").iterdir()} == {
        IDENTITY_FILE: 0o600,
        PENDING_FILE: 0o600,
    }


def test_before_enrollment_there_is_no_identity(tmp_path: Path) -> None:
    identity = LeafIdentity.load(tmp_path / "id")
    assert not identity.installed
    with pytest.raises(PreconditionError, match="not enrolled"):
        identity.pem()


def test_a_request_repeated_after_a_crash_names_the_same_key(tmp_path: Path) -> None:
    first = csr_public_key(LeafIdentity.load(tmp_path / "id").create_csr())
    assert csr_public_key(LeafIdentity.load(tmp_path / "id").create_csr()) == first


def test_every_renewal_makes_a_new_key(alpha: TestDomain, tmp_path: Path) -> None:
    identity = enrolled(alpha, tmp_path / "id")
    old = identity.pem()
    generation = identity.generation
    identity.install(alpha.authority.sign_leaf(identity.create_csr(), CART).chain_der)
    assert identity.pem().key != old.key
    assert identity.generation == generation + 1


def test_a_crash_between_install_and_clean_up_does_not_reuse_the_key(
    alpha: TestDomain, tmp_path: Path
) -> None:
    identity = LeafIdentity.load(tmp_path / "id")
    identity.create_csr()
    pending = (tmp_path / "id" / PENDING_FILE).read_bytes()
    identity.install(alpha.authority.sign_leaf(identity.create_csr(), CART).chain_der)
    (tmp_path / "id" / PENDING_FILE).write_bytes(pending)
    (tmp_path / "id" / PENDING_FILE).chmod(0o600)
    after = LeafIdentity.load(tmp_path / "id")
    assert after.spiffe_id == CART
    assert csr_public_key(after.create_csr()) != spki(after.current.key.public_key())


def test_a_request_says_nothing_but_its_key(tmp_path: Path) -> None:
    request = x509.load_der_x509_csr(LeafIdentity.load(tmp_path / "id").create_csr())
    assert len(request.subject) == 0
    assert len(request.extensions) == 0


def test_a_certificate_that_does_not_fit_changes_nothing(alpha: TestDomain, tmp_path: Path) -> None:
    identity = enrolled(alpha, tmp_path / "id")
    before = identity.pem()
    own = alpha.authority.sign_leaf(identity.create_csr(), CART).chain_der
    for chain, reason in [
        (alpha.leaf("/other").chain_der, "another key"),
        ((own[0], alpha.root.certificate_der), "not in order"),
        ((), "chain has 0 certificates"),
        ((b"junk",), "not a certificate"),
        (own * 4, "chain has 8 certificates"),
    ]:
        with pytest.raises(InvalidInputError, match=reason):
            identity.install(chain)
    assert identity.pem() == before
    assert LeafIdentity.load(tmp_path / "id").pem() == before


def test_an_intermediate_is_no_leaf_and_a_leaf_no_intermediate(alpha: TestDomain, tmp_path: Path) -> None:
    leaf, intermediate = LeafIdentity.load(tmp_path / "leaf"), IntermediateIdentity.load(tmp_path / "ca")
    with pytest.raises(InvalidInputError, match="no path"):
        leaf.install([alpha.root.sign_intermediate(csr_public_key(leaf.create_csr()))])
    with pytest.raises(InvalidInputError, match="expected a trust domain"):
        intermediate.install(alpha.authority.sign_leaf(intermediate.create_csr(), CART).chain_der)


@pytest.mark.parametrize("position", [0, 200, -200])
def test_a_damaged_file_is_corrupt_not_a_crash(alpha: TestDomain, tmp_path: Path, position: int) -> None:
    path = enrolled(alpha, tmp_path / "id").path
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=IDENTITY_FILE):
        LeafIdentity.load(tmp_path / "id")


def test_every_cut_of_the_file_is_corrupt(alpha: TestDomain, tmp_path: Path) -> None:
    path = enrolled(alpha, tmp_path / "id").path
    content = path.read_bytes()
    whole = content.rindex(b"-----BEGIN")  # without its intermediate the leaf is still a pair
    for length in range(0, whole, 37):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptError):
            LeafIdentity.load(tmp_path / "id")


def test_a_directory_open_to_others_is_refused(alpha: TestDomain, tmp_path: Path) -> None:
    enrolled(alpha, tmp_path / "id")
    (tmp_path / "id").chmod(0o755)
    with pytest.raises(PreconditionError, match="0755, expected 0700"):
        LeafIdentity.load(tmp_path / "id")


def test_an_expired_identity_still_loads(alpha: TestDomain, tmp_path: Path) -> None:
    """A process restarted while no controller lives says how old it is, it does not stop (F1)."""
    identity = LeafIdentity.load(tmp_path / "id")
    forged_times = alpha.authority.sign_leaf(identity.create_csr(), CART, timedelta(seconds=1))
    identity.install(forged_times.chain_der)
    assert LeafIdentity.load(tmp_path / "id").not_after == forged_times.not_after


def test_no_key_is_in_a_repr(alpha: TestDomain, tmp_path: Path) -> None:
    identity = enrolled(alpha, tmp_path / "id")
    shown = repr(identity.pem()) + repr(identity.current) + repr(identity) + repr(alpha.root._root)
    assert "PRIVATE" not in shown
    assert "BEGIN" not in shown

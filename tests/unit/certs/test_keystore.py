"""Private keys on disk: who can read them, and what a changed file does."""

import base64
import json
import os
from pathlib import Path

import pytest

from certs.runtime import keystore
from certs.runtime.authority import RootAuthority
from certs.runtime.keystore import (
    RootKey,
    export_root,
    import_root,
    make_private_directory,
    read_private,
    write_private,
)
from federation.kernel.errors import (
    AlreadyExistsError,
    BadIdentityError,
    CorruptError,
    InvalidInputError,
    IsthmusError,
    NotFoundError,
    PreconditionError,
)

PASSPHRASE = b"correct horse battery staple"
WORK_LOG2 = 10  # the least that is read back: these tests do not measure scrypt


@pytest.fixture(scope="module")
def root() -> RootKey:
    return RootAuthority.create("alpha.example")._root


@pytest.fixture
def exported(root: RootKey, tmp_path: Path) -> Path:
    path = tmp_path / "root.json"
    export_root(path, root, PASSPHRASE, work_log2=WORK_LOG2)
    return path


def test_an_exported_root_comes_back(root: RootKey, exported: Path) -> None:
    found = import_root(exported, PASSPHRASE)
    assert found.trust_domain == root.trust_domain
    assert found.certificate_der == root.certificate_der
    assert found.key.private_numbers() == root.key.private_numbers()


def test_the_default_cost_of_a_guess_is_high(root: RootKey, tmp_path: Path) -> None:
    export_root(tmp_path / "root.json", root, PASSPHRASE)
    assert json.loads((tmp_path / "root.json").read_bytes())["work_log2"] == 17
    assert import_root(tmp_path / "root.json", PASSPHRASE).trust_domain == "alpha.example"


def test_an_exported_root_is_for_its_owner_only_and_holds_no_plain_key(root: RootKey, exported: Path) -> None:
    assert exported.stat().st_mode & 0o777 == 0o600
    content = exported.read_bytes()
    secret = root.key.private_numbers().private_value.to_bytes(32, "big")
    assert secret not in content
    assert secret not in base64.b64decode(json.loads(content)["sealed"])
    assert b"PRIVATE KEY" not in content


def test_a_wrong_passphrase_opens_nothing(exported: Path) -> None:
    with pytest.raises(BadIdentityError, match="wrong passphrase"):
        import_root(exported, b"correct horse battery stable")


def test_a_short_passphrase_is_refused(root: RootKey, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least 12"):
        export_root(tmp_path / "root.json", root, b"short")
    assert list(tmp_path.iterdir()) == []


def test_a_root_is_never_overwritten(root: RootKey, exported: Path) -> None:
    before = exported.read_bytes()
    with pytest.raises(AlreadyExistsError):
        export_root(exported, root, PASSPHRASE, work_log2=WORK_LOG2)
    assert exported.read_bytes() == before


@pytest.mark.parametrize("field", ["certificate", "salt", "nonce", "sealed"])
def test_a_flipped_bit_is_noticed_wherever_it_is(exported: Path, field: str) -> None:
    envelope = json.loads(exported.read_bytes())
    octets = bytearray(base64.b64decode(envelope[field]))
    for position in (0, len(octets) // 2, len(octets) - 1):
        octets[position] ^= 1
        envelope[field] = base64.b64encode(octets).decode()
        exported.write_text(json.dumps(envelope))
        with pytest.raises(BadIdentityError, match="the file was changed"):
            import_root(exported, PASSPHRASE)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        pytest.param({"trust_domain": "beta.example"}, BadIdentityError, id="moved-to-another-domain"),
        pytest.param({"work_log2": 11}, BadIdentityError, id="other-cost"),
        pytest.param({"work_log2": 40}, CorruptError, id="cost-beyond-memory"),
        pytest.param({"work_log2": 1}, CorruptError, id="no-cost"),
        pytest.param({"work_log2": "17"}, CorruptError, id="cost-is-text"),
        pytest.param({"format": "isthmus-root-9"}, CorruptError, id="other-format"),
        pytest.param({"sealed": "***"}, CorruptError, id="no-base64"),
        pytest.param({"sealed": ""}, IsthmusError, id="nothing-sealed"),
        pytest.param({"nonce": ""}, CorruptError, id="no-nonce"),
        pytest.param({"extra": 1}, CorruptError, id="unknown-field"),
    ],
)
def test_a_changed_file_is_refused(
    exported: Path, changes: dict[str, object], kind: type[IsthmusError]
) -> None:
    exported.write_text(json.dumps({**json.loads(exported.read_bytes()), **changes}))
    with pytest.raises(kind) as refused:
        import_root(exported, PASSPHRASE)
    assert str(exported) in refused.value.message


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100, b"x" * (256 * 1024 + 1)])
def test_a_file_that_is_no_envelope_is_corrupt(tmp_path: Path, content: bytes) -> None:
    write_private(tmp_path / "root.json", content)
    with pytest.raises(CorruptError):
        import_root(tmp_path / "root.json", PASSPHRASE)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        import_root(tmp_path / "root.json", PASSPHRASE)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_can_touch_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_private(path, b"secret")
    path.chmod(mode)
    with pytest.raises(PreconditionError, match=f"{mode:04o}"):
        read_private(path)


def test_a_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_link_planted_for_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    (tmp_path / ".key.new").symlink_to(target)
    write_private(tmp_path / "key", b"secret")
    assert target.read_bytes() == b"untouched"
    assert read_private(tmp_path / "key") == b"secret"


def test_replacing_a_key_leaves_nothing_else_behind(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"one")
    write_private(tmp_path / "key", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert read_private(tmp_path / "key") == b"two"


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_an_unreadable_key_is_corrupt_and_not_shown(pem: bytes) -> None:
    with pytest.raises(CorruptError, match=r"^here holds no readable private key$"):
        keystore.key_from_pem(pem, where="here")


def test_what_the_file_system_refuses_is_said_with_the_path(root: RootKey, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotFoundError, match="make the directory first"):
        export_root(tmp_path / "missing" / "root.json", root, PASSPHRASE, work_log2=WORK_LOG2)
    for attempt in (
        lambda: export_root(tmp_path / "file" / "root.json", root, PASSPHRASE, work_log2=WORK_LOG2),
        lambda: read_private(tmp_path / "folder"),
        lambda: read_private(tmp_path / "file" / "key"),
        lambda: write_private(tmp_path / "folder", b"secret"),
        lambda: make_private_directory(tmp_path / "file" / "folder"),
        lambda: make_private_directory(tmp_path / "file"),
    ):
        with pytest.raises(PreconditionError, match="cannot be used"):
            attempt()

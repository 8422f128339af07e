"""Backup, restore and recovery of one controller: what came back, and what was refused."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from certs.core.token import parse_token
from tests.integration.controller.installation import BASE, ISTHMUS, Caller, Installation, export_policy
from tests.support.processes import Process, ProcessSet

POLICIES = f"{BASE}/namespaces/shop/exportpolicies"


def isthmus(installation: Installation, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*ISTHMUS, *map(str, arguments)],
        env={**os.environ, "ISTHMUS_CONTEXT": str(installation.context)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def ok(installation: Installation, *arguments: str | Path) -> str:
    done = isthmus(installation, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(installation: Installation, message: str, *arguments: str | Path) -> None:
    done = isthmus(installation, *arguments)
    assert done.returncode != 0
    assert message in done.stderr


def started(installation: Installation, processes: ProcessSet) -> tuple[Process, Caller]:
    process = installation.start(processes)
    installation.wait_ready(process)
    return process, installation.operator()


def stop(process: Process) -> None:
    process.terminate()
    process.kill()  # Its group, so that nothing of it holds the ports.


def names(operator: Caller) -> list[str]:
    return [one["metadata"]["name"] for one in operator.ok("GET", POLICIES)["items"]]


def test_a_restored_federation_is_as_it_was_backed_up_and_runs_on_in_a_new_incarnation(
    founded: Installation, processes: ProcessSet, tmp_path: Path
) -> None:
    backup, key = tmp_path / "one.backup", tmp_path / "key"
    key.write_text("a key of some length\n")
    process, operator = started(founded, processes)
    kept = operator.ok("POST", POLICIES, export_policy("kept"))
    token = operator.ok("POST", "/v1/tokens", {"purpose": "cluster", "cluster": "beta"})["token"]

    ok(founded, "backup", "create", backup, "--key-file", key)
    refused(founded, "a backup is never overwritten", "backup", "create", backup, "--key-file", key)
    operator.ok("POST", POLICIES, export_policy("later"))
    before = operator.ok("GET", "/v1/status")
    shown = json.loads(ok(founded, "backup", "inspect", backup, "--key-file", key, "-o", "json"))
    assert (shown["federation"], shown["counts"]["ExportPolicy"]) == (before["federation"], 1)
    assert [one["id"] for one in shown["members"]] == ["alpha"]
    assert int(kept["metadata"]["resourceVersion"]) <= shown["revision"] < before["revision"]

    restore = ("backup", "restore", backup, "--config", founded.config_path, "--key-file", key)
    refused(founded, "is in use by process", *restore)
    stop(process)
    refused(founded, "holds a log, which would be lost", *restore)
    (founded.data_dir / "raft").rename(founded.data_dir / "raft.old")
    ok(founded, *restore)

    _, operator = started(founded, processes)
    after = operator.ok("GET", "/v1/status")
    assert names(operator) == ["kept"]
    assert after["federation"] == before["federation"]
    assert after["incarnation"] > before["incarnation"]
    assert after["revision"] > before["revision"] + 1_000_000_000
    # A watcher of before must not be told that nothing happened.
    status, _ = operator.call("GET", f"{POLICIES}?watch=true&resourceVersion={before['revision']}")
    assert status == 410
    assert operator.ok("GET", f"{BASE}/jointokens")["items"] == []
    assert parse_token(token).secret.hex() not in backup.read_bytes().hex()
    stale = export_policy("kept", "orders")
    stale["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"]
    assert operator.call("PUT", f"{POLICIES}/kept", stale)[0] == 409


def test_a_backup_that_is_not_encrypted_holds_no_secret(
    founded: Installation, processes: ProcessSet, tmp_path: Path
) -> None:
    backup = tmp_path / "one.backup"
    process, operator = started(founded, processes)
    token = parse_token(operator.ok("POST", "/v1/tokens", {"purpose": "cluster", "cluster": "beta"})["token"])
    ok(founded, "backup", "create", backup)
    data = backup.read_bytes()
    assert token.secret not in data
    assert b"PRIVATE KEY" not in data
    assert founded.passphrase().strip() not in data
    assert backup.stat().st_mode & 0o777 == 0o600

    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    refused(founded, "is damaged at offset", "backup", "inspect", tmp_path / "flipped")
    refused(founded, "is not encrypted", "backup", "inspect", backup, "--key-file", founded.config_path)

    # Another root of the same name cannot take the federation over.
    stop(process)
    other = Installation(tmp_path / "other", founded.host)
    other.found()
    (other.data_dir / "raft").rename(tmp_path / "away")
    refused(
        other,
        "is not that of alpha.example in the catalog",
        "backup",
        "restore",
        backup,
        "--config",
        other.config_path,
    )
    assert not (other.data_dir / "raft").exists()


def test_a_survivor_goes_on_with_all_that_it_has_and_keeps_its_old_log(
    founded: Installation, processes: ProcessSet
) -> None:
    process, operator = started(founded, processes)
    operator.ok("POST", POLICIES, export_policy("kept"))
    before = operator.ok("GET", "/v1/status")
    recover = ("member", "recover", "--config", founded.config_path)
    refused(founded, "is in use by process", *recover, "--accept-loss")
    stop(process)
    refused(founded, "its log ends in term 2 at entry ", *recover)
    refused(founded, "repeat it with --accept-loss", *recover)
    log = (founded.data_dir / "raft" / "journal").read_bytes()
    # An attempt that was cut short leaves this behind, and changes nothing.
    (founded.data_dir / "raft.founded").mkdir()
    (founded.data_dir / "raft.founded" / "journal").write_bytes(b"half")

    ok(founded, *recover, "--accept-loss")

    assert not (founded.data_dir / "raft.founded").exists()
    (aside,) = founded.data_dir.glob("raft.before-*")
    assert (aside / "journal").read_bytes().startswith(log)
    _, operator = started(founded, processes)
    after = operator.ok("GET", "/v1/status")
    assert names(operator) == ["kept"]
    assert after["revision"] > before["revision"] + 1_000_000_000
    assert after["incarnation"] > before["incarnation"]
    operator.ok("POST", POLICIES, export_policy("new"))


@pytest.mark.parametrize("command", ["restore", "recover"])
def test_nothing_is_founded_anew_while_a_member_answers(
    founded: Installation, processes: ProcessSet, tmp_path: Path, command: str
) -> None:
    """The same federation runs from another data directory, at the same address."""
    backup = tmp_path / "one.backup"
    process, _ = started(founded, processes)
    ok(founded, "backup", "create", backup)
    stop(process)
    copy = Installation(tmp_path / "copy", founded.host)
    subprocess.run(["cp", "-a", founded.data_dir, copy.data_dir], check=True)
    started(founded, processes)
    arguments: tuple[str | Path, ...] = ("member", "recover", "--config", copy.config_path, "--accept-loss")
    if command == "restore":
        (copy.data_dir / "raft").rename(tmp_path / "away")
        arguments = ("backup", "restore", backup, "--config", copy.config_path)
    refused(copy, f"member alpha answers at {founded.host}:7443: this federation runs", *arguments)
    assert (copy.data_dir / "raft").exists() == (command == "recover")


def test_a_data_directory_without_a_log_has_nothing_to_recover(founded: Installation) -> None:
    (founded.data_dir / "raft").rename(founded.data_dir / "gone")
    refused(founded, "holds no log", "member", "recover", "--config", founded.config_path, "--accept-loss")
    assert not (founded.data_dir / "raft").exists()


def test_a_witness_alone_could_not_be_operated(founded: Installation) -> None:
    text = founded.config_path.read_text()
    founded.config_path.write_text(text.replace("[cluster]\n", '[cluster]\nrole = "witness"\n'))
    recover = ("member", "recover", "--config", founded.config_path, "--accept-loss")
    refused(founded, "alpha is a witness, which nobody could operate alone", *recover)

"""`isthmus backup create|inspect|restore`: the catalog in a file."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from federation.app.config import ControllerConfig
from federation.cli.output import print_json, print_table, say
from federation.cli.session import Session, config_option, context_option, output_option, read_config

_FILE = click.Path(path_type=Path)


def key_option(command: Any) -> Any:
    """`--key-file FILE`."""
    return click.option(
        "--key-file",
        type=_FILE,
        help="File with a passphrase or random bytes (16 at least), from which scrypt makes an AES-256-GCM key.",
    )(command)


@click.group()
def backup() -> None:
    """Backups of the catalog: consistent, checksummed, encrypted when given a key."""


@backup.command()
@click.argument("file", type=_FILE)
@key_option
@context_option
def create(file: Path, key_file: Path | None, context_directory: str) -> None:
    """Write a backup of the running federation's catalog to a new FILE.

    It holds every write finished before the command began, and no private key: keep the exported roots
    beside it.
    """
    from federation.app.backup_file import BackupReader, encode_backup, read_key, write_backup

    key = None if key_file is None else read_key(key_file)
    session = Session(context_directory)
    with session.api.download("/v1/backup") as answer:
        reader = BackupReader(answer, name=f"the answer of {session.context.file.cluster}", key=None)
        # Read to its end by the writer, so that a connection that was cut leaves no file.
        size = write_backup(file, encode_backup(reader.manifest, reader.chunks(), key=key))
    sealed = "not encrypted" if key is None else "encrypted"
    say(
        f"revision {reader.manifest.revision} of {reader.manifest.federation} in {file}: {size} bytes, {sealed}"
    )


@backup.command()
@click.argument("file", type=_FILE)
@key_option
@output_option
def inspect(file: Path, key_file: Path | None, output: str) -> None:
    """Check every byte of FILE and show what it holds."""
    from federation.app.backup_file import read_key
    from federation.app.restoring import inspect_backup

    manifest = inspect_backup(file, None if key_file is None else read_key(key_file))
    if output == "json":
        print_json(manifest)
        return
    created = datetime.fromtimestamp(manifest.created_unix_ms / 1000, UTC).isoformat(timespec="seconds")
    print_table(
        ("what", "value"),
        [
            ("federation", manifest.federation),
            ("incarnation", manifest.incarnation),
            ("created", created),
            ("taken from", manifest.controller),
            ("version", manifest.version),
            ("revision", manifest.revision),
            ("log index", manifest.index),
            ("members", ", ".join(f"{one.id} at {one.address}" for one in manifest.members)),
            *((f"{kind} objects", count) for kind, count in manifest.counts.items()),
        ],
    )


@backup.command()
@click.argument("file", type=_FILE)
@config_option
@key_option
@output_option
def restore(file: Path, config_path: Path, key_file: Path | None, output: str) -> None:
    """Found the federation's log anew from FILE, with this controller as its only member.

    For a federation of which no member is left, or that has to go back. Refused while a member answers
    and while the data directory holds a log. The keys of this trust domain must be in the data directory.
    """
    from federation.app.backup_file import read_key
    from federation.app.restoring import restore_backup

    config = read_config(config_path, ControllerConfig)
    restored = restore_backup(config, file, None if key_file is None else read_key(key_file))
    if output == "json":
        print_json(msgspec.to_builtins(restored, enc_hook=str))
        return
    tell_restored(restored, config_path)


def tell_restored(restored: Any, config_path: Path) -> None:
    """Say what was founded anew, and what has to be done now."""
    say(
        f"federation {restored.federation} begins again as incarnation {restored.incarnation}"
        f" at revision {restored.revision}"
    )
    if restored.tokens_dropped:
        say(f"{restored.tokens_dropped} unused join tokens are gone: they may have been used meanwhile")
    if restored.set_aside is not None:
        say(f"the log of before is in {restored.set_aside}: delete it when all is well")
    say(f"next: isthmus controller run --config {config_path}")
    for cluster in restored.others:
        say(
            f"      for {cluster}: isthmus token create --cluster {cluster};"
            " there: isthmus cluster join --again --config FILE --token TOKEN"
        )

"""`isthmus init`, `isthmus cluster ...`, `isthmus token ...`: who belongs to the federation."""

import asyncio
import getpass
import tomllib
import warnings
from pathlib import Path
from typing import Any

import click

from certs.core.token import parse_token
from federation.app.config import ControllerConfig, JoinConfig
from federation.cli.lifecycle_commands import drain, print_drain, remove, traffic, undrain
from federation.cli.liveness_output import observers, print_history, since, state_of
from federation.cli.output import print_json, print_table, say
from federation.cli.rehome_command import home_of, rehome, show_move
from federation.cli.session import (
    Session,
    config_option,
    context_option,
    output_option,
    read_config,
    read_duration,
    read_text,
    read_token,
)
from federation.kernel.errors import AlreadyExistsError, InvalidInputError, NotFoundError, UnavailableError


@click.command()
@config_option
@click.option("--name", required=True, help="Name of the new federation, such as prod.")
@click.option(
    "--root-export",
    type=click.Path(path_type=Path),
    help="Write an encrypted copy of the trust domain's root key here: keep it off this machine.",
)
@click.option(
    "--export-passphrase-file",
    type=click.Path(path_type=Path),
    help="File with the passphrase of the copy; asked for when not given.",
)
def init(config_path: Path, name: str, root_export: Path | None, export_passphrase_file: Path | None) -> None:
    """Found a federation: this controller becomes its first member."""
    from federation.app.founding import found

    config = read_config(config_path, ControllerConfig)
    passphrase = b""
    if root_export is not None:
        _check_export(root_export)
        passphrase = _export_passphrase(export_passphrase_file)
    elif export_passphrase_file is not None:
        raise InvalidInputError("--export-passphrase-file: only with --root-export")
    founded = asyncio.run(found(config, name=name, root_export=root_export, export_passphrase=passphrase))
    say(f"federation {founded.federation} founded by cluster {config.cluster.name}")
    if founded.root_export is None:
        say(
            "the root key of this trust domain exists on this machine only:"
            " run init with --root-export FILE to keep an encrypted copy elsewhere"
        )
    say(f"next: isthmus controller run --config {config_path}")
    say(f"      export ISTHMUS_CONTEXT={founded.context}")


def _export_passphrase(path: Path | None) -> bytes:
    if path is not None:
        return read_text(path).strip().encode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            first = getpass.getpass("passphrase of the exported root key: ")
            if first != getpass.getpass("again: "):
                raise InvalidInputError("the two passphrases differ")
    except getpass.GetPassWarning as error:
        raise InvalidInputError(
            "--export-passphrase-file is missing: there is no terminal to ask for the passphrase"
        ) from error
    return first.encode()


def _check_export(root_export: Path) -> None:
    """Refuse what would fail after the founding."""
    if not root_export.parent.is_dir():
        raise NotFoundError(f"--root-export: {root_export.parent}: no such directory")
    if root_export.exists():
        raise AlreadyExistsError(f"--root-export: {root_export} exists: it is never overwritten")


@click.group()
def cluster() -> None:
    """Clusters of the federation."""


@cluster.command("join")
@config_option
@click.option("--token", "token_text", help="The join token, from isthmus token create --cluster NAME.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File that holds it.")
@click.option(
    "--again",
    is_flag=True,
    help="It joined before, and its log is lost or of no use: begin with an empty one, under its own root.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what would change and what stands in the way; change nothing."
)
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME.NAMESPACE[:PORT[/PROTOCOL]]",
    help="With --dry-run: a service that the cluster will have; may be repeated.",
)
def join(
    config_path: Path,
    token_text: str | None,
    token_file: Path | None,
    again: bool,
    dry_run: bool,
    services: tuple[str, ...],
) -> None:
    """Join a federation by a one-time token.

    A primary or a witness brings its controller's configuration; a remote cluster, which has no
    controller, a file with its [cluster] section only.
    """
    from federation.app.joining import join_remote, join_with_controller

    text = read_token(token_text, token_file)
    if text is None:
        raise InvalidInputError("--token or --token-file is missing")
    token = parse_token(text)
    if dry_run:
        from federation.cli.join_forecast import show_forecast

        show_forecast(_read_joining(config_path), token, services)
        return
    if services:
        raise InvalidInputError("--service: only with --dry-run")
    if _is_remote(config_path):
        if again:
            raise InvalidInputError("--again: a remote cluster has no log that could be lost")
        joined = join_remote(read_config(config_path, JoinConfig), token)
        say(f"cluster {token.cluster} joined federation {joined.federation}")
        say(f"next, at its home: isthmus token create --purpose agent --cluster {token.cluster} ...")
        return
    config = read_config(config_path, ControllerConfig)
    joined = join_with_controller(config, token, again=again)
    say(f"cluster {token.cluster} joined federation {joined.federation}")
    say(f"next: isthmus controller run --config {config_path}")
    say(f"      export ISTHMUS_CONTEXT={joined.context}")


def _read_joining(path: Path) -> ControllerConfig | JoinConfig:
    return read_config(path, JoinConfig) if _is_remote(path) else read_config(path, ControllerConfig)


def _is_remote(path: Path) -> bool:
    try:
        section = tomllib.loads(read_text(path)).get("cluster")
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{path}: not a TOML file: {error}") from error
    return isinstance(section, dict) and section.get("role") == "remote"


@cluster.command("list")
@context_option
@output_option
def list_clusters(context_directory: str, output: str) -> None:
    """List the clusters that joined, and whether they are alive."""
    clusters = _newest_clusters(Session(context_directory))
    if output == "json":
        print_json(clusters)
        return
    _print_clusters(clusters)


@cluster.command("status")
@click.argument("name", required=False)
@context_option
@output_option
def cluster_status(name: str | None, context_directory: str, output: str) -> None:
    """Show clusters with their state, controllers, endpoints and gateways; of one also its last states, and its move."""
    session = Session(context_directory)
    clusters = [one for one in _newest_clusters(session) if name in (None, one["name"])]
    if not clusters:
        raise NotFoundError(f"cluster {name} has not joined: isthmus cluster list names those that have")
    if output == "json":
        print_json(clusters)
        return
    _print_clusters(clusters)
    if name is not None:
        print_drain(clusters[0]["drain"])
        print_history(clusters[0])
        show_move(session, clusters[0])


cluster.add_command(drain)
cluster.add_command(undrain)
cluster.add_command(remove)
cluster.add_command(rehome)


def _newest_clusters(session: Session) -> list[dict[str, Any]]:
    """The clusters of the status as they are now; where nobody knows, as the controller knows them."""
    try:
        answer = session.get("/v1/status?newest=true")
    except UnavailableError as error:
        answer = session.get("/v1/status")
        say(f"as of revision {answer['revision']}, it may be old: {error.message}")
    clusters: list[dict[str, Any]] = answer["clusters"]
    return clusters


def _print_clusters(clusters: list[dict[str, object]]) -> None:
    print_table(
        (
            "name",
            "role",
            "state",
            "since",
            "missed by",
            "trust domain",
            "region",
            "home",
            "controllers",
            "endpoints",
            "gateways",
            "traffic",
        ),
        [
            (
                one["name"],
                one["role"],
                state_of(one),
                since(one),
                observers(one),
                one["trustDomain"],
                one["region"],
                home_of(one),
                ",".join(map(str, one["controllers"])),  # type: ignore[call-overload]
                f"{one['readyEndpoints']}/{one['endpoints']}",
                one["gateways"],
                traffic(one["drain"]),  # type: ignore[arg-type]  # of the answer
            )
            for one in clusters
        ],
    )


@click.group()
def token() -> None:
    """Join tokens: one-time permissions to enter."""


@token.command("create")
@click.option(
    "--cluster", "cluster_name", required=True, help="The cluster that joins, or that the process belongs to."
)
@click.option(
    "--purpose",
    type=click.Choice(["cluster", "agent", "gateway", "dns", "controller"]),
    default="cluster",
    show_default=True,
    help="What the token lets in; controller: a mirror of the cluster.",
)
@click.option("--namespace", default="", help="Agents: namespace of the workloads.")
@click.option("--service-account", default="", help="Agents: service account of the workloads.")
@click.option(
    "--workload-group",
    default="",
    help="Agents: the WorkloadGroup of the namespace that says what the machine runs, and as whom.",
)
@click.option("--ttl", default="10m", show_default=True, help="How long it may be used.")
@context_option
@output_option
def create(
    cluster_name: str,
    purpose: str,
    namespace: str,
    service_account: str,
    workload_group: str,
    ttl: str,
    context_directory: str,
    output: str,
) -> None:
    """Create a token and print it: it cannot be shown again."""
    from federation.api.tokens import TokenRequest, check_request

    request = TokenRequest(
        purpose=purpose,  # type: ignore[arg-type]  # checked by click
        cluster=cluster_name,
        namespace=namespace,
        service_account=service_account,
        workload_group=workload_group,
        ttl_ms=read_duration(ttl, "--ttl"),
    )
    check_request(request)
    answer = Session(context_directory).send("POST", "/v1/tokens", request)
    if output == "json":
        print_json(answer)
    else:
        click.echo(answer["token"])

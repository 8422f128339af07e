"""`isthmus apply|get|delete`: resources, in kubectl's manner."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click
import msgspec
import yaml

from discovery.core.kinds import KINDS, Kind
from federation.api.manifest import API_VERSION
from federation.cli.output import print_json, print_table, say
from federation.cli.session import Session, context_option, decode_answer, output_option, read_text
from federation.kernel.errors import (
    BadIdentityError,
    CompactedError,
    InvalidInputError,
    IsthmusError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)

BASE = f"/apis/{API_VERSION}"
VALUES_MAX = 20_000  # In one object of at most 32 KiB.


def kind_named(text: str) -> Kind:
    """Return the kind that the operator means: Cluster, cluster, clusters."""
    for kind in KINDS.values():
        if text.lower() in (kind.name.lower(), kind.plural):
            return kind
    known = ", ".join(sorted(kind.plural for kind in KINDS.values()))
    raise NotFoundError(f"no kind {text!r}: expected one of {known}")


def path_of(kind: Kind, *, cluster: str = "", namespace: str = "", name: str = "") -> str:
    """The API's path of a collection or an object."""
    prefix = f"/clusters/{quote(cluster, safe='')}" if cluster and kind.scoped else ""
    inside = f"/namespaces/{quote(namespace, safe='')}" if namespace and kind.namespaced else ""
    return f"{prefix}{BASE}{inside}/{kind.plural}" + (f"/{quote(name, safe='')}" if name else "")


@click.command()
@click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    required=True,
    help="File with objects in YAML or JSON; - for standard input.",
)
@click.option(
    "--cluster",
    default="",
    help="Owner of the objects; default: metadata.cluster, or the cluster of the context.",
)
@context_option
@output_option
def apply(filenames: tuple[str, ...], cluster: str, context_directory: str, output: str) -> None:
    """Create objects, or make them as the file says. One that is refused does not stop the others."""
    # Everything is read and checked for shape before anything is sent.
    objects = [(one, *_identify(one, where)) for name in filenames for where, one in _read_objects(name)]
    session = Session(context_directory)
    refused: list[IsthmusError] = []
    for one, kind, metadata in objects:
        scope = metadata.get("cluster") or cluster
        path = path_of(kind, cluster=scope, namespace=metadata.get("namespace", ""), name=metadata["name"])
        try:
            answer = session.send("PUT", path, one)
        except (UnavailableError, OutcomeUnknownError, BadIdentityError):
            raise  # The next one would fare no better.
        except IsthmusError as error:
            refused.append(error)
            if len(objects) > 1:
                say(f"isthmus: {kind.name.lower()}/{metadata['name']}: {error.message}")
            continue
        if output == "json":
            print_json(answer)
        else:
            done = "created" if answer["metadata"]["generation"] == 1 else "configured"
            click.echo(f"{kind.name.lower()}/{metadata['name']} {done}")
    if refused and len(objects) == 1:
        raise refused[0]
    if refused:
        raise type(refused[0])(
            f"{len(refused)} of {len(objects)} objects were refused, the others are as the file says"
        )


def _read_objects(filename: str) -> Iterator[tuple[str, dict[str, Any]]]:
    text = sys.stdin.read() if filename == "-" else read_text(Path(filename))
    try:
        documents = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date.
        raise InvalidInputError(f"{filename}: not YAML: {error}") from error
    for position, document in enumerate(documents, start=1):
        if document is None:
            continue
        where = f"{filename}: document {position}"
        if not isinstance(document, dict):
            raise InvalidInputError(f"{where} is not an object")
        if _count(document) > VALUES_MAX:
            raise InvalidInputError(f"{where} has more than {VALUES_MAX} values, those of aliases included")
        try:
            msgspec.json.encode(document)
        except (TypeError, OverflowError) as error:
            raise InvalidInputError(f"{where} holds what JSON cannot say: {error}") from error
        yield where, document


def _count(document: object) -> int:
    """Count the values of a document, up to one more than VALUES_MAX: its aliases may multiply without end."""
    count, left = 0, [document]
    while left and count <= VALUES_MAX:
        value = left.pop()
        count += 1
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | set):
            left += value
    return count


def _identify(one: dict[str, Any], where: str) -> tuple[Kind, dict[str, str]]:
    if one.get("apiVersion") != API_VERSION:
        raise InvalidInputError(f"{where}: apiVersion is {one.get('apiVersion')!r}, expected {API_VERSION!r}")
    metadata = one.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidInputError(f"{where}: metadata.name is missing")
    for field in ("namespace", "cluster"):
        if not isinstance(metadata.get(field, ""), str):
            raise InvalidInputError(f"{where}: metadata.{field} is {metadata[field]!r}, expected text")
    kind = KINDS.get(str(one.get("kind")))
    if kind is None:
        raise InvalidInputError(f"{where}: kind is {one.get('kind')!r}, expected one of {', '.join(KINDS)}")
    return kind, metadata


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-n", "--namespace", default="", help="Namespace of the objects.")
@click.option("--cluster", default="", help="Cluster that owns the objects; default: all.")
@click.option("-w", "--watch", is_flag=True, help="After listing, print changes as they happen.")
@context_option
@output_option
def get(
    kind: str,
    name: str | None,
    namespace: str,
    cluster: str,
    watch: bool,
    context_directory: str,
    output: str,
) -> None:
    """Show objects: isthmus get clusters, isthmus get grants -n shop."""
    session = Session(context_directory)
    if kind.lower() in ("endpoint", "endpoints"):
        _get_endpoints(session, namespace, cluster, output)
        return
    known = kind_named(kind)
    if name:
        if known.scoped and not cluster:
            cluster = session.context.file.cluster
        answer = session.get(path_of(known, cluster=cluster, namespace=namespace, name=name))
        _print_objects([answer], output, single=True)
        return
    path = path_of(known, cluster=cluster, namespace=namespace)
    answer = session.get(path)
    _print_objects(answer["items"], output)
    if watch:
        revision = answer["metadata"]["resourceVersion"]
        for line in session.api.stream(f"{path}?watch=true&resourceVersion={revision}"):
            event = decode_answer(line)
            if event["type"] == "ERROR":
                raise CompactedError(event["object"]["message"])
            click.echo(msgspec.json.encode(event) if output == "json" else _event_line(event))


def _event_line(event: dict[str, Any]) -> str:
    metadata = event["object"]["metadata"]
    return f"{event['type']}  {event['object']['kind'].lower()}/{metadata['name']}  {metadata['resourceVersion']}"


def _print_objects(items: list[dict[str, Any]], output: str, *, single: bool = False) -> None:
    if output == "json":
        print_json(items[0] if single else {"kind": "List", "apiVersion": "v1", "items": items})
        return
    if not items:
        say("no objects found")
        return
    print_table(
        ("cluster", "namespace", "name", "revision", "created", "conditions"),
        [
            (
                item["metadata"].get("cluster", ""),
                item["metadata"].get("namespace", ""),
                item["metadata"]["name"],
                item["metadata"]["resourceVersion"],
                item["metadata"]["creationTimestamp"],
                _conditions(item),
            )
            for item in items
        ],
    )
    for item in items if single else ():
        for one in _addresses(item):
            by = f", missed by {', '.join(one['missedBy'])}" if one.get("missedBy") else ""
            say(f"{one['address']} is {one['state']}{by}")
        for one in _troubles(item):
            say(f"{one['type']}={one['status']} ({one['reason']}): {one['message']}")


# Of these `True` is the bad news, of all others `False`.
_BAD_IF_TRUE = ("Conflict",)


def _troubles(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the conditions of an object that call for somebody's attention."""
    status = item.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return [
        one
        for one in conditions
        if isinstance(one, dict)
        and one.get("status") == ("True" if one.get("type") in _BAD_IF_TRUE else "False")
    ]


def _conditions(item: dict[str, Any]) -> str:
    if item["kind"] == "ExternalService":
        states = [one["state"] for one in _addresses(item)]
        return ",".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    return ",".join(f"{one['type']}={one['status']}" for one in _troubles(item))


def _addresses(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What is held of each address of an external service; empty for all other kinds."""
    status = item.get("status")
    return (
        status.get("addresses", []) if item["kind"] == "ExternalService" and isinstance(status, dict) else []
    )


def _get_endpoints(session: Session, namespace: str, cluster: str, output: str) -> None:
    answer = session.get(f"/v1/endpoints?{urlencode({'namespace': namespace, 'cluster': cluster})}")
    if output == "json":
        print_json(answer)
        return
    print_table(
        ("cluster", "namespace", "service", "name", "address", "ports", "ready"),
        [
            (
                one["cluster"],
                one["namespace"],
                one["service"],
                one["name"],
                one["address"],
                ",".join(f"{port['servicePort']}:{port['listenPort']}" for port in one["ports"]),
                "yes" if one["ready"] else "no",
            )
            for one in answer
        ],
    )


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Namespace of the object.")
@click.option("--cluster", default="", help="Cluster that owns it; default: the context's.")
@context_option
def delete(kind: str, name: str, namespace: str, cluster: str, context_directory: str) -> None:
    """Delete an object."""
    session = Session(context_directory)
    known = kind_named(kind)
    scope = cluster or (session.context.file.cluster if known.scoped else "")
    session.api.call("DELETE", path_of(known, cluster=scope, namespace=namespace, name=name))
    click.echo(f"{known.name.lower()}/{name} deleted")

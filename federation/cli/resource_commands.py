"""`isthmus apply|get|delete`: resources, in kubectl's manner."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click
import msgspec

from discovery.core.kinds import KINDS, Kind
from federation.api.manifest import API_VERSION, decode_manifest, to_put
from federation.cli.manifests import Manifest, read_manifests
from federation.cli.output import say
from federation.cli.resource_output import print_endpoints, print_event, print_objects, print_value
from federation.cli.session import Session, context_option, decode_answer
from federation.kernel.errors import (
    BadIdentityError,
    CompactedError,
    InvalidInputError,
    IsthmusError,
    NotAllowedError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)

BASE = f"/apis/{API_VERSION}"
ENDPOINTS = ("endpoint", "endpoints")
# Why a watch ended, by its HTTP status; any other one has missed what is forgotten by now.
_WATCH_ENDS: dict[int, type[IsthmusError]] = {401: BadIdentityError, 403: NotAllowedError}
_PLURALS = ", ".join(sorted(kind.plural for kind in KINDS.values()))
_KINDS_TEXT = f"KIND is one of {_PLURALS}, or its singular."

F = TypeVar("F", bound=Callable[..., Any])


def object_output_option(command: F) -> F:
    """`-o table|json|yaml`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="For people, or for programs and a later isthmus apply.",
    )(command)


def kind_named(text: str) -> Kind:
    """Return the kind that the operator means: Cluster, cluster, clusters."""
    names = {name: kind for kind in KINDS.values() for name in (kind.name.lower(), kind.plural)}
    if (found := names.get(text.lower())) is not None:
        return found
    close = difflib.get_close_matches(text.lower(), (*names, *ENDPOINTS), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise NotFoundError(f"no kind {text[:80]!r}: {hint}expected one of {_PLURALS}")


def path_of(kind: Kind, *, cluster: str = "", namespace: str = "", name: str = "") -> str:
    """The API's path of a collection or an object."""
    prefix = f"/clusters/{quote(cluster, safe='')}" if cluster and kind.scoped else ""
    inside = f"/namespaces/{quote(namespace, safe='')}" if namespace and kind.namespaced else ""
    return f"{prefix}{BASE}{inside}/{kind.plural}" + (f"/{quote(name, safe='')}" if name else "")


def _check_namespace(kind: Kind, namespace: str) -> None:
    if kind.namespaced and not namespace:
        raise InvalidInputError(
            f"--namespace is missing: each {kind.name} lives in one; isthmus get {kind.plural} shows all"
        )


def _parted(kind: str, name: str | None) -> tuple[str, str | None]:
    """Return kind and name, which may also be given in one: grant/shop."""
    if name is None and "/" in kind:
        kind, _, name = kind.partition("/")
    return kind, name


@click.command()
@click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    required=True,
    help="File with objects in YAML or JSON, or folder of .yaml, .yml and .json files; - for standard input.",
)
@click.option(
    "--cluster",
    default="",
    help="Owner of the objects; default: metadata.cluster, or the cluster of the context.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the objects and show what would be created or configured; whether limits and rights"
    " allow it only the write itself knows.",
)
@context_option
@object_output_option
def apply(
    filenames: tuple[str, ...], cluster: str, dry_run: bool, context_directory: str, output: str
) -> None:
    """Create objects, or make them as the file says. One that is refused does not stop the others."""
    # Everything is read and checked for shape before anything is sent.
    objects = read_manifests(filenames)
    for one in objects:
        _check_owner(one, cluster)
    session = Session(context_directory)
    refused: list[IsthmusError] = []
    for one in objects:
        try:
            done, answer = _apply_one(session, one, cluster, dry_run=dry_run)
        except (UnavailableError, OutcomeUnknownError, BadIdentityError):
            raise  # The next one would fare no better.
        except IsthmusError as error:
            refused.append(error)
            if len(objects) > 1:
                say(f"isthmus: {one.label}: {error.message}")
            continue
        if output == "yaml":
            click.echo("---")
        if output == "table":
            click.echo(f"{one.label} {done}{' (dry run)' if dry_run else ''}")
        else:
            print_value(answer, output)
    if refused and len(objects) == 1:
        raise refused[0]
    if refused:
        others = "nothing was changed" if dry_run else "the others are as the file says"
        raise type(refused[0])(f"{len(refused)} of {len(objects)} objects were refused, {others}")


def _check_owner(one: Manifest, cluster: str) -> None:
    named = one.metadata.get("cluster")
    if one.kind.scoped and cluster and named and named != cluster:
        raise InvalidInputError(f"{one.where}: metadata.cluster is {named!r}, --cluster says {cluster!r}")


def _apply_one(session: Session, one: Manifest, cluster: str, *, dry_run: bool) -> tuple[str, dict[str, Any]]:
    """Write one object; return what that did to it, and the object."""
    path = path_of(
        one.kind,
        cluster=one.metadata.get("cluster") or cluster,
        namespace=one.metadata.get("namespace", ""),
        name=one.metadata["name"],
    )
    if dry_run:
        to_put(
            decode_manifest(msgspec.json.encode(one.value)), cluster=cluster or session.context.file.cluster
        )
    before = _present(session, path)
    if dry_run:
        return _done(
            before, before if before is not None and _is_same(before, one.value) else None
        ), one.value
    answer: dict[str, Any] = session.send("PUT", path, one.value)
    return _done(before, answer), answer


def _present(session: Session, path: str) -> dict[str, Any] | None:
    """Return the object as the controller that is asked knows it: only for the word that is printed."""
    try:
        found: dict[str, Any] = session.get(f"{path}?resourceVersion=0")
    except (NotFoundError, InvalidInputError):
        return None
    return found


def _done(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    if before is None:
        return "configured" if after is not None and after["metadata"]["generation"] > 1 else "created"
    is_same = (
        after is not None and before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    )
    return "unchanged" if is_same else "configured"


def _is_same(before: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a write would change nothing: a spec is the same when it is written the same, in the same order."""
    labels = wanted["metadata"].get("labels") or {}
    spec, spec_before = (msgspec.json.encode(one) for one in (wanted.get("spec", {}), before["spec"]))
    return bool(spec == spec_before and before["metadata"].get("labels", {}) == labels)


@click.command(epilog=f"{_KINDS_TEXT[:-1]}; or endpoints.")
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-n", "--namespace", default="", help="Namespace of the objects; default: all.")
@click.option(
    "--cluster", default="", help="Cluster that owns the objects; default: all, with NAME the context's."
)
@click.option("-w", "--watch", is_flag=True, help="After listing, print changes as they happen.")
@context_option
@object_output_option
def get(
    kind: str,
    name: str | None,
    namespace: str,
    cluster: str,
    watch: bool,
    context_directory: str,
    output: str,
) -> None:
    """Show objects: isthmus get clusters, isthmus get grants -n shop, isthmus get grant shop -n shop -o yaml."""
    kind, name = _parted(kind, name)
    if kind.lower() in ENDPOINTS:
        if watch:
            raise InvalidInputError("--watch: endpoints cannot be watched, only objects")
        _get_endpoints(Session(context_directory), name, namespace, cluster, output)
        return
    known = kind_named(kind)
    if name:
        _check_namespace(known, namespace)
    session = Session(context_directory)
    if name and known.scoped and not cluster:
        cluster = session.context.file.cluster
    if name and not watch:
        path = path_of(known, cluster=cluster, namespace=namespace, name=name)
        print_objects([session.get(path)], output, single=True)
        return
    path = path_of(known, cluster=cluster, namespace=namespace)
    answer = session.get(path)
    items = [one for one in answer["items"] if name in (None, "", one["metadata"]["name"])]
    if name and not items:
        raise NotFoundError(f"{known.name} {name} does not exist")
    if items or output != "table":
        print_objects(items, output)
    else:
        say(f"no {known.plural} found{_place(known, namespace, cluster)}")
    if watch:
        _watch(session, path, answer["metadata"]["resourceVersion"], name, output)


def _place(kind: Kind, namespace: str, cluster: str) -> str:
    parts = [f"namespace {namespace}"] if namespace and kind.namespaced else []
    parts += [f"cluster {cluster}"] if cluster and kind.scoped else []
    return f" in {' of '.join(parts)}" if parts else ""


def _watch(session: Session, path: str, revision: str, name: str | None, output: str) -> None:
    for line in session.api.stream(f"{path}?watch=true&resourceVersion={revision}"):
        event = decode_answer(line)
        if event["type"] == "ERROR":
            raise _WATCH_ENDS.get(event["object"]["code"], CompactedError)(event["object"]["message"])
        if name in (None, "", event["object"]["metadata"]["name"]):
            print_event(event, output)
    raise UnavailableError("the controller ended the watch: repeat the command to list anew and go on")


def _get_endpoints(session: Session, name: str | None, namespace: str, cluster: str, output: str) -> None:
    answer = session.get(f"/v1/endpoints?{urlencode({'namespace': namespace, 'cluster': cluster})}")
    found = [one for one in answer if name in (None, "", one["name"])]
    if name and not found:
        raise NotFoundError(f"no endpoint is called {name[:80]!r}: isthmus get endpoints shows all")
    if not found and output == "table":
        parts = [f"namespace {namespace}"] if namespace else []
        parts += [f"cluster {cluster}"] if cluster else []
        say(f"no endpoints found{' in ' if parts else ''}{' of '.join(parts)}")
        return
    print_endpoints(found, output)


@click.command(epilog=_KINDS_TEXT)
@click.argument("kind")
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Namespace of the object.")
@click.option("--cluster", default="", help="Cluster that owns it; default: the context's.")
@context_option
def delete(kind: str, name: str, namespace: str, cluster: str, context_directory: str) -> None:
    """Delete an object."""
    known = kind_named(kind)
    _check_namespace(known, namespace)
    session = Session(context_directory)
    scope = cluster or (session.context.file.cluster if known.scoped else "")
    session.api.call("DELETE", path_of(known, cluster=scope, namespace=namespace, name=name))
    click.echo(f"{known.name.lower()}/{name} deleted")

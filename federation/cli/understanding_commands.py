"""`isthmus explain|whatif`: why a service is as a caller sees it, and what losing clusters would do."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import click

from federation.cli.output import print_json, print_table, say
from federation.cli.session import Session, context_option, output_option


@click.command()
@click.argument("service")
@click.option(
    "--from",
    "caller",
    required=True,
    metavar="CLUSTER[/NAMESPACE/SERVICE-ACCOUNT]",
    help="Who calls: anybody of a cluster, or one identity of it.",
)
@context_option
@output_option
def explain(service: str, caller: str, context_directory: str, output: str) -> None:
    """Show why a call to SERVICE goes where it goes: orders.shop, or the full DNS name."""
    answer: dict[str, Any] = Session(context_directory).get(
        f"/v1/explain?{urlencode({'name': service, 'from': caller})}"
    )
    if output == "json":
        print_json(answer)
        return
    seen = "is visible to" if answer["visible"] else "is not visible to"
    say(f"{answer['host']} {seen} cluster {answer['cluster']}, at revision {answer['revision']}")
    if answer["standsFor"]:
        say(f"it is an alias of {answer['standsFor']}")
    if answer["problem"]:
        say(f"problem: {answer['problem']}")
    if answer["visible"]:
        say(
            f"type {answer['type']}, session affinity {answer['sessionAffinity']}, as {answer['decidedBy']} says"
        )
    if answer["owners"]:
        _print_owners(answer)
    else:
        say("no cluster has an endpoint of it: isthmus get endpoints shows what is registered")
    if answer["conflicts"]:
        say("")
        print_table(
            ("conflict of", "policy", "reason", "what"),
            [(one["cluster"], one["policy"], one["reason"], one["message"]) for one in answer["conflicts"]],
        )
    _print_policies(answer)
    if answer["owners"]:
        _print_endpoints(answer)
    if answer["dns"]:
        say("")
        print_table(
            ("dns name", "type", "ttl", "data"),
            [(one["name"], one["type"], one["ttlS"], one["data"]) for one in answer["dns"]],
        )
    _print_envoy(answer)
    if answer["withdrawn"]:
        say("")
        print_table(
            ("withdrawn endpoint", "cluster", "at revision"),
            [(one["name"], one["cluster"], one["revision"]) for one in answer["withdrawn"]],
        )


@click.command()
@click.option("--lose", required=True, metavar="CLUSTER[,CLUSTER]", help="The clusters that are gone.")
@context_option
@output_option
def whatif(lose: str, context_directory: str, output: str) -> None:
    """Show what losing clusters would do: to services and their callers, the log, remote clusters."""
    answer: dict[str, Any] = Session(context_directory).get(f"/v1/whatif?{urlencode({'lose': lose})}")
    if output == "json":
        print_json(answer)
        return
    say(_quorum_text(answer["quorum"]))
    print_table(
        ("cluster", "role", "fate", "home", "ready gateways"),
        [
            (
                one["cluster"],
                one["role"],
                _fate(one),
                one["home"],
                f"{one['readyGateways']}/{one['gateways']}",
            )
            for one in answer["clusters"]
        ],
    )
    say("")
    print_table(
        ("service", "port", "caller", "outcome", "served by", "then by", "ready endpoints"),
        [
            (
                one["service"],
                one["servicePort"],
                one["caller"],
                one["outcome"],
                one["servedBy"] or "nobody",
                one["servedThen"] or "nobody",
                f"{one['readyNow']} -> {one['readyThen']}",
            )
            for one in answer["services"]
        ],
    )
    unlisted = sum(answer["counts"].values()) - len(answer["services"])
    if unlisted:
        say(f"and {unlisted} more, none of them worse")
    if not answer["complete"]:
        say("there are too many services to look at all: lose fewer clusters at once")


def _fate(cluster: dict[str, Any]) -> str:
    if cluster["lost"]:
        return "lost, found dead" if cluster["foundDead"] else "lost"
    return "loses its home" if cluster["homeLost"] else "stays"


@click.command()
@click.argument("write", metavar="REVISION|SERVICE")
@context_option
@output_option
def trace(write: str, context_directory: str, output: str) -> None:
    """Show how far a write has come: by its revision, or the newest one that changed endpoints of SERVICE."""
    answer: dict[str, Any] = Session(context_directory).get(f"/v1/trace?{urlencode({'write': write})}")
    if output == "json":
        print_json(answer)
        return
    known: dict[str, Any] = next((one["trace"] for one in answer["controllers"] if one["trace"]), {})
    names: list[str] = known.get("changed", [])
    more = known.get("rows", 0) - len(names)
    say(f"revision {answer['revision']}: {', '.join(names)}" + (f" and {more} more" if more else ""))
    print_table(
        ("controller", "stage", "of cluster", "after", "detail"),
        [row for one in answer["controllers"] for row in _trace_rows(one)],
    )


def _trace_rows(one: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the stages of a write at one controller, in the order in which they happen."""
    name, found = one["controller"], one["trace"]
    if found is None:
        texts = {
            "behind": "has not applied it yet",
            "forgotten": "does not remember it",
            "silent": one["error"],
        }
        yield name, one["state"], "", "", texts[one["state"]]
        return
    before = found["declaredMsBefore"]
    if before is not None:
        yield name, "declared", "", f"-{before:g} ms", "heard from its agent"
        for way in found["local"]:
            yield name, "local", way["cluster"], _after(way["lastMs"], less_ms=before), _proxies_text(way)
    at = datetime.fromtimestamp(found["committedUnixMs"] / 1000, UTC).isoformat(timespec="milliseconds")
    yield name, "committed", "", "0 ms", at
    for way in found["proxies"]:
        yield name, "compiled", way["cluster"], f"{way['compiledMs']:g} ms", ""
        if way["acknowledged"] or way["waiting"] or way["gone"]:
            yield name, "acknowledged", way["cluster"], _after(way["lastMs"]), _proxies_text(way)
    for held in found["held"]:
        yield name, "held", held["cluster"], f"{held['afterMs']:g} ms", held["name"]
    if found["heldMore"]:
        yield name, "held", "", "later", f"by {found['heldMore']} more"


def _after(last_ms: float | None, *, less_ms: float = 0.0) -> str:
    return "" if last_ms is None else f"{last_ms - less_ms:.1f} ms"


def _proxies_text(way: dict[str, Any]) -> str:
    parts = [f"{way['acknowledged']} proxies"]
    parts += [f"{way['waiting']} have not answered yet"] if way["waiting"] else []
    parts += [f"{way['gone']} left before"] if way["gone"] else []
    return ", ".join(parts)


def _quorum_text(quorum: dict[str, Any]) -> str:
    members = f"{quorum['answering']} of {len(quorum['voters'])} members would answer, {quorum['needed']} are needed"
    silent = f"; silent already: {', '.join(quorum['silent'])}" if quorum["silent"] else ""
    if quorum["survives"]:
        return f"the log goes on: {members}{silent}"
    return f"the log stops, and nothing can be written: {members}{silent}"


def _print_owners(answer: dict[str, Any]) -> None:
    admitted = {True: "yes", False: "no", None: "depends"}
    print_table(
        ("order", "cluster", "place", "visible", "why", "caller admitted", "by"),
        [
            (
                "-" if one["order"] is None else one["order"],
                _part(one),
                one["distance"] or "unknown",
                "yes" if one["visible"] else "no",
                one["why"],
                admitted[one["admitsCaller"]],
                one["admitsWhy"],
            )
            for one in answer["owners"]
        ],
    )


def _part(owner: dict[str, Any]) -> str:
    if owner["external"]:
        return f"{owner['cluster']} (external)"
    if other := owner.get("otherTrustDomain"):  # It moves: callers accept either.
        return f"{owner['cluster']} ({owner['trustDomain']} or {other})"
    return str(owner["cluster"])


def _print_policies(answer: dict[str, Any]) -> None:
    rows = [
        (owner["cluster"], one["kind"], one["name"], "yes" if one["applies"] else "no", one["why"])
        for owner in answer["owners"]
        for one in owner["policies"]
    ]
    if rows:
        say("")
        print_table(("cluster", "policy", "name", "applies", "why"), rows)


def _print_endpoints(answer: dict[str, Any]) -> None:
    say("")
    print_table(
        ("endpoint", "cluster", "address", "for port", "ready", "weight", "called", "why"),
        [
            (
                one["name"],
                _part(owner),
                f"{one['address']}:{one['listenPort']}",
                one["servicePort"],
                "yes" if one["ready"] else "no",
                one["weight"],
                one["called"],
                one["why"],
            )
            for owner in answer["owners"]
            for one in owner["endpoints"]
        ],
    )


def _print_envoy(answer: dict[str, Any]) -> None:
    rows = [
        (
            port["servicePort"],
            member["priority"],
            member["name"],
            f"{target['address']}:{target['port']}" if target else "none",
            target["weight"] if target else "",
            target["health"] if target else "",
        )
        for port in answer["envoy"]
        for member in port["members"]
        for target in (member["targets"] or [None])
    ]
    if rows:
        say("")
        print_table(("port", "priority", "envoy cluster", "target", "weight", "health"), rows)

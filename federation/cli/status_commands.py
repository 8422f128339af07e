"""`isthmus status|resolve|proxy status`: what is, seen from one controller."""

from typing import Any
from urllib.parse import urlencode

import click

from federation.cli.output import print_json, print_table, say
from federation.cli.session import Session, context_option, output_option


def _print_mirror(answer: dict[str, Any], output: str) -> None:
    """Show a mirror: what it follows and how old its copy is; who votes only a member knows."""
    if output == "json":
        print_json(answer)
        return
    mirror = answer["mirror"]
    print_table(
        ("what", "value"),
        [
            ("federation", answer["federation"]),
            ("controller", f"{answer['cluster']}/{answer['id']}"),
            ("role", "mirror"),
            ("follows", mirror["member"] or f"nobody: {mirror['error']}"),
            ("revision", mirror["revision"]),
            ("newest revision heard of", mirror["newestRevision"]),
            ("copy up to date", "never" if mirror["ageMs"] is None else f"{mirror['ageMs']} ms ago"),
            ("protocol", answer["protocol"]),
        ],
    )


@click.command()
@context_option
@output_option
def status(context_directory: str, output: str) -> None:
    """Show the controller's place in the federation, its members, and problems."""
    session = Session(context_directory)
    answer = session.get("/v1/status")
    if "mirror" in answer:
        _print_mirror(answer, output)
        return
    seen = session.get("/v1/doctor")
    problems = [finding for finding in seen["findings"] if finding["level"] == "problem"]
    if output == "json":
        print_json(
            {**answer, "members": seen["members"], "mirrors": seen.get("mirrors", []), "problems": problems}
        )
        return
    raft = answer["raft"]
    age = raft["lastLeaderContactMsAgo"]
    print_table(
        ("what", "value"),
        [
            ("federation", answer["federation"]),
            ("incarnation", answer["incarnation"]),
            ("controller", f"{answer['cluster']}/{answer['id']}"),
            ("role", raft["role"]),
            ("leader", raft["leader"] or "none"),
            ("term", raft["term"]),
            ("members", ", ".join(raft["members"])),
            ("connected", ", ".join(raft["connected"]) or "none"),
            ("revision", answer["revision"]),
            ("leader heard", "never" if age is None else f"{age} ms ago"),
            ("protocol", answer["protocol"]),
        ],
    )
    say("")
    print_members(seen["members"])
    _print_mirrors(seen.get("mirrors", []))  # An older controller says nothing of them.
    say("")
    print_table(
        ("cluster", "role", "trust domain", "endpoints", "gateways"),
        [
            (
                one["name"],
                one["role"],
                one["trustDomain"],
                f"{one['readyEndpoints']}/{one['endpoints']}",
                one["gateways"],
            )
            for one in answer["clusters"]
        ],
    )

    for problem in problems:
        say(f"problem: {problem['message']}")
    if problems:
        say("next: isthmus doctor")


def print_members(members: list[dict[str, Any]]) -> None:
    """Print the controllers of the federation, as the leader and they themselves describe them."""
    print_table(
        (
            "member",
            "role",
            "standing",
            "answers",
            "last contact",
            "lag",
            "revision",
            "incarnation",
            "version",
        ),
        [
            (
                one["id"],
                one["role"] or "unknown",
                one["standing"],
                "yes" if one["answers"] else "no",
                "unknown" if one["lastContactMsAgo"] is None else f"{one['lastContactMsAgo']} ms ago",
                _known(one["lagEntries"]),
                _known(one["revision"]),
                _known(one["incarnation"]),
                _known(one["version"]),
            )
            for one in members
        ],
    )


def _print_mirrors(mirrors: list[dict[str, Any]]) -> None:
    if not mirrors:
        return
    say("")
    print_table(
        ("mirror", "answers", "ready", "follows", "revision", "behind", "copy up to date", "version"),
        [
            (
                one["controller"],
                "yes" if one["answers"] else "no",
                "yes" if one["ready"] else "no",
                one["member"] or ("nobody" if one["answers"] else "unknown"),
                _known(one["revision"]),
                _known(one["behind"]),
                "unknown" if one["ageMs"] is None else f"{one['ageMs']} ms ago",
                _known(one["version"]),
            )
            for one in mirrors
        ],
    )


def _known(value: object) -> object:
    return "unknown" if value is None else value


@click.command()
@click.argument("name")
@click.option("--from", "viewer", required=True, metavar="CLUSTER", help="Where the caller is.")
@context_option
@output_option
def resolve(name: str, viewer: str, context_directory: str, output: str) -> None:
    """Show where a call to NAME goes from CLUSTER: orders.shop, or the full DNS name."""
    answer: dict[str, Any] = Session(context_directory).get(
        f"/v1/resolve?{urlencode({'name': name, 'from': viewer})}"
    )
    if output == "json":
        print_json(answer)
        return
    say(f"{answer['host']} as {viewer} sees it: ports {', '.join(map(str, answer['ports']))}")
    print_table(
        ("order", "cluster", "reached by", "address", "ready"),
        [
            (
                order,
                owner["cluster"],
                "external address" if owner["external"] else "endpoint" if owner["direct"] else "gateway",
                target["address"],
                "yes" if target["ready"] else "no",
            )
            for order, owner in enumerate(answer["owners"])
            for target in owner["targets"]
        ],
    )


@click.group()
def proxy() -> None:
    """Envoys that this controller feeds."""


@proxy.command("status")
@context_option
@output_option
def proxy_status(context_directory: str, output: str) -> None:
    """Show, for each proxy and kind of resource, whether it has the newest configuration."""
    answer = Session(context_directory).get("/v1/proxies")
    if output == "json":
        print_json(answer)
        return
    print_table(
        ("proxy", "cluster", "kind", "state", "resources", "error"),
        [
            (one["proxy"], one["cluster"], kind["kind"], kind["state"], kind["resources"], kind["error"])
            for one in answer
            for kind in one["kinds"]
        ],
    )

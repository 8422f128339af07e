"""`isthmus history|withheld`: what changed and by whom; removals that wait for a second word."""

import datetime
from typing import Any
from urllib.parse import quote, urlencode

import click

from federation.cli.output import print_json, print_table, say
from federation.cli.session import Session, context_option, output_option, read_duration


@click.command()
@click.argument("name")
@click.option("--since", default="", metavar="DURATION", help="Only what is younger, such as 30m or 24h.")
@context_option
@output_option
def history(name: str, since: str, context_directory: str, output: str) -> None:
    """Show what changed about NAME: a cluster, a service such as orders.shop, or KIND/[NAMESPACE/]NAME."""
    query = {"name": name} | ({"sinceMs": str(read_duration(since, "--since"))} if since else {})
    answer: dict[str, Any] = Session(context_directory).get(f"/v1/history?{urlencode(query)}")
    if output == "json":
        print_json(answer)
        return
    if answer["events"]:
        _print_events(answer["events"])
    else:
        say(f"no change of {name} is remembered{f' of the last {since}' if since else ''}")
    if not answer["complete"]:
        say(f"and more: the newest {len(answer['events'])} are shown")
    begins = f"since {_time(answer['beginsMs'])}, " if answer["beginsMs"] else ""
    say(f"changes are kept {begins}after revision {answer['beginsAfter']}, on the controller that answered")


def _print_events(events: list[dict[str, Any]]) -> None:
    print_table(
        ("revision", "when", "by", "cluster", "what", "object", "fields"),
        [
            (
                one["revision"],
                _time(one["atMs"]),
                one["actor"] or (f"controller of {one['proposer']}" if one["proposer"] else "unknown"),
                one["cluster"] or "-",
                one["what"],
                one["object"],
                _fields(one),
            )
            for one in events
        ],
    )


def _fields(event: dict[str, Any]) -> str:
    if event["what"] != "changed":
        return ""
    changes = (
        f"{one['field']}: {one['before'] or 'none'} -> {one['after'] or 'none'}" for one in event["fields"]
    )
    return "; ".join(changes) or "declared again"


def _time(unix_ms: int | None) -> str:
    if not unix_ms:
        return "unknown"
    moment = datetime.datetime.fromtimestamp(unix_ms / 1000, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@click.group()
def withheld() -> None:
    """Endpoints that their agents left out of a list too suddenly to be believed."""


@withheld.command("list")
@context_option
@output_option
def list_withheld(context_directory: str, output: str) -> None:
    """Show agents that came back without most of what they had, on the controller that answers."""
    answer: list[dict[str, Any]] = Session(context_directory).get("/v1/withheld")
    if output == "json":
        print_json(answer)
        return
    if not answer:
        say("nothing is withheld")
        return
    print_table(
        ("cluster", "agent", "endpoints kept"),
        [(one["cluster"], one["agent"], one["endpoints"]) for one in answer],
    )


@withheld.command("confirm")
@click.argument("agent")
@click.option("--cluster", default="", help="Cluster of the agent; default: the context's.")
@context_option
def confirm_withheld(agent: str, cluster: str, context_directory: str) -> None:
    """Believe AGENT at once: what it left out is removed."""
    session = Session(context_directory)
    place = f"{quote(cluster or session.context.file.cluster, safe='')}/{quote(agent, safe='')}"
    answer = session.send("POST", f"/v1/withheld/{place}/confirm", {})
    click.echo(f"{answer['endpoints']} endpoints of {agent} removed")

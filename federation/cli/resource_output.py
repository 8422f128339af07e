"""How objects are shown: tables for people, JSON or YAML for programs and for a later `isthmus apply`."""

from typing import Any

import click
import msgspec
import yaml

from federation.cli.output import print_json, print_table, say


def print_value(value: object, output: str) -> None:
    """Print data as `json` or `yaml`."""
    if output == "yaml":
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        print_json(value)


def event_line(event: dict[str, Any]) -> str:
    """Show one change: what happened to which object of which namespace and cluster, at which revision."""
    metadata = event["object"]["metadata"]
    place = "".join(f" {field} {metadata[field]}" for field in ("namespace", "cluster") if field in metadata)
    name = f"{event['object']['kind'].lower()}/{metadata['name']}"
    return f"{event['type']}  {name}{place}  {metadata['resourceVersion']}"


def print_event(event: dict[str, Any], output: str) -> None:
    """Print one change, as a line or, of YAML, as a document."""
    if output == "yaml":
        click.echo("---")
        print_value(event, output)
    else:
        click.echo(msgspec.json.encode(event) if output == "json" else event_line(event))


def print_objects(items: list[dict[str, Any]], output: str, *, single: bool = False) -> None:
    """Print objects; `single`: the only one was asked for by its name."""
    if output != "table":
        print_value(items[0] if single else {"kind": "List", "apiVersion": "v1", "items": items}, output)
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
    states = [one["state"] for one in _addresses(item)]
    counts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    return ",".join([*counts, *(f"{one['type']}={one['status']}" for one in _troubles(item))])


def _addresses(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What is held of each address of an external service; empty for all other kinds."""
    status = item.get("status")
    return (
        status.get("addresses", []) if item["kind"] == "ExternalService" and isinstance(status, dict) else []
    )


def print_endpoints(endpoints: list[dict[str, Any]], output: str) -> None:
    """Print endpoints, which are no objects of the API."""
    if output != "table":
        print_value(endpoints, output)
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
            for one in endpoints
        ],
    )

"""`isthmus cluster join --dry-run`: what would change, and what stands in the way."""

import re

import click

from certs.core.token import JoinToken
from discovery.core.join_forecast import ExpectedService
from federation.app.config import ControllerConfig, JoinConfig
from federation.app.joining import forecast_join
from federation.cli.output import say
from federation.kernel.errors import AlreadyExistsError, InvalidInputError
from federation.kernel.names import check_label

_SERVICE = re.compile(r"([^.:/]+)\.([^.:/]+)(?::(\d{1,5})(?:/(http|tcp))?)?")


def show_forecast(config: ControllerConfig | JoinConfig, token: JoinToken, services: tuple[str, ...]) -> None:
    """Print what a join would do; raises AlreadyExistsError when it would be refused."""
    found = forecast_join(config, token, tuple(read_service(text) for text in services))
    for change in found.changes:
        click.echo(change)
    for warning in found.warnings:
        say(f"warning: {warning}")
    for conflict in found.conflicts:
        say(f"conflict: {conflict}")
    if found.conflicts:
        raise AlreadyExistsError(
            f"cluster {config.cluster.name} cannot join like this: {len(found.conflicts)} in the way"
        )
    say("nothing was changed; without --dry-run this is done, and nothing else")


def read_service(text: str) -> ExpectedService:
    """Read `orders.shop:8080/http`; raises InvalidInputError."""
    match = _SERVICE.fullmatch(text)
    if match is None:
        raise InvalidInputError(
            f"--service: {text[:200]!r} is no service, expected NAME.NAMESPACE[:PORT[/PROTOCOL]]"
        )
    service, namespace, port, protocol = match.groups()
    check_label(service, "--service: name")
    check_label(namespace, "--service: namespace")
    return ExpectedService(
        namespace=namespace, service=service, port=int(port or 0), protocol=protocol or "http"
    )

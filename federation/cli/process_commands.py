"""`isthmus controller|agent|gateway|dns run`: the processes themselves.

Each command imports its process when it runs: a quick `isthmus get` must not wait for gRPC and xDS.
"""

import asyncio
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from federation.agent.config import AgentConfig, GatewayConfig
from federation.app.config import ControllerConfig, DnsConfig, MirrorConfig
from federation.cli.agent_status import agent_status
from federation.cli.session import config_option, read_config, read_text, read_token
from federation.kernel.errors import InvalidInputError

F = TypeVar("F", bound=Callable[..., Any])


def token_options(command: F) -> F:
    """`--token` and `--token-file`, needed at the first start only."""
    command = click.option("--token", "token_text", help="Join token; needed at the first start only.")(
        command
    )
    return click.option("--token-file", type=click.Path(path_type=Path), help="File that holds it.")(command)


def is_mirror(path: Path) -> bool:
    """Return whether the configuration is a mirror's; what cannot be read is refused where it is read whole."""
    try:
        return tomllib.loads(read_text(path)).get("role") == "mirror"
    except tomllib.TOMLDecodeError:
        return False


@click.group()
def controller() -> None:
    """The control plane's process."""


@controller.command("run")
@config_option
@token_options
def run_controller_command(config_path: Path, token_text: str | None, token_file: Path | None) -> None:
    """Run a controller until SIGTERM. A mirror (`role = "mirror"`) enrolls first if it never did."""
    token = read_token(token_text, token_file)
    if is_mirror(config_path):
        from federation.app.mirror import run_mirror

        asyncio.run(run_mirror(read_config(config_path, MirrorConfig), token))
        return
    if token is not None:
        raise InvalidInputError("--token is for mirrors: a member or witness joins by isthmus cluster join")
    from federation.app.controller import run_controller

    asyncio.run(run_controller(read_config(config_path, ControllerConfig)))


@click.group()
def agent() -> None:
    """The process beside workloads, with their sidecar Envoy."""


@agent.command("run")
@config_option
@token_options
def run_agent_command(config_path: Path, token_text: str | None, token_file: Path | None) -> None:
    """Run an agent until SIGTERM; it enrolls first if it never did."""
    from federation.agent.agent import run_agent
    from federation.app.telemetry import set_up_logging

    config = read_config(config_path, AgentConfig)
    set_up_logging(config.log)
    asyncio.run(run_agent(config, read_token(token_text, token_file)))


agent.add_command(agent_status)


@click.group()
def gateway() -> None:
    """The east-west gateway of a cluster."""


@gateway.command("run")
@config_option
@token_options
def run_gateway_command(config_path: Path, token_text: str | None, token_file: Path | None) -> None:
    """Run a gateway until SIGTERM, which drains it; it enrolls first if it never did."""
    from federation.agent.gateway import run_gateway
    from federation.app.telemetry import set_up_logging

    config = read_config(config_path, GatewayConfig)
    set_up_logging(config.log)
    asyncio.run(run_gateway(config, read_token(token_text, token_file)))


@click.group()
def dns() -> None:
    """The DNS process of a cluster."""


@dns.command("run")
@config_option
@token_options
def run_dns_command(config_path: Path, token_text: str | None, token_file: Path | None) -> None:
    """Answer DNS until SIGTERM; it enrolls first if it never did."""
    from federation.app.dns import run_dns

    asyncio.run(run_dns(read_config(config_path, DnsConfig), read_token(token_text, token_file)))

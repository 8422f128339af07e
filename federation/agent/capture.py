"""`isthmus capture`: puts the redirection of a host's connections into the kernel, shows it, takes it out.

Two things in the network namespace in which it runs: the table of `capture_rules` and a route for the
clusterset addresses. Nobody else has a table of that name or such a route, so that removing is exact.
"""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from federation.agent.capture_rules import REMOVE_RULES, TABLE, VIP_ROUTE, Capture, capture_rules
from federation.agent.config import AgentConfig
from federation.kernel.configfile import host_port
from federation.kernel.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)

# An agent that starts for the first time enrolls before its Envoy listens.
LISTENER_WAIT_S = 30.0
LISTENER_POLL_S = 0.1
_TIMEOUT_S = 10.0
# Not on the PATH of every caller, where these programs live.
_SYSTEM_FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"
_PACKAGES = {"nft": "nftables", "ip": "iproute2"}


def capture_of(config: AgentConfig) -> Capture:
    """Return one agent's part of the rules.

    Raises PreconditionError while its Envoy is not made ready, NotFoundError before the agent ever ran,
    InvalidInputError for a user that this machine does not know or an `outbound` that is no IPv4 address.
    """
    if not config.capture.enabled:
        raise PreconditionError(
            f"agent {config.id}: capture.enabled is false: expected true, and the agent started with it"
        )
    try:
        own = Path(config.data_dir).stat().st_uid
    except OSError as error:
        raise NotFoundError(
            f"agent {config.id}: data_dir {config.data_dir}: {error.strerror}: start the agent first, its user is"
            " not captured"
        ) from error
    address, port = host_port(config.outbound, "outbound")
    return Capture(
        agent=config.id,
        address=address,
        port=port,
        users=tuple(_uid(user, "capture.users") for user in config.capture.users),
        exempt_users=(own, *(_uid(user, "capture.exempt_users") for user in config.capture.exempt_users)),
        exclude_ranges=config.capture.exclude_ranges,
        exclude_ports=config.capture.exclude_ports,
    )


def describe_apply(captures: Sequence[Capture]) -> str:
    """Return what `apply_capture` would do, as commands for a shell."""
    return f"ip route replace {' '.join(VIP_ROUTE)}\nnft -f - <<'END'\n{capture_rules(captures)}END\n"


def describe_remove() -> str:
    """Return what `remove_capture` would do, as commands for a shell."""
    return f"nft -f - <<'END'\n{REMOVE_RULES}END\nip route delete {' '.join(VIP_ROUTE[:3])}\n"


def apply_capture(captures: Sequence[Capture]) -> None:
    """Redirect; replaces in one step what an earlier time redirected.

    Raises UnavailableError, and changes nothing, while nobody listens where connections would go: the
    host's applications would be cut off.
    """
    rules = capture_rules(captures)
    ip, nft = _program("ip"), _program("nft")
    for capture in captures:
        _await_listener(capture)
    applied = _is_applied(nft)
    _run([ip, "route", "replace", *VIP_ROUTE])
    try:
        _run([nft, "-f", "-"], rules)
    except PreconditionError:
        if not applied:
            _remove_route(ip)
        raise


def remove_capture() -> bool:
    """Stop to redirect; connections that live go on. Return whether there was anything to remove."""
    ip, nft = _program("ip"), _program("nft")
    applied = _is_applied(nft)
    if applied:
        _run([nft, "-f", "-"], REMOVE_RULES)
    return _remove_route(ip) or applied


def show_capture() -> str:
    """Return the table and the route as the kernel has them; raises NotFoundError when there is none."""
    ip, nft = _program("ip"), _program("nft")
    if not _is_applied(nft):
        raise NotFoundError("no connection is captured in this network namespace")
    return _run([nft, "list", "table", "inet", TABLE]) + _route(ip)


def _is_applied(nft: str) -> bool:
    return f"table inet {TABLE}\n" in _run([nft, "list", "tables"])


def _route(ip: str) -> str:
    return _run([ip, "-4", "route", "show", "exact", VIP_ROUTE[0], "dev", "lo"])


def _remove_route(ip: str) -> bool:
    there = bool(_route(ip).strip())
    if there:
        _run([ip, "route", "delete", *VIP_ROUTE[:3]])
    return there


def _await_listener(capture: Capture) -> None:
    deadline_s = time.monotonic() + LISTENER_WAIT_S
    while True:
        try:
            with socket.create_connection((capture.address, capture.port), timeout=_TIMEOUT_S):
                return
        except OSError as error:
            if time.monotonic() >= deadline_s:
                raise UnavailableError(
                    f"agent {capture.agent}: {capture.address}:{capture.port}: {error.strerror or error}: nobody"
                    " takes the connections that would be redirected there, so nothing was changed: start the agent"
                ) from error
        time.sleep(LISTENER_POLL_S)


def _uid(user: str, key: str) -> int:
    if user.isascii() and user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError) as error:
        raise InvalidInputError(f"{key}: this machine has no user {user[:64]!r}") from error


def _program(name: str) -> str:
    if os.geteuid() != 0:
        raise NotAllowedError("connections are captured by root only: expected to be run by root")
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_FOLDERS)
    if found is None:
        raise PreconditionError(
            f"program {name} is neither on PATH nor in {_SYSTEM_FOLDERS}: install the package {_PACKAGES[name]}"
        )
    return found


def _run(command: list[str], text: str = "") -> str:
    """Return what a program printed; raises PreconditionError with what it complained about."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PreconditionError(f"{name}: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[:500]
        raise PreconditionError(f"{name} {' '.join(command[1:])}: exit {done.returncode}: {said}")
    return done.stdout

"""How connections of a host's applications come to its agents' Envoys: a table of nftables, as text. Pure.

One network namespace has one table, which redirects for every agent there:

* Never: what the agents and their Envoys open themselves (by their user), and whoever else is exempt.
* Connections to clusterset addresses, of every user that an agent captures.
* All other TCP over IPv4 but to this host itself (through `lo`) and to what is excluded: Envoy passes it on.

A connection to a clusterset address that nobody redirected is refused: it would lead nowhere.

The kernel looks for a route before it asks this table, and nothing routes the clusterset addresses: they
need a route of their own (`VIP_ROUTE`), or connecting fails with "network is unreachable".
"""

import ipaddress
from collections.abc import Iterable, Sequence

import msgspec

from discovery.core.vips import VIP_PREFIX
from federation.kernel.errors import InvalidInputError

TABLE = "isthmus"
# `lo` and its address as source: what is not redirected never leaves the host.
VIP_ROUTE = (str(VIP_PREFIX), "dev", "lo", "scope", "host", "src", "127.0.0.1")
# Where destinations are translated; nft has no name for it in the output hook.
_BEFORE_ROUTING = -100

REMOVE_RULES = f"table inet {TABLE}\ndelete table inet {TABLE}\n"


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's part: whose connections its Envoy takes, and where. Users are numbers (uids)."""

    agent: str
    address: str  # Where the Envoy listens.
    port: int
    users: tuple[int, ...] = ()  # Empty: everybody whom no other agent takes.
    exempt_users: tuple[int, ...] = ()
    exclude_ranges: tuple[str, ...] = ()
    exclude_ports: tuple[int, ...] = ()


def capture_rules(captures: Sequence[Capture]) -> str:
    """Return what to give to `nft -f -`: it replaces the table of an earlier time in one step.

    Raises InvalidInputError when two agents claim the same user, or everybody.
    """
    _check_claims(captures)
    exempt = sorted({uid for capture in captures for uid in capture.exempt_users})
    choose = [
        f"{f'meta skuid {_set(capture.users)} ' if capture.users else ''}goto {_chain(position)}"
        for position, capture in sorted(enumerate(captures), key=lambda each: not each[1].users)
    ]
    output = [
        f"type nat hook output priority {_BEFORE_ROUTING}; policy accept;",
        "meta nfproto != ipv4 return",
        "meta l4proto != tcp return",
        f"meta skuid {_set(exempt)} return",
        *choose,
    ]
    refuse = [
        "type filter hook output priority 0; policy accept;",
        f"ip daddr {VIP_PREFIX} meta l4proto tcp reject with tcp reset",
        f"ip daddr {VIP_PREFIX} reject",
    ]
    chains = [
        *(_block(f"chain {_chain(each)}", _redirect(capture)) for each, capture in enumerate(captures)),
        _block("chain output", output),
        _block("chain refuse", refuse),
    ]
    return REMOVE_RULES + _block(f"table inet {TABLE}", chains) + "\n"


def _redirect(capture: Capture) -> list[str]:
    target = f"meta l4proto tcp dnat ip to {capture.address}:{capture.port}"
    ranges = [str(each) for each in ipaddress.collapse_addresses(map(_network, capture.exclude_ranges))]
    return [
        f'comment "{capture.agent}"',
        f"ip daddr {VIP_PREFIX} {target}",
        'oifname "lo" return',
        *([f"ip daddr {_set(ranges)} return"] if ranges else []),
        *([f"tcp dport {_set(sorted(set(capture.exclude_ports)))} return"] if capture.exclude_ports else []),
        target,
    ]


def _check_claims(captures: Sequence[Capture]) -> None:
    claimed: dict[int | None, str] = {}
    for capture in captures:
        for uid in capture.users or (None,):
            other = claimed.setdefault(uid, capture.agent)
            if other != capture.agent:
                whose = "everybody's connections" if uid is None else f"the connections of user {uid}"
                raise InvalidInputError(
                    f"capture.users: agents {other} and {capture.agent} both take {whose}, expected each user"
                    " with one agent and at most one agent without users"
                )


def _network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)


def _chain(position: int) -> str:
    return f"agent_{position}"


def _set(values: Iterable[object]) -> str:
    return f"{{ {', '.join(map(str, values))} }}"


def _block(head: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines).replace("\n", "\n  ")
    return f"{head} {{\n  {body}\n}}"

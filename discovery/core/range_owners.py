"""Whose an address is: the ranges of all clusters, to be asked for many addresses.

Nobody declares an address outside of all clusters (`discovery.core.external`) that lies in the range of another one. Who did
so before that had the range keeps it: a join takes nothing from anybody.
"""

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from discovery.core.poison import stands_for
from discovery.core.rules import networks

_BITS = {4: 32, 6: 128}


class Claim(NamedTuple):
    """A range, and a cluster that has it."""

    range: str
    cluster: str

    @property
    def refusal(self) -> str:
        """Why nobody else declares an address in it: what follows after the address."""
        return f"{self.where}: only that may publish it"

    @property
    def where(self) -> str:
        """Where the address is: what follows after it."""
        return f"lies in {self.range}, a range of cluster {self.cluster}"


class RangeOwners:
    """The ranges of clusters, by length of prefix. Cost to make: a look at each range."""

    def __init__(self, ranges: Mapping[str, tuple[str, ...]]) -> None:
        self._claims: dict[tuple[int, int], dict[int, list[Claim]]] = {}
        for cluster in sorted(ranges):
            for network in networks(ranges[cluster]):
                known = self._claims.setdefault((network.version, network.prefixlen), {})
                number = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
                known.setdefault(number, []).append(Claim(str(network), cluster))
        self._lengths = sorted(self._claims, reverse=True)

    def claim(self, owner: str, address: str) -> Claim | None:
        """The narrowest range that contains the address, or what it stands for, if `owner` has none as narrow.

        Among equals that of the first cluster by name. Cost: a look for each length that ranges have.
        """
        if not self._lengths:
            return None
        for text in (address, *stands_for(address)):
            meant = ipaddress.ip_address(text)
            for version, length in self._lengths:
                if version != meant.version:
                    continue
                found = self._claims[version, length].get(int(meant) >> (_BITS[version] - length), ())
                if any(claim.cluster == owner for claim in found):
                    break
                if found:
                    return found[0]
        return None

"""Validation contexts of two trust domains: for callers of clusters that move from one to the other."""

from collections import Counter
from collections.abc import Iterable, Mapping

from discovery.core.view import Owner, TrustDomainRoots
from gateways.core import names, trust
from gateways.core.wire import XdsResource

Pair = tuple[str, str]  # Sorted.


def pairs_of(owners: Iterable[Owner]) -> frozenset[Pair]:
    """The pairs of trust domains by which some of these owners are judged now."""
    return frozenset(
        (min(owner.trust_domain, other), max(owner.trust_domain, other))
        for owner in owners
        if (other := owner.other_trust_domain)
    )


class RootPairs:
    """Counts who needs which pair: its secret is there as long as some service's clusters name it."""

    def __init__(self) -> None:
        self._used: Counter[Pair] = Counter()

    def count(self, before: frozenset[Pair], after: frozenset[Pair]) -> None:
        """A service needs the pairs `after`, no longer those `before`."""
        self._used.update(after)
        self._used.subtract(before)

    def update(
        self, table: dict[str, XdsResource], roots: Mapping[str, TrustDomainRoots], changed: frozenset[str]
    ) -> set[str]:
        """Make the secrets in `table` those that are needed; return the names of those that changed.

        `changed` are the trust domains whose roots did. A pair of which roots are unknown has no secret.
        """
        touched = set()
        for pair, uses in tuple(self._used.items()):
            name = names.roots_secret(*pair)
            if uses and name in table and changed.isdisjoint(pair):
                continue
            touched.add(name)
            if uses and roots.keys() >= set(pair):
                table[name] = trust.pair_secret(roots[pair[0]], roots[pair[1]])
            else:
                table.pop(name, None)
            if not uses:
                del self._used[pair]
        return touched

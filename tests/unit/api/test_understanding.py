"""What an operator is told of a large loss: the worst of it, and how much there is."""

import msgspec

from federation.api.understanding import LOSSES_LISTED_MAX, Losses
from gateways.core.whatif import lose_service
from tests.unit.gateways.builders import endpoint, gateway, owner, service


def test_of_too_many_losses_the_worst_are_listed_and_all_are_counted() -> None:
    here = owner("alpha", [endpoint("alpha")], local=True)
    there = owner("beta", [endpoint("beta")], gateways=[gateway("beta")])
    (thinner,) = lose_service(service(here, there), service(here, there), "alpha", {"beta"})
    (dies,) = lose_service(service(there), service(there), "alpha", {"beta"})
    losses = Losses()
    for number in range(2 * LOSSES_LISTED_MAX + 10):
        losses.add([msgspec.structs.replace(thinner, caller=f"c{number}")])
        assert len(losses.worst) <= 2 * LOSSES_LISTED_MAX
    losses.add([dies])
    losses.trim()
    assert len(losses.worst) == LOSSES_LISTED_MAX
    assert losses.worst[0] == dies
    assert losses.counts == {"thinner": 2 * LOSSES_LISTED_MAX + 10, "dies": 1}

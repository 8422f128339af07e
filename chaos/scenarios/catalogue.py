"""Every scenario that `isthmus chaos` knows, by name."""

from typing import NamedTuple

from chaos.scenarios.disasters import DISASTERS
from chaos.scenarios.drain import DRAIN
from chaos.scenarios.failing_drain import FAILING_DRAIN
from chaos.scenarios.gateways import gateway_kill
from chaos.scenarios.impostor import IMPOSTOR
from chaos.scenarios.network import flapping_link, partition
from chaos.scenarios.one_way import one_way_partition
from chaos.scenarios.rehome import REHOME
from chaos.scenarios.stage import Scenario

# Names of the demo's disasters here: what is lost.
_LOSSES = {
    "cluster-loss": "cluster-dies",
    "leader-cluster-loss": "leader-cluster-dies",
    "blackhole": "cluster-blackholed",
    "control-plane-loss": "control-plane-dies",
}
_BY_NAME = {scenario.name: scenario for scenario in DISASTERS}


class Entry(NamedTuple):
    """A scenario under the name that the command knows."""

    name: str
    needs_root: bool  # It happens to the network between clusters, which only root can make.
    scenario: Scenario


CATALOGUE = (
    *(Entry(name, False, _BY_NAME[disaster]) for name, disaster in _LOSSES.items()),
    Entry(
        "gateway-kill",
        False,
        Scenario("gateway-kill", "The gateway of a cluster dies and comes back", gateway_kill),
    ),
    Entry("drain", False, DRAIN),
    Entry("failing-drain", False, FAILING_DRAIN),
    Entry("impostor", False, IMPOSTOR),
    Entry("rehome", False, REHOME),
    Entry(
        "partition",
        True,
        Scenario("partition", "A cluster is cut off; each side goes on and grows alone", partition),
    ),
    Entry(
        "one-way-partition",
        True,
        Scenario(
            "one-way-partition",
            "The leader is not heard; then, a follower, it hears nobody",
            one_way_partition,
        ),
    ),
    Entry(
        "flapping-link",
        True,
        Scenario("flapping-link", "The link of a cluster goes down and up every second", flapping_link),
    ),
)

"""The classes of the product that a run is made of; a planted bug puts its own in the place of one."""

from msgspec import Struct

from discovery.core.catalog import Catalog
from discovery.core.local import LocalTable
from federation.api.registry import ClusterRegistry
from federation.app.draining import DrainDesk
from federation.app.rehoming import RehomeDesk
from federation.replication.follower import Follower
from federation.replication.state import FollowerState


class Parts(Struct, frozen=True, kw_only=True):
    """What a run is made of."""

    catalog: type[Catalog] = Catalog
    local: type[LocalTable] = LocalTable
    registry: type[ClusterRegistry] = ClusterRegistry
    follower: type[FollowerState] = FollowerState
    following: type[Follower] = Follower
    desk: type[DrainDesk] = DrainDesk
    moves: type[RehomeDesk] = RehomeDesk

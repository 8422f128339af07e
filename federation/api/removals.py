"""What is remembered of clusters that were removed."""

import msgspec

from discovery.core.kinds import decode_spec
from discovery.core.model import ResourceKey
from discovery.core.specs import RemovedClusterSpec
from discovery.core.tables import Tables
from federation.api.directory import resource
from federation.kernel.errors import NotFoundError
from federation.kernel.names import check_label


class Removal(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to GET /v1/removed/NAME: whoever had this name at this epoch or before was removed."""

    epoch: int
    removed_unix_ms: int
    removed_by: str


def read_removal(tables: Tables, cluster: str) -> Removal:
    """Return what is remembered of a removed cluster; raises NotFoundError for a name that never was one's."""
    check_label(cluster, "cluster")
    row = resource(tables, ResourceKey("", "RemovedCluster", "", cluster))
    spec = decode_spec("RemovedCluster", row.spec, where=str(row.key))
    assert isinstance(spec, RemovedClusterSpec)
    return Removal(epoch=spec.epoch, removed_unix_ms=spec.removed_ms, removed_by=spec.removed_by)


def next_epoch(tables: Tables, cluster: str) -> int:
    """Return the epoch at which a new cluster may take this name."""
    try:
        return read_removal(tables, cluster).epoch + 1
    except NotFoundError:
        return 1

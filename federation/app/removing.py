"""Removing a cluster for an operator: what only a controller knows is looked at here, the catalog does the rest."""

from collections.abc import Awaitable, Callable

import structlog

from consensus.core.contract import Status
from discovery.core.catalog import Catalog
from discovery.core.commands import RemoveCluster
from discovery.core.specs import ClusterSpec, ControllerSpec
from federation.api.directory import cluster_spec, resources
from federation.api.proposer import Proposer
from federation.kernel.errors import NotFoundError, PreconditionError
from federation.kernel.names import check_label

_log = structlog.get_logger("removal")


class RemovalDesk:
    """Takes clusters out of the federation; every refusal says what to do first, and changes nothing."""

    def __init__(
        self,
        *,
        cluster: str,
        proposer: Proposer,
        catalog: Catalog,
        status: Callable[[], Status],
        change_member: Callable[[str, str], Awaitable[str]],
    ) -> None:
        self._cluster = cluster
        self._proposer = proposer
        self._catalog = catalog
        self._status = status
        self._change_member = change_member

    async def remove(self, cluster: str, operator: str, *, force: bool) -> str:
        """Remove `cluster`, which need not answer, and return what was done.

        With `force` it need not be drained, and its vote is taken too. Raises NotFoundError for a cluster that has not
        joined, PreconditionError for the own one, a home of others, one that votes or is not drained, and where
        the members that would be left could not decide anything.
        """
        check_label(cluster, "cluster")
        await self._proposer.barrier()
        tables = self._catalog.tables
        try:
            cluster_spec(tables, cluster)
        except NotFoundError as error:
            raise NotFoundError(f"cluster {cluster} has not joined the federation, or was removed") from error
        if cluster == self._cluster:
            raise PreconditionError(
                f"this controller is one of cluster {cluster}: ask one of another cluster to remove it"
            )
        for row, spec in resources(tables, "Cluster"):
            if isinstance(spec, ClusterSpec) and cluster in spec.homes:
                raise PreconditionError(
                    f"cluster {cluster} is the home of cluster {row.key.name}: remove or move that first"
                    " (docs/how-to/rehome-a-remote.md)"
                )
        await self._take_vote(cluster, force=force)
        await self._proposer.propose(RemoveCluster(cluster=cluster, removed_by=operator, forced=force))
        _log.warning("cluster_removed", cluster=cluster, operator=operator, forced=force)
        return (
            f"cluster {cluster} was removed: its records are being deleted; stop what still runs there."
            f" The name is free for isthmus token create --cluster {cluster}"
        )

    async def _take_vote(self, cluster: str, *, force: bool) -> None:
        status = self._status()
        if force and self._has_member(cluster):
            await self._change_member("remove", cluster)
        elif cluster in (*status.members, *status.learners):
            raise PreconditionError(
                f"cluster {cluster} hosts a member of the log: isthmus member remove {cluster} first"
            )

    def _has_member(self, cluster: str) -> bool:
        return any(
            isinstance(spec, ControllerSpec) and spec.cluster == cluster and spec.role != "mirror"
            for _, spec in resources(self._catalog.tables, "Controller")
        )

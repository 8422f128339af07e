"""The directory of controllers and trust domains, as the catalog has it."""

from collections.abc import Iterator

from discovery.core.kinds import decode_spec
from discovery.core.model import Resource, ResourceKey, unpack_resource
from discovery.core.specs import (
    AnySpec,
    ClusterSpec,
    ControllerSpec,
    FederationSpec,
    MemberSpec,
    Standing,
    TrustDomainSpec,
)
from discovery.core.tables import Tables
from federation.api.messages import Directory, NamedController
from federation.kernel.errors import NotFoundError

DIRECTORY_KINDS = frozenset({"Federation", "Cluster", "TrustDomain", "Controller", "Member"})


def resource(tables: Tables, key: ResourceKey) -> Resource:
    """Return the row of `key`; raises NotFoundError."""
    value = tables.resources.get(key.encode())
    if value is None:
        raise NotFoundError(f"{key} does not exist")
    return unpack_resource(value)


def resources(tables: Tables, kind: str, *, scope: str = "") -> Iterator[tuple[Resource, AnySpec]]:
    """Yield the rows of one kind in one scope, in order of their names, each with its spec."""
    for _, value in tables.resources.items(f"{scope}\0{kind}\0".encode()):
        row = unpack_resource(value)
        yield row, decode_spec(kind, row.spec, where=str(row.key))


def cluster_spec(tables: Tables, cluster: str) -> ClusterSpec:
    """Return the spec of a joined cluster; raises NotFoundError."""
    row = resource(tables, ResourceKey("", "Cluster", "", cluster))
    spec = decode_spec("Cluster", row.spec, where=str(row.key))
    assert isinstance(spec, ClusterSpec)
    return spec


def build_directory(tables: Tables) -> Directory:
    """Return what every process must know to find controllers and to judge certificates.

    Its revision is that of the newest row in it, so that equal directories have equal revisions.
    """
    revision, federation, incarnation = 0, "", 1
    controllers: list[NamedController] = []
    bundles: dict[str, tuple[str, ...]] = {}
    homes: dict[str, str] = {}
    next_homes: dict[str, str] = {}
    trust_domains: dict[str, str] = {}
    standings: dict[str, Standing] = {}
    for kind in sorted(DIRECTORY_KINDS):
        for row, spec in resources(tables, kind):
            revision = max(revision, row.revision)
            match spec:
                case FederationSpec():
                    federation, incarnation = spec.id, spec.incarnation
                case ControllerSpec():
                    controllers.append(NamedController(name=row.key.name, spec=spec))
                case TrustDomainSpec():
                    bundles[row.key.name] = spec.roots
                case MemberSpec():
                    standings[row.key.name] = spec.standing
                case ClusterSpec() if spec.home:
                    homes[row.key.name] = spec.home
                    trust_domains[row.key.name] = spec.shown_trust_domain
                    if len(spec.homes) > 1:
                        next_homes[row.key.name] = spec.homes[1]
                case _:
                    pass
    return Directory(
        revision=revision,
        federation=federation,
        controllers=tuple(controllers),
        bundles=bundles,
        homes=homes,
        incarnation=incarnation,
        standings=standings,
        next_homes=next_homes,
        trust_domains=trust_domains,
    )

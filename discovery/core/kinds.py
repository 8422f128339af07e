"""The kinds of resource under `federation.isthmus.dev/v1alpha1` and what their `spec` may say.

The Structs below are the schema: unknown fields and wrong types are refused with the path of the
field. JSON uses camelCase, as everywhere in Kubernetes.
"""

import ipaddress
from typing import Literal, TypeAlias

import msgspec

from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError
from federation.kernel.names import check_label, check_name

GROUP = "federation.isthmus.dev"
VERSION = "v1alpha1"

Role: TypeAlias = Literal["primary", "remote", "witness"]


class Spec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Base of all specs."""


class FederationSpec(Spec, frozen=True, kw_only=True):
    """The one federation that a catalog belongs to; written by `isthmus init`."""

    id: str  # Random, never changes; every hello carries it.


class ClusterSpec(Spec, frozen=True, kw_only=True):
    """A failure domain that joined."""

    role: Role
    trust_domain: str
    region: str = ""
    zone: str = ""
    network: str = ""  # Clusters on the same non-empty network reach each other's endpoints directly.
    home: str = ""  # For a remote cluster: the primary whose controllers serve it.
    ranges: tuple[str, ...] = ()  # CIDRs that its endpoints and gateways may use.


class TrustDomainSpec(Spec, frozen=True, kw_only=True):
    """The public roots of one trust domain: the only ones that may vouch for its names."""

    roots: tuple[str, ...]  # PEM certificates.
    sequence: int = 1


class ControllerSpec(Spec, frozen=True, kw_only=True):
    """One controller of a cluster: where peers and agents reach it, and what it must prove to be."""

    cluster: str
    role: Literal["member", "witness"]
    identity: str
    raft: str = ""  # host:port of the Raft transport.
    control: str = ""  # host:port of the gRPC port for agents, mirrors and xDS.
    api: str = ""  # host:port of the HTTPS port.
    protocol: int = 1  # Highest protocol version that its last start spoke.


class ExportPolicySpec(Spec, frozen=True, kw_only=True):
    """Which of a namespace's services other clusters may see. Nothing is exported without one."""

    services: tuple[str, ...]  # Names, or "*".
    consumers: tuple[str, ...] = ("*",)  # Clusters, or "*".


class GrantSource(Spec, frozen=True, kw_only=True):
    """Who may call. Empty lists mean any; all given lists must match."""

    trust_domains: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()  # Full SPIFFE IDs.


class GrantSpec(Spec, frozen=True, kw_only=True):
    """Which identities of other trust domains may reach a namespace's services. Default: none."""

    services: tuple[str, ...]  # Names, or "*".
    sources: tuple[GrantSource, ...]


class JoinTokenSpec(Spec, frozen=True, kw_only=True):
    """A one-time permission to join. The secret is nowhere in the catalog, only its SHA-256."""

    purpose: Literal["cluster", "agent", "gateway", "dns"]
    cluster: str  # The cluster that joins, or that the agent will belong to.
    secret_sha256: str
    expires_ms: int  # Federation time.
    namespace: str = ""  # For agents: the namespace and service account of their workloads.
    service_account: str = ""


class AgentSpec(Spec, frozen=True, kw_only=True):
    """One enrolled agent, gateway or DNS process: which identities a controller may sign for it."""

    role: Literal["agent", "gateway", "dns"]
    namespace: str = ""  # For agents: of their workloads.
    service_account: str = ""


class JoinTokenStatus(Spec, frozen=True, kw_only=True):
    """Who took it. Empty until then."""

    claimed_by: str = ""  # SHA-256 of the claimant's public key: the same key may repeat its claim.
    claimed_ms: int = 0


AnySpec: TypeAlias = (
    FederationSpec
    | ClusterSpec
    | TrustDomainSpec
    | ControllerSpec
    | ExportPolicySpec
    | GrantSpec
    | JoinTokenSpec
    | AgentSpec
)


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind is named, where it lives, and whether people may write it."""

    name: str
    plural: str
    spec: type[AnySpec]
    namespaced: bool
    scoped: bool  # True: lives in a cluster and is owned by it; False: belongs to the federation.
    writable: bool  # False: only joining, tokens and controllers write it.
    deletable: bool = True  # False: leaves only with its cluster.


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="Federation", plural="federations", spec=FederationSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="Cluster", plural="clusters", spec=ClusterSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="TrustDomain", plural="trustdomains", spec=TrustDomainSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="Controller", plural="controllers", spec=ControllerSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="JoinToken", plural="jointokens", spec=JoinTokenSpec, namespaced=False, scoped=False, writable=False),
        Kind(name="Agent", plural="agents", spec=AgentSpec, namespaced=False, scoped=True, writable=False),
        Kind(name="ExportPolicy", plural="exportpolicies", spec=ExportPolicySpec, namespaced=True, scoped=True, writable=True),
        Kind(name="Grant", plural="grants", spec=GrantSpec, namespaced=True, scoped=True, writable=True),
    )
}  # fmt: skip


def decode_spec(kind: str, raw: bytes, *, where: str) -> AnySpec:
    """Return the checked spec of a resource of `kind`.

    Raises `InvalidInputError` naming the field, the value and what was expected; `where` says which
    object it was.
    """
    known = KINDS.get(kind)
    if known is None:
        raise InvalidInputError(f"{where}: unknown kind {kind!r}, expected one of {', '.join(KINDS)}")
    try:
        spec = msgspec.json.decode(raw, type=known.spec)
    except MALFORMED as error:
        raise InvalidInputError(f"{where}: spec: {str(error)[0].lower()}{str(error)[1:]}") from error
    _check(spec, where)
    return spec


def _check(spec: AnySpec, where: str) -> None:
    match spec:
        case ClusterSpec():
            _check_cluster(spec, where)
        case ExportPolicySpec():
            _check_names(spec.services, f"{where}: spec.services")
            _check_names(spec.consumers, f"{where}: spec.consumers")
        case GrantSpec():
            _check_names(spec.services, f"{where}: spec.services")
            if not spec.sources:
                raise InvalidInputError(f"{where}: spec.sources is empty: expected at least one source")
        case _:
            pass


def _check_cluster(spec: ClusterSpec, where: str) -> None:
    check_name(spec.trust_domain, f"{where}: spec.trustDomain")
    if (spec.role == "remote") != bool(spec.home):
        raise InvalidInputError(
            f"{where}: spec.home is {spec.home!r}: a remote cluster names its home, others have none"
        )
    for position, text in enumerate(spec.ranges):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidInputError(
                f"{where}: spec.ranges[{position}]: {text!r} is not a network such as 10.0.0.0/8: {error}"
            ) from error


def _check_names(names: tuple[str, ...], where: str) -> None:
    if not names:
        raise InvalidInputError(f'{where} is empty: expected names, or "*" for all')
    for position, name in enumerate(names):
        if name != "*":
            check_label(name, f"{where}[{position}]")

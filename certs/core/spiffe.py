"""SPIFFE identities: strict parsing, and the two shapes of path that we give a meaning.

Source: the SPIFFE-ID standard. The standard compares scheme and trust domain without regard to
case when it parses, but says that they are written in lower case; as Envoy, we accept only lower
case, so that equal identities are equal bytes everywhere.
"""

import re
from typing import Self

from msgspec import Struct

from federation.kernel.errors import InvalidInputError

ID_BYTES_MAX = 2048
TRUST_DOMAIN_BYTES_MAX = 255
# Enough of a wrong text to recognise it in a message, never all of what a stranger sent.
SHOWN_CHARACTERS_MAX = 80

_SCHEME = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_PATH = re.compile(r"(?:/[a-zA-Z0-9._-]+)*")
_SYSTEM_FOLDER = "isthmus"

SYSTEM_ROLES = frozenset({"controller", "agent", "gateway", "dns", "operator"})


class SpiffeId(Struct, frozen=True, kw_only=True):
    """A valid SPIFFE identity; `path` starts with a slash, or is empty for the trust domain itself.

    An invalid one cannot be built: InvalidInputError.
    """

    trust_domain: str
    path: str = ""

    def __post_init__(self) -> None:
        trust_domain(self.trust_domain)
        if _PATH.fullmatch(self.path) is None or any(part in (".", "..") for part in self.path.split("/")):
            raise InvalidInputError(
                f"{shown(self.path)} is not the path of a spiffe id:"
                " expected segments of letters, digits, dot, dash and underscore, no empty one, no . or .."
            )
        if len(_SCHEME) + len(self.trust_domain) + len(self.path) > ID_BYTES_MAX:
            raise InvalidInputError(f"spiffe id {shown(self.path)} is longer than {ID_BYTES_MAX} bytes")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"

    @classmethod
    def of(cls, trust_domain: str, *segments: str) -> Self:
        """Return the identity with this path; a slash inside a segment is refused."""
        for segment in segments:
            if not segment or "/" in segment:
                raise InvalidInputError(f"{shown(segment)} is not one segment of a spiffe id's path")
        return cls(trust_domain=trust_domain, path="".join(f"/{segment}" for segment in segments))


class WorkloadIdentity(Struct, frozen=True, kw_only=True):
    """What `/ns/NAMESPACE/sa/SERVICE_ACCOUNT` says."""

    namespace: str
    service_account: str


class SystemIdentity(Struct, frozen=True, kw_only=True):
    """What `/isthmus/CLUSTER/ROLE/ID` says: one process of ours, or an operator."""

    cluster: str
    role: str
    id: str


def shown(text: str) -> str:
    """Return `text` quoted and cut for a message: escapes keep control characters out of logs."""
    return ascii(text[:SHOWN_CHARACTERS_MAX]) + ("..." if len(text) > SHOWN_CHARACTERS_MAX else "")


def trust_domain(text: str) -> str:
    """Return `text` if it is the name of a trust domain, otherwise InvalidInputError.

    Names that look like IPv4 addresses are legal and mean nothing special (SPIFFE-ID section 2.1).
    """
    if _TRUST_DOMAIN.fullmatch(text) is None:
        raise InvalidInputError(
            f"{shown(text)} is not a trust domain: expected 1 to {TRUST_DOMAIN_BYTES_MAX} of"
            " a-z, 0-9, dot, dash and underscore"
        )
    return text


def parse(text: str) -> SpiffeId:
    """Return the identity that `text` spells, otherwise InvalidInputError."""
    if len(text) > ID_BYTES_MAX:
        raise InvalidInputError(f"spiffe id {shown(text)} is longer than {ID_BYTES_MAX} bytes")
    if not text.startswith(_SCHEME):
        raise InvalidInputError(f"{shown(text)} is not a spiffe id: expected spiffe://TRUST_DOMAIN/PATH")
    domain, slash, path = text.removeprefix(_SCHEME).partition("/")
    return SpiffeId(trust_domain=domain, path=slash + path)


def workload_id(trust_domain: str, namespace: str, service_account: str) -> SpiffeId:
    """Return the identity of a workload."""
    return SpiffeId.of(trust_domain, "ns", namespace, "sa", service_account)


def system_id(trust_domain: str, cluster: str, role: str, id: str) -> SpiffeId:  # noqa: A002 - the word of the design
    """Return the identity of one of our processes, or of an operator."""
    if role not in SYSTEM_ROLES:
        raise InvalidInputError(
            f"{shown(role)} is not a role: expected one of {', '.join(sorted(SYSTEM_ROLES))}"
        )
    return SpiffeId.of(trust_domain, _SYSTEM_FOLDER, cluster, role, id)


def workload_identity(spiffe_id: SpiffeId) -> WorkloadIdentity | None:
    """Return what a workload's identity says, or None when it is not a workload's."""
    match spiffe_id.path.split("/"):
        case ["", "ns", namespace, "sa", service_account]:
            return WorkloadIdentity(namespace=namespace, service_account=service_account)
        case _:
            return None


def system_identity(spiffe_id: SpiffeId) -> SystemIdentity | None:
    """Return what a system identity says, or None when it is not one of ours."""
    match spiffe_id.path.split("/"):
        case ["", "isthmus", cluster, role, id_] if role in SYSTEM_ROLES:
            return SystemIdentity(cluster=cluster, role=role, id=id_)
        case _:
            return None

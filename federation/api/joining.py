"""What a cluster that joins has to show: its root, proven, and a controller that is its own."""

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from certs.core.bundle import make_bundle
from certs.core.certificate import from_pem, load_certificate
from certs.core.issuance import spki
from certs.core.spiffe import parse, system_identity
from discovery.core.commands import Put
from discovery.core.model import ResourceKey
from discovery.core.specs import ClusterSpec, TrustDomainSpec
from federation.api.messages import Directory, JoinRequest, NamedController
from federation.kernel.configfile import host_port
from federation.kernel.errors import BadIdentityError, InvalidInputError, PreconditionError

JOIN_LABEL = b"isthmus join"


def join_message(secret: bytes, cluster: str) -> bytes:
    """What a joining cluster signs with its root key, to show that it holds it."""
    return b"\0".join((JOIN_LABEL, secret, cluster.encode()))


def check_proof(request: JoinRequest) -> str:
    """Return the SHA-256 of the root's public key if the caller holds the root's private key.

    Raises BadIdentityError.
    """
    if len(request.roots) != 1:
        raise InvalidInputError(f"cluster {request.cluster}: {len(request.roots)} roots, expected one")
    where = f"cluster {request.cluster}: root"
    ders = from_pem(request.roots[0].encode(), where=where)
    # What is no bundle would be refused later by every process of the federation.
    make_bundle(request.spec.trust_domain, ders)
    key = load_certificate(ders[0], where=where).public_key()
    if len(ders) != 1:
        raise InvalidInputError(f"{where}: {len(ders)} certificates, expected one")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidInputError(f"cluster {request.cluster}: the root's key is not an elliptic curve key")
    try:
        key.verify(request.proof, join_message(request.secret, request.cluster), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise BadIdentityError(
            f"cluster {request.cluster} did not prove that it holds its root key"
        ) from error
    return hashlib.sha256(spki(key)).hexdigest()


def check_same(request: JoinRequest, directory: Directory) -> None:
    """Raise PreconditionError unless the request is of the cluster and the controller that the directory names."""
    where = f"cluster {request.cluster}"
    domain = request.spec.trust_domain
    if directory.bundles.get(domain) != request.roots:
        raise PreconditionError(
            f"{where}: the root is not the one of {domain} in the catalog: put the saved root into the data directory"
        )
    wanted = request.controller
    known = next(
        (one for one in directory.controllers if one.spec.cluster == request.cluster and one.spec.raft), None
    )
    if wanted is None or known is None or known.name != wanted.name:
        raise PreconditionError(
            f"{where}: its controller is {known.name if known else 'none'} in the catalog,"
            f" not {wanted.name if wanted else 'none'}: keep its id"
        )
    if (known.spec.identity, known.spec.raft) != (wanted.spec.identity, wanted.spec.raft):
        raise PreconditionError(
            f"{where}: its controller listens at {known.spec.raft} in the catalog, not at {wanted.spec.raft}:"
            " a member keeps its address"
        )


def primary_records(request: JoinRequest) -> list[Put]:
    """Return the writes by which a primary or a witness joins; raises InvalidInputError naming what is wrong."""
    controller = request.controller
    if controller is None:
        raise InvalidInputError(f"cluster {request.cluster}: a {request.spec.role} names its controller")
    identity = parse(controller.spec.identity)
    system = system_identity(identity)
    if (
        identity.trust_domain != request.spec.trust_domain
        or system is None
        or (system.cluster, system.role) != (request.cluster, "controller")
        or controller.spec.cluster != request.cluster
    ):
        raise InvalidInputError(
            f"cluster {request.cluster}: controller identity {identity} is not one of its own in {request.spec.trust_domain}"
        )
    _check_addresses(controller, witness=request.spec.role == "witness")
    bundle = TrustDomainSpec(roots=request.roots)
    return [
        Put(
            key=ResourceKey("", "TrustDomain", "", request.spec.trust_domain),
            spec=msgspec.json.encode(bundle),
            expected_revision=0,
        ),
        Put(
            key=ResourceKey("", "Controller", "", controller.name),
            spec=msgspec.json.encode(controller.spec),
            expected_revision=0,
        ),
    ]


def forecast_records(cluster: str, spec: ClusterSpec, controller: NamedController | None) -> list[Put]:
    """Return the writes by which a cluster would join, with a root that nobody has made yet."""
    puts = [
        Put(key=ResourceKey("", "Cluster", "", cluster), spec=msgspec.json.encode(spec), expected_revision=0)
    ]
    if spec.role == "remote":
        return puts
    if controller is None:
        raise InvalidInputError(f"cluster {cluster}: a {spec.role} names its controller")
    _check_addresses(controller, witness=spec.role == "witness")
    bundle = TrustDomainSpec(roots=("to be made",))
    return [
        *puts,
        Put(
            key=ResourceKey("", "TrustDomain", "", spec.trust_domain),
            spec=msgspec.json.encode(bundle),
            expected_revision=0,
        ),
        Put(
            key=ResourceKey("", "Controller", "", controller.name),
            spec=msgspec.json.encode(controller.spec),
            expected_revision=0,
        ),
    ]


def _check_addresses(controller: NamedController, *, witness: bool) -> None:
    """Refuse what the other members could not dial; a witness has no control and api ports."""
    spec = controller.spec
    if spec.role != ("witness" if witness else "member"):
        raise InvalidInputError(f"controller {controller.name}: role {spec.role} is not that of its cluster")
    for key, address in (("raft", spec.raft), ("control", spec.control), ("api", spec.api)):
        if witness and key != "raft" and not address:
            continue
        try:
            host_port(address, f"controller {controller.name}: {key}")
        except ValueError as error:
            raise InvalidInputError(str(error)) from error

"""Who is calling the HTTPS port, and what an operator may do there.

The port asks for a client certificate and does not insist, since enrolling processes have none. The
handshake alone proves nothing: the chain is judged here, against the roots of the trust domain that
the leaf names.
"""

from aiohttp import web

from certs.core.spiffe import SpiffeId, system_identity
from certs.core.verifier import Verifier
from certs.runtime.tls import verify_peer
from discovery.core.tables import Tables
from federation.api.directory import cluster_spec
from federation.kernel.errors import BadIdentityError, NotAllowedError, NotFoundError


def caller_identity(request: web.Request, verifier: Verifier) -> SpiffeId | None:
    """Return the proven identity of the caller, or None if it showed no certificate.

    Raises BadIdentityError for a certificate that proves nothing.
    """
    transport = request.transport
    ssl_object = transport.get_extra_info("ssl_object") if transport is not None else None
    if ssl_object is None or ssl_object.getpeercert(binary_form=True) is None:
        return None
    return verify_peer(ssl_object, verifier, "client")


def require_operator(identity: SpiffeId | None, tables: Tables, *, cluster: str) -> str:
    """Return the operator's name for the audit log.

    An operator of `cluster` may do everything here, also for the remote clusters whose home it is. Raises
    BadIdentityError for a nameless caller and NotAllowedError for anybody else.
    """
    if identity is None:
        raise BadIdentityError(
            "this call needs an operator's client certificate: use --context FILE, made by isthmus init"
        )
    system = system_identity(identity)
    if system is None or system.role != "operator":
        raise NotAllowedError(f"{identity} is not an operator")
    try:
        own = cluster_spec(tables, cluster)
    except NotFoundError as error:
        raise NotAllowedError(f"{identity}: cluster {cluster} has not joined yet") from error
    if identity.trust_domain != own.trust_domain or system.cluster != cluster:
        raise NotAllowedError(f"{identity} is an operator of another cluster, expected one of {cluster}")
    return str(identity)

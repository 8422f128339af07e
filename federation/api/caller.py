"""Who is calling the HTTPS port, and what an operator may do there.

The port asks for a client certificate and does not insist, since enrolling processes have none. The
handshake alone proves nothing: the chain is judged here, against the roots of the trust domain that
the leaf names.
"""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from certs.core.spiffe import SpiffeId, system_identity
from certs.core.verifier import Verifier
from certs.runtime.tls import verify_peer
from discovery.core.tables import Tables
from federation.api.audit import AuditTrail
from federation.api.directory import cluster_spec
from federation.api.proposer import ACTOR
from federation.kernel.errors import BadIdentityError, Code, NotAllowedError, NotFoundError

# What is said of a refusal: the caller was told more.
_REFUSED = {
    401: (Code.UNAUTHENTICATED, "the caller did not prove who it is"),
    403: (Code.PERMISSION_DENIED, "the caller may not do this"),
    429: (Code.RESOURCE_EXHAUSTED, "a limit was reached"),
}
# Who knocks has no name yet, so that what it says does not fit is recorded too: the name may be another's.
_DOORS = ("/v1/join", "/v1/enroll")
_REFUSED_AT_DOORS = {
    409: (Code.ALREADY_EXISTS, "the name is taken"),
    422: (Code.FAILED_PRECONDITION, "what it says does not fit what is known"),
}
# What handlers note in a request: whom it is about, where its path does not say.
ABOUT = "isthmus.about"


def caller_identity(request: web.Request, verifier: Verifier) -> SpiffeId | None:
    """Return the proven identity of the caller, or None if it showed no certificate.

    Raises BadIdentityError for a certificate that proves nothing.
    """
    transport = request.transport
    ssl_object = transport.get_extra_info("ssl_object") if transport is not None else None
    if ssl_object is None or ssl_object.getpeercert(binary_form=True) is None:
        return None
    return verify_peer(ssl_object, verifier, "client")


def audited(audit: AuditTrail, verifier: Verifier) -> Middleware:
    """Return the middleware that notes who asks for a write, and records those that were refused here.

    It stands outside of the one that turns errors into answers.
    """

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "GET":
            return await handler(request)
        try:
            actor = str(caller_identity(request, verifier) or "")
        except BadIdentityError:
            actor = ""
        ACTOR.set(actor)
        response = await handler(request)
        what, refused = request.path, _REFUSED.get(response.status)
        if refused is None and request.path in _DOORS:
            refused = _REFUSED_AT_DOORS.get(response.status)
            what = f"{what} of {request[ABOUT]}" if ABOUT in request else what
        if refused is not None:
            code, message = refused
            audit.refuse("api", request.method, code, message, actor=actor, what=what)
        return response

    return record


def require_operator(identity: SpiffeId | None, tables: Tables, *, cluster: str) -> str:
    """Return the operator's name for the audit log.

    An operator of `cluster` may do everything here, also for the remote clusters whose home it is; at a mirror of
    a remote cluster those of its home may. Raises BadIdentityError for a nameless caller and NotAllowedError for
    anybody else.
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
    if identity.trust_domain != own.trust_domain or system.cluster != (own.home or cluster):
        raise NotAllowedError(
            f"{identity} is an operator of another cluster, expected one of {own.home or cluster}"
        )
    return str(identity)

"""A new process becomes a member of its cluster: a one-time token in, an identity on disk out.

    DATA_DIR/identity/         the system leaf and its key, which never leaves this directory
    DATA_DIR/directory.json    controllers and roots, renewed later by the controllers
    DATA_DIR/enrollment.json   who this process is; never changes

The key lies on disk before it is first sent and the leaf is installed last, so a process that crashed
or lost the answer repeats the call with the same key, for which the same token is good.
"""

import asyncio
from pathlib import Path

import msgspec
import structlog

from certs.core import spiffe
from certs.core.token import JoinToken, parse_token
from certs.core.verifier import verify_chain
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from discovery.core.kinds import decode_spec
from discovery.core.specs import ClusterSpec, WorkloadGroupSpec
from federation.agent.directory import read_bundles, save_directory
from federation.agent.state_file import read_state, write_state
from federation.api.client import ApiClient
from federation.api.messages import EnrollReply, EnrollRequest
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    BadIdentityError,
    InvalidInputError,
    IsthmusError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionError,
    UnavailableError,
)
from federation.kernel.versions import PROTOCOL_VERSION, speaks

IDENTITY_FOLDER = "identity"
ENROLLMENT_FILE = "enrollment.json"
_KIND = "isthmus enrollment"

_log = structlog.get_logger("enrollment")


class Enrollment(msgspec.Struct, frozen=True, kw_only=True):
    """Who this process is."""

    purpose: str  # "agent", "gateway" or "dns"
    id: str
    identity: str  # Its system SPIFFE ID.
    federation: str
    cluster: str
    cluster_spec: ClusterSpec
    namespace: str = ""  # For agents: of their workloads.
    workload_identity: str = ""  # For agents: the SPIFFE ID that their workloads show.
    workload_group: str = ""  # For agents: the group whose token it was, if any,
    template: WorkloadGroupSpec | None = None  # and what it said then; a change needs a new enrollment.


def load_enrollment(data_dir: Path) -> Enrollment | None:
    """Return what an earlier enrollment left in `data_dir`, None when there was none or it was not finished.

    Its identities are those of now: a cluster that moved to another home has another trust domain. Raises `CorruptError` when a file is damaged.
    """
    leaf = LeafIdentity.load(data_dir / IDENTITY_FOLDER)
    if not leaf.installed:
        return None
    try:
        enrollment = read_state(data_dir / ENROLLMENT_FILE, _KIND, Enrollment)
    except NotFoundError:
        return None
    domain = leaf.spiffe_id.trust_domain
    return msgspec.structs.replace(
        enrollment,
        identity=_within(enrollment.identity, domain),
        workload_identity=_within(enrollment.workload_identity, domain),
    )


def _within(identity: str, trust_domain: str) -> str:
    """Return the same identity of another trust domain; "" stays."""
    if not identity:
        return ""
    return str(msgspec.structs.replace(spiffe.parse(identity), trust_domain=trust_domain))


async def ensure_enrolled(token_text: str | None, purpose: str, id: str, data_dir: Path) -> Enrollment:  # noqa: A002
    """Return who this process is, enrolling first if it never did; a token is ignored after that.

    Raises `PreconditionError` when `data_dir` belongs to another process, or there is no token.
    """
    held = load_enrollment(data_dir)
    if held is None:
        if token_text is None:
            raise PreconditionError(
                f"data_dir: {data_dir} holds no identity yet: start once with --token,"
                f" made by: isthmus token create --purpose {purpose}"
            )
        return await enroll(token_text, purpose, id, data_dir)
    if (held.purpose, held.id) != (purpose, id):
        raise PreconditionError(
            f"data_dir: {data_dir} belongs to {held.purpose} {held.id!r}, not to {purpose} {id!r}:"
            " give each process a data_dir of its own"
        )
    return held


async def enroll(token_text: str, purpose: str, id: str, data_dir: Path) -> Enrollment:  # noqa: A002
    """Prove `token_text` to its controllers, one after the other, and keep what they answer.

    Raises the controller's refusal (token expired, used, unknown), `BadIdentityError` when a server is
    not the one that the token pins, `UnavailableError` when none can be reached.
    """
    token = parse_token(token_text)
    if token.purpose != purpose:
        raise InvalidInputError(
            f"token: made for purpose {token.purpose}, this process needs one for {purpose}"
        )
    leaf = LeafIdentity.load(data_dir / IDENTITY_FOLDER)
    request = EnrollRequest(secret=token.secret, purpose=purpose, id=id, csr=leaf.create_csr())
    raw = await asyncio.to_thread(_ask_all, token, msgspec.json.encode(request))
    try:
        reply = msgspec.json.decode(raw, type=EnrollReply)
    except MALFORMED as error:
        raise InvalidInputError(f"enroll: the controller's answer cannot be read: {error}") from error
    _check_reply(reply, token, purpose, id)
    enrollment = Enrollment(
        purpose=purpose,
        id=id,
        identity=reply.identity,
        federation=reply.directory.federation,
        cluster=reply.cluster,
        cluster_spec=reply.cluster_spec,
        namespace=reply.namespace,
        workload_identity=reply.workload_identity,
        workload_group=reply.workload_group,
        template=reply.template,
    )
    save_directory(data_dir, reply.directory)
    write_state(data_dir / ENROLLMENT_FILE, _KIND, enrollment)
    leaf.install(reply.chain)
    _log.info("enrolled", identity=reply.identity, cluster=reply.cluster, until=leaf.not_after.isoformat())
    return enrollment


def _ask_all(token: JoinToken, body: bytes) -> bytes:
    """Ask each controller of the token until one decides; runs in a thread."""
    problems: list[IsthmusError] = []
    for address in token.endpoints:
        one = msgspec.structs.replace(token, endpoints=(address,))
        try:
            return ApiClient.of_token(one).call("POST", "/v1/enroll", body)
        except (UnavailableError, OutcomeUnknownError, BadIdentityError) as error:
            # A dead, a lost or a false server: the next one may be the right one.
            problems.append(type(error)(f"{address}: {error.message}"))
    worst = next((one for one in problems if isinstance(one, BadIdentityError)), problems[-1])
    raise type(worst)(f"enroll: {'; '.join(one.message for one in problems)}")


def _check_reply(reply: EnrollReply, token: JoinToken, purpose: str, id: str) -> None:  # noqa: A002
    """Refuse an answer that we could not live with: better now than at the first renewal."""
    if not speaks(reply.protocol):
        raise PreconditionError(
            f"enroll: the controller speaks protocol {reply.protocol}, this process {PROTOCOL_VERSION}"
        )
    expected = spiffe.system_id(token.trust_domain, token.cluster, purpose, id)
    if reply.identity != str(expected) or reply.cluster != token.cluster:
        raise InvalidInputError(f"enroll: the controller answered {reply.identity!r}, expected {expected}")
    if reply.workload_identity:
        spiffe.parse(reply.workload_identity)
    if reply.template is not None:
        decode_spec("WorkloadGroup", msgspec.json.encode(reply.template), where="enroll: template")
    proven = verify_chain(reply.chain, read_bundles(reply.directory), utc_now(), purpose="client")
    if proven != expected:
        raise InvalidInputError(f"enroll: the controller certified {proven}, expected {expected}")

"""`isthmus cluster join`: a cluster becomes part of a federation by a one-time token.

The keys are made first and kept, so that a join that was cut short can be repeated: the federation
gives the same answer to the same root.
"""

from pathlib import Path

import msgspec

from certs.core.spiffe import system_id
from certs.core.token import JoinToken
from certs.runtime.authority import ROOT_FILE
from discovery.core.join_forecast import ExpectedService, Forecast
from federation.agent.directory import save_directory
from federation.agent.folder_lock import hold_folder
from federation.api.client import ApiClient
from federation.api.joining import join_message
from federation.api.messages import ForecastRequest, JoinReply, JoinRequest
from federation.app.config import ControllerConfig, JoinConfig
from federation.app.context import write_context
from federation.app.credentials import AUTHORITY_DIRECTORY, PASSPHRASE_FILE, Credentials
from federation.app.founding import cluster_spec_of, controller_of, named_controller
from federation.app.raft import set_log_aside
from federation.app.removed import save_epoch
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, PreconditionError


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What `isthmus cluster join` did."""

    federation: str
    revision: int
    context: Path | None  # None for a remote cluster: its home's operators run it.


def join_with_controller(config: ControllerConfig, token: JoinToken, *, again: bool) -> Joined:
    """Join a primary or a witness; afterwards `isthmus controller run` starts it.

    With `again`, one that joined before begins with an empty log; its old one is set aside. Raises what
    the federation answers: NotAllowedError, PreconditionError for a used or expired token,
    AlreadyExistsError for a name that is taken.
    """
    _check_token(token, config.cluster.name)
    data_dir = Path(config.data_dir)
    with hold_folder(data_dir):
        root = data_dir / AUTHORITY_DIRECTORY / ROOT_FILE
        if again and not root.exists():
            raise PreconditionError(
                f"{root} does not exist: put the saved root of {config.cluster.trust_domain} there, and its passphrase"
                f" into {config.root_passphrase_file or data_dir / PASSPHRASE_FILE}"
            )
        credentials = Credentials.open(config) if again else Credentials.create(config)
        try:
            request = JoinRequest(
                secret=token.secret,
                cluster=config.cluster.name,
                spec=cluster_spec_of(config.cluster),
                roots=(credentials.root.bundle().pem().decode(),),
                controller=controller_of(config, credentials),
                again=again,
                proof=credentials.root.sign(join_message(token.secret, config.cluster.name)),
            )
            reply = _post(request, token)
            if again:
                set_log_aside(data_dir)
            save_directory(data_dir, reply.directory)
            save_epoch(data_dir, reply.epoch)
            context = write_context(config, credentials)
        finally:
            credentials.close()
    return Joined(federation=reply.directory.federation, revision=reply.revision, context=context)


def join_remote(config: JoinConfig, token: JoinToken) -> Joined:
    """Make a remote cluster known; it uses its home's trust domain and controllers."""
    _check_token(token, config.cluster.name)
    section = config.cluster
    if section.role != "remote":
        raise InvalidInputError(
            f'cluster.role: {section.role!r}: expected "remote"; others have a controller to run'
        )
    spec = cluster_spec_of(section)
    if not spec.trust_domain:
        spec = msgspec.structs.replace(spec, trust_domain=token.trust_domain)
    reply = _post(JoinRequest(secret=token.secret, cluster=section.name, spec=spec), token)
    return Joined(federation=reply.directory.federation, revision=reply.revision, context=None)


def forecast_join(
    config: ControllerConfig | JoinConfig, token: JoinToken, services: tuple[ExpectedService, ...]
) -> Forecast:
    """Ask what a join by this configuration would change. Makes no key and no file, and uses no token up."""
    _check_token(token, config.cluster.name)
    spec = cluster_spec_of(config.cluster)
    if not spec.trust_domain:
        spec = msgspec.structs.replace(spec, trust_domain=token.trust_domain)
    controller = None
    if isinstance(config, ControllerConfig):
        identity = system_id(spec.trust_domain, config.cluster.name, "controller", config.id)
        controller = named_controller(config, str(identity))
    request = ForecastRequest(
        secret=token.secret,
        cluster=config.cluster.name,
        spec=spec,
        controller=controller,
        services=services,
    )
    answer = ApiClient.of_token(token).call("POST", "/v1/join/forecast", msgspec.json.encode(request))
    try:
        return msgspec.json.decode(answer, type=Forecast)
    except MALFORMED as error:
        raise InvalidInputError(f"the controller's answer cannot be read: {error}") from error


def _check_token(token: JoinToken, cluster: str) -> None:
    if token.purpose != "cluster" or token.cluster != cluster:
        raise InvalidInputError(
            f"the token lets a {token.purpose} into cluster {token.cluster}, the configuration is of cluster {cluster}"
        )


def _post(request: JoinRequest, token: JoinToken) -> JoinReply:
    answer = ApiClient.of_token(token).call("POST", "/v1/join", msgspec.json.encode(request))
    try:
        return msgspec.json.decode(answer, type=JoinReply)
    except MALFORMED as error:
        raise InvalidInputError(f"the controller's answer to join cannot be read: {error}") from error

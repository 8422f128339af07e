"""An operator's context: where the API is, whom it must prove to be, and the operator's own certificate.

DIRECTORY/context.toml    cluster, trust domain, API addresses
DIRECTORY/roots.pem       the roots of that trust domain
DIRECTORY/identity.pem    the operator's key and chain (0600)
"""

from pathlib import Path

from certs.core.bundle import Bundles, make_bundle
from certs.core.certificate import from_pem
from certs.core.spiffe import system_id
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from certs.runtime.keystore import write_private
from federation.app.config import ControllerConfig
from federation.app.credentials import Credentials
from federation.kernel.configfile import Section, decode_config, host_port
from federation.kernel.errors import BadIdentityError, NotFoundError

CONTEXT_FILE = "context.toml"
ROOTS_FILE = "roots.pem"
OPERATOR_DIRECTORY = "operator"


class ContextFile(Section, frozen=True, kw_only=True):
    """`context.toml`."""

    cluster: str
    trust_domain: str
    api: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the addresses."""
        if not self.api:
            raise ValueError("api is empty: expected at least one host:port")
        for address in self.api:
            host_port(address, "api")


class Context:
    """What a command needs to call a controller."""

    def __init__(self, file: ContextFile, identity: LeafIdentity, bundles: Bundles) -> None:
        self.file = file
        self.identity = identity
        self.bundles = bundles


def open_context(directory: Path) -> Context:
    """Read the context in `directory`; raises NotFoundError, InvalidInputError or BadIdentityError naming the file."""
    path = directory / CONTEXT_FILE
    try:
        text = path.read_text()
        roots = (directory / ROOTS_FILE).read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{error.filename}: {error.strerror}: name an operator's context with --context or ISTHMUS_CONTEXT;"
            " isthmus init and isthmus cluster join make one in DATA_DIR/operator"
        ) from error
    file = decode_config(text, ContextFile, path=str(path))
    bundle = make_bundle(file.trust_domain, from_pem(roots, where=str(directory / ROOTS_FILE)))
    identity = LeafIdentity.load(directory)
    if identity.installed and identity.not_after <= utc_now():
        raise BadIdentityError(
            f"{identity.path} expired at {identity.not_after.isoformat()}: a controller that runs renews it in its"
            " DATA_DIR/operator: start it, or copy that directory anew"
        )
    return Context(file, identity, {file.trust_domain: bundle})


def write_context(config: ControllerConfig, credentials: Credentials, *, name: str = "admin") -> Path:
    """Make the operator's context of a controller, or renew it at half its life; return its directory."""
    directory = Path(config.data_dir) / OPERATOR_DIRECTORY
    identity = LeafIdentity.load(directory)
    if identity.is_due(utc_now()):
        operator = system_id(config.cluster.trust_domain, config.cluster.name, "operator", name)
        issued = credentials.authority.sign_leaf(identity.create_csr(), operator)
        identity.install(issued.chain_der)
    # Each at once: a command may be reading them.
    write_private(directory / ROOTS_FILE, credentials.root.bundle().pem())
    context = (
        f'cluster = "{config.cluster.name}"\n'
        f'trust_domain = "{config.cluster.trust_domain}"\n'
        f'api = ["{config.listen.api}"]\n'
    )
    write_private(directory / CONTEXT_FILE, context.encode())
    return directory

"""The keys of one controller: its trust domain's root, its own intermediate, its own leaf.

    data_dir/authority/root.json     the root's key, encrypted under the passphrase
    data_dir/authority/              the intermediate's key and chain, the issuance log
    data_dir/identity/               the controller's leaf

The root signs this controller's intermediate, the intermediate signs leaves. Both are renewed here at
half their life, so that a controller that runs needs no hands.
"""

import asyncio
import random
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from certs.core.issuance import csr_public_key
from certs.core.spiffe import SpiffeId, system_id
from certs.runtime.authority import ROOT_FILE, Authority, RootAuthority
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from certs.runtime.keystore import make_private_directory, read_private, write_private
from federation.app.config import ControllerConfig
from federation.kernel.errors import CorruptError, IsthmusError, PreconditionError

AUTHORITY_DIRECTORY = "authority"
IDENTITY_DIRECTORY = "identity"
PASSPHRASE_FILE = "passphrase"  # noqa: S105 - a file name

_CHECK_S = 60.0

_log = structlog.get_logger("credentials")


class Credentials:
    """Opens, makes and renews a controller's keys. Methods wait for the disk."""

    def __init__(
        self,
        root: RootAuthority,
        authority: Authority,
        leaf: LeafIdentity,
        spiffe_id: SpiffeId,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.root = root
        self.authority = authority
        self.leaf = leaf
        self.spiffe_id = spiffe_id
        self._clock = clock

    @classmethod
    def create(cls, config: ControllerConfig) -> "Credentials":
        """Make a new trust domain's root and this controller's keys; the same root again if it was made.

        Making it twice happens when a join was cut short: the token is bound to the first root.
        """
        data_dir = Path(config.data_dir)
        make_private_directory(data_dir)
        directory = data_dir / AUTHORITY_DIRECTORY
        if not config.root_passphrase_file and not (data_dir / PASSPHRASE_FILE).exists():
            write_private(data_dir / PASSPHRASE_FILE, secrets.token_urlsafe(32).encode())
        if not (directory / ROOT_FILE).exists():
            RootAuthority.create(config.cluster.trust_domain).save(directory, _passphrase(config))
        return cls.open(config)

    @classmethod
    def open(cls, config: ControllerConfig) -> "Credentials":
        """Read the keys of `config.data_dir`, renewing what is due.

        Raises PreconditionError if the controller was never founded or joined, BadIdentityError for a
        wrong passphrase, CorruptError for a damaged file.
        """
        data_dir = Path(config.data_dir)
        directory = data_dir / AUTHORITY_DIRECTORY
        if not (directory / ROOT_FILE).exists():
            raise PreconditionError(
                f"{directory / ROOT_FILE} does not exist: run isthmus init (a new federation) or"
                " isthmus cluster join (an existing one) first"
            )
        try:
            root = RootAuthority.open(directory, _passphrase(config))
        except UnicodeDecodeError as error:
            raise CorruptError(f"{directory / ROOT_FILE} is damaged: it is not text") from error
        if root.trust_domain != config.cluster.trust_domain:
            raise PreconditionError(
                f"{directory / ROOT_FILE} is the root of {root.trust_domain}, the configuration says {config.cluster.trust_domain}"
            )
        spiffe_id = system_id(root.trust_domain, config.cluster.name, "controller", config.id)
        leaf = LeafIdentity.load(data_dir / IDENTITY_DIRECTORY)
        credentials = cls(root, Authority.open(directory), leaf, spiffe_id)
        credentials.renew()
        return credentials

    def renew(self) -> None:
        """Make the intermediate, then the leaf, where one is due; a clock from before the root makes none."""
        now = self._clock()
        intermediate = self.authority.intermediate
        if intermediate.installed and now < self.root.not_before:
            _log.error(
                "clock_is_behind", now=now.isoformat(), root_since=self.root.not_before.isoformat()
            )  # What it has is good for everybody else, and for this machine when its clock is set.
            return
        if intermediate.is_due(now):
            key = csr_public_key(intermediate.create_csr())
            intermediate.install([self.root.sign_intermediate(key)])
            _log.info("intermediate_renewed", not_after=intermediate.not_after.isoformat())
        if self.leaf.is_due(now) or self.leaf.spiffe_id != self.spiffe_id:
            self.authority.issue_own_leaf(self.leaf, self.spiffe_id)
            _log.info("leaf_renewed", not_after=self.leaf.not_after.isoformat())

    async def run(self) -> None:
        """Renew in time, until cancelled; what fails is tried again and said."""
        while True:
            await asyncio.sleep(_CHECK_S * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            try:
                await asyncio.to_thread(self.renew)
            except IsthmusError as error:
                _log.error("renewal_failed", error=error.message, leaf_ends=self.leaf.not_after.isoformat())

    def close(self) -> None:
        """Let go of the issuance log."""
        self.authority.close()


def _passphrase(config: ControllerConfig) -> bytes:
    path = Path(config.root_passphrase_file or Path(config.data_dir) / PASSPHRASE_FILE)
    return read_private(path).strip()
